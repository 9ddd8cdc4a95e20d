"""What the measurements share: a server of their own, in an Incus project of their own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"


def incus(*argv: str, project: str = "default", stdin: bytes | None = None) -> str:
    """Run the Incus command line in the project."""
    ended = subprocess.run(
        ["incus", "--project", project, *argv], input=stdin, capture_output=True, check=False
    )
    if ended.returncode:
        raise RuntimeError(f"incus {' '.join(argv)}: {ended.stderr.decode()}")
    return ended.stdout.decode()


class Server:
    """A taOS server with its own data folder and Incus project. root: the checkout it runs from."""

    def __init__(self, folder: Path, project: str, root: Path = ROOT, **settings: str) -> None:
        self.folder = folder
        self.project = project
        self.root = root
        self.socket = folder / "run" / "taos.sock"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            "TAOS_DATA_DIR": str(folder / "data"),
            "TAOS_RUN_DIR": str(folder / "run"),
            "TAOS_INCUS_PROJECT": project,
            "TAOS_PORT": "0",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        transport = httpx.HTTPTransport(uds=str(self.socket))
        self.http = httpx.Client(base_url="http://taos", transport=transport, timeout=30)

    def start(self, *prefix: str) -> float:
        """Start the server; seconds from process start to the first 200 of /api/health."""
        begun = time.monotonic()
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tinyagentos.cli", "serve"],
            cwd=self.root, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        while time.monotonic() - begun < 30:
            with contextlib.suppress(httpx.TransportError):
                if self.http.get("/api/health").status_code == 200:
                    return time.monotonic() - begun
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise RuntimeError((self.folder / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        """End the server as a power cut would."""
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """End the server in order."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)

    def deploy(self, name: str, source: str = "fastest", **more: object) -> dict[str, object]:
        """Ask for a deploy; the job."""
        body = {"name": name, "source": source, **more}
        answer = self.http.post("/api/agents/deploy", json=body)
        answer.raise_for_status()
        job: dict[str, object] = answer.json()["job"]
        return job

    def job(self, job_id: object) -> dict[str, object]:
        """The job now."""
        found: dict[str, object] = self.http.get(f"/api/jobs/{job_id}").json()
        return found

    def wait(self, job_id: object, within: float = 400) -> dict[str, object]:
        """The job when it has ended."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            job = self.job(job_id)
            if job["state"] in ("succeeded", "failed", "cancelled"):
                return job
            time.sleep(0.02)
        raise RuntimeError(f"job {job_id} did not end: {self.job(job_id)}")

    def wait_all(self) -> None:
        """Wait until no job is at work."""
        for job in self.http.get("/api/jobs").json():
            self.wait(job["id"])

    def delete(self, name: str) -> None:
        """Remove the agent."""
        self.wait(self.http.delete(f"/api/agents/{name}").json()["job"]["id"])


@contextlib.contextmanager
def server(root: Path = ROOT, **settings: str) -> Iterator[Server]:
    """A server in a project and folders of its own; everything is removed at the end."""
    project = f"taos-bench-{secrets.token_hex(3)}"
    folder = Path(tempfile.mkdtemp(prefix="taos-bench-"))
    incus(
        "project", "create", project, "-c", "features.images=true", "-c", "features.profiles=true",
        "-c", "features.storage.volumes=true",
    )  # fmt: skip
    profile = incus("profile", "show", "default", project="taos")
    incus("profile", "edit", "default", project=project, stdin=profile.encode())
    made = Server(folder, project, root, **settings)
    try:
        yield made
    finally:
        made.stop()
        remove_project(project)
        shutil.rmtree(folder)


def remove_project(project: str) -> None:
    """Delete the project with all that is in it."""
    for name in names("list", project):
        incus("delete", "--force", name, project=project)
    for pool in json.loads(incus("storage", "list", "--format", "json")):
        listed = incus(
            "storage", "volume", "list", pool["name"], "--format", "json", project=project
        )
        for volume in json.loads(listed):
            if volume["type"] != "custom" or "/" in volume["name"]:
                continue  # a snapshot goes with its volume
            if volume.get("project", project) == project:
                incus("storage", "volume", "delete", pool["name"], volume["name"], project=project)
    for image in json.loads(incus("image", "list", "--format", "json", project=project)):
        incus("image", "delete", image["fingerprint"], project=project)
    incus("project", "delete", project)
    remove_unused_bridges()


def remove_unused_bridges() -> None:
    """Remove the bridges of network policies that no agent of any project is on."""
    for network in json.loads(incus("network", "list", "--format", "json")):
        if network["description"].startswith("taOS network policy ") and not network["used_by"]:
            incus("network", "delete", network["name"])
            incus("network", "acl", "delete", network["name"])
            table = ["nft", "delete", "table", "inet", network["name"]]  # of a server that is gone
            subprocess.run(table, capture_output=True, check=False)


def names(kind: str, project: str) -> list[str]:
    """The names of the project's objects of that kind (`list` for instances)."""
    return [item["name"] for item in json.loads(incus(kind, "--format", "json", project=project))]


def keep(name: str, figures: dict[str, object]) -> None:
    """Print the figures and keep them as the last run."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(figures, indent=2, default=str)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)


def until(what: Callable[[], object], within: float = 30) -> float:
    """Seconds until it is so."""
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < within, "it did not come"
        time.sleep(0.2)
    return time.monotonic() - begun
