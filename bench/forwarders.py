"""What could carry an agent's two ways instead of Incus's proxy devices, alternating with them.

`.venv/bin/python -m bench.forwarders FILE`: FILE is an image made by `taos image build`. One way
leads from the agent to the model gateway (`model`), one from the host to the agent (`door`); at
both ends stands the same small web server. Carried are they by

- `proxy`: a proxy device of Incus, as taOS does;
- `forwarder`: systemd-socket-proxyd in the instance, between a port and a socket in a shared folder;
- `socket`: nothing, the agent's program opens the socket in the shared folder itself;
- `bridge`: TCP over the bridge to systemd-socket-proxyd in the instance;
- `tls`: TLS over the bridge, spoken by both ends themselves;
- `exec`: a command that Incus starts in the instance for each question.

Processor time is that of client, server and carrier together, so that no way hides its cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common import incus, keep, remove_project, until
from tinyagentos.incus import Incus

ROUNDS = 100
BURST = 200
LOADS = 5
STARTS = 5
EXECS = 20
MIB = 1 << 20
LOAD_BYTES = 128 * MIB
INSTANCE = "agent"
Words = tuple[str, ...]
# Not below /run: the instance's systemd puts a file system of its own there when it boots.
INSIDE = "/srv/bench"
PORT, BRIDGE_PORT, TLS_PORT, MODEL_PROXY, MODEL_FORWARDER = 18789, 18790, 18791, 4000, 4001

# Both run with nothing but Python's own library: on the host and in the instance alike.
SERVER = r"""
import asyncio, os, ssl, sys
async def answer(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.split(b" ")[1].strip(b"/") or b"2")
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
    while size:
        some = min(size, 1 << 16)
        writer.write(bytes(some))
        size -= some
        await writer.drain()
    writer.close()
async def main():
    kept = []
    for where in sys.argv[2:]:
        kind, _, rest = where.partition(":")
        if kind == "unix":
            if os.path.exists(rest):
                os.unlink(rest)
            kept.append(await asyncio.start_unix_server(answer, rest))
            os.chmod(rest, 0o666)
            continue
        tls = None
        if kind == "tls":
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(sys.argv[1])
        host, port = rest.split(":")
        kept.append(await asyncio.start_server(answer, host, int(port), ssl=tls))
    await asyncio.Event().wait()
asyncio.run(main())
"""
CLIENT = r"""
import json, socket, ssl, sys, time
def ask(where, size, pem):
    kind, _, rest = where.partition(":")
    begun = time.monotonic()
    if kind == "unix":
        end = socket.socket(socket.AF_UNIX)
        end.connect(rest)
    else:
        host, port = rest.split(":")
        end = socket.create_connection((host, int(port)))
    if kind == "tls":
        end = pem.wrap_socket(end, server_hostname="bench")
    end.sendall(b"GET /%d HTTP/1.1\r\nHost: bench\r\n\r\n" % size)
    got = len(end.recv(1 << 20))
    first = time.monotonic() - begun
    if not got:
        raise SystemExit("no answer from " + where)
    while some := len(end.recv(1 << 20)):
        got += some
    end.close()
    if got < size:
        raise SystemExit(f"{got} of {size} bytes from {where}")
    return first, time.monotonic() - begun
pem, size, rounds, ways = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
trust = ssl.create_default_context(cafile=pem)
begun = time.process_time()
times = [[ask(way, size, trust) for way in ways] for _ in range(rounds)]
print(json.dumps({"times": times, "cpu": time.process_time() - begun}))
"""


@dataclass(frozen=True)
class Way:
    """One way of one direction; carrier: words in the command line of who carries it."""

    name: str
    address: str
    carrier: Words = ()


@dataclass(frozen=True)
class Direction:
    """Where the client runs, the ways it has, and words in the server's command line."""

    name: str
    ways: tuple[Way, ...]
    server: Words

    def run(self, bench: Bench, ways: tuple[Way, ...], size: int, rounds: int) -> dict[str, Any]:
        """The client's times, by round and way, and its processor seconds."""
        given = [str(size), str(rounds), *(way.address for way in ways)]
        if self.name == "door":
            said = subprocess.run(
                [sys.executable, "-c", CLIENT, str(bench.pem), *given],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
        else:
            said = bench.inside("python3", "-c", CLIENT, "/root/bench.pem", *given)
        answer: dict[str, Any] = json.loads(said)
        return answer


class Bench:
    """An instance with all ways to and from it."""

    def __init__(self, image: str, folder: Path, project: str) -> None:
        self.folder, self.project, self.pem = folder, project, folder / "bench.pem"
        self.shared = folder / "shared"
        self.server: subprocess.Popen[bytes] | None = None
        incus("image", "import", image, "--alias", "bench", "--quiet", project=project)
        incus("init", "bench", INSTANCE, "-c", "security.idmap.isolated=true", project=project)

    def inside(self, *argv: str, stdin: bytes | None = None) -> str:
        """What the command in the instance says."""
        return incus("exec", INSTANCE, "--", *argv, project=self.project, stdin=stdin)

    def device(self, verb: str, name: str, *keys: str) -> float:
        """Change a device of the instance; seconds."""
        begun = time.monotonic()
        incus("config", "device", verb, INSTANCE, name, *keys, project=self.project)
        return time.monotonic() - begun

    def add_share(self) -> float:
        """Share the folder. Its parent is for its owner only; who is inside comes by the mount."""
        return self.device("add", "shared", "disk", f"source={self.shared}", f"path={INSIDE}")

    def add_proxies(self) -> float:
        """Add both proxy devices of taOS."""
        return self.device(
            "add", "door", "proxy", "bind=host", f"listen=unix:{self.folder}/proxy.sock",
            f"connect=tcp:127.0.0.1:{PORT}", "mode=0600",
        ) + self.device(
            "add", "model", "proxy", "bind=instance", f"listen=tcp:127.0.0.1:{MODEL_PROXY}",
            f"connect=unix:{self.shared}/model.sock",
        )  # fmt: skip

    def serve(self, gateway: str) -> None:
        """Have the host's web server, in place of the one before."""
        if self.server:
            self.server.kill()
            self.server.wait()
        addresses = (f"unix:{self.shared}/model.sock", f"tls:{gateway}:{TLS_PORT}")
        self.server = subprocess.Popen([sys.executable, "-c", SERVER, str(self.pem), *addresses])
        until(lambda: answers(self.shared / "model.sock"))

    def put_units(self) -> None:
        """Have the forwarders' units and the agent's web server in the instance."""
        for name, listen, target in (
            ("model", f"127.0.0.1:{MODEL_FORWARDER}", f"{INSIDE}/model.sock"),
            ("door", f"{INSIDE}/agent.sock", f"127.0.0.1:{PORT}"),
            ("bridge", f"0.0.0.0:{BRIDGE_PORT}", f"127.0.0.1:{PORT}"),
        ):
            socket = f"[Socket]\nListenStream={listen}\nSocketMode=0666\n"
            # The words after the target only mark the process for who looks for it.
            service = (
                "[Service]\nExecStart=/usr/lib/systemd/systemd-socket-proxyd "
                f"--connections-max={256 + len(name)} {target}\n"
            )
            for kind, text in (("socket", socket), ("service", service)):
                path = f"/etc/systemd/system/bench-{name}.{kind}"
                self.inside("sh", "-c", f"cat > {path}", stdin=text.encode())
        self.inside("sh", "-c", "cat > /root/server.py", stdin=SERVER.encode())
        self.inside("sh", "-c", "cat > /root/bench.pem", stdin=self.pem.read_bytes())
        self.inside("systemctl", "daemon-reload")
        self.inside(
            "systemd-run", "--quiet", "--unit=bench-agent", "python3", "/root/server.py",
            "/root/bench.pem", f"tcp:127.0.0.1:{PORT}", f"tls:0.0.0.0:{TLS_PORT}",
        )  # fmt: skip

    def start_forwarders(self) -> float:
        """Have systemd in the instance listen; seconds."""
        begun = time.monotonic()
        units = [f"bench-{name}.socket" for name in ("model", "door", "bridge")]
        self.inside("systemctl", "start", *units)
        return time.monotonic() - begun

    def address(self) -> str:
        """The instance's IPv4 address, empty while it has none."""
        said = self.inside("ip", "-4", "-o", "address", "show", "dev", "eth0")
        return said.split()[3].split("/")[0] if said.split() else ""

    def directions(self, gateway: str) -> tuple[Direction, Direction]:
        """Every way there is."""
        proxyd = "systemd-socket-proxyd"
        at_gateway = f"unix:{self.shared}/model.sock"
        model = (
            Way("proxy", f"tcp:127.0.0.1:{MODEL_PROXY}", ("forkproxy", at_gateway)),
            Way("forwarder", f"tcp:127.0.0.1:{MODEL_FORWARDER}", (proxyd, "--connections-max=261")),
            Way("socket", f"unix:{INSIDE}/model.sock"),
            Way("tls", f"tls:{gateway}:{TLS_PORT}"),
        )
        address = self.address()
        door = (
            Way(
                "proxy",
                f"unix:{self.folder}/proxy.sock",
                ("forkproxy", f"{self.folder}/proxy.sock"),
            ),
            Way("forwarder", f"unix:{self.shared}/agent.sock", (proxyd, "--connections-max=260")),
            Way("bridge", f"tcp:{address}:{BRIDGE_PORT}", (proxyd, "--connections-max=262")),
            Way("tls", f"tls:{address}:{TLS_PORT}"),
        )
        return (
            Direction("model", model, (str(self.pem), at_gateway)),
            Direction("door", door, ("/root/server.py", "/root/bench.pem")),
        )


def answers(socket: Path) -> bool:
    """Whether somebody listens at the socket."""
    asked = ["curl", "-s", "--unix-socket", str(socket), "http://bench/2"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def processes(words: Words) -> list[Path]:
    """Processes, as folders of /proc, with all these words in the command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes()
            if words and all(word.encode() in line for word in words):
                found.append(process)
    return found


def cpu_seconds(words: Words) -> float:
    """Processor seconds that they used so far."""
    total = 0.0
    for process in processes(words):
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def memory_bytes(words: Words) -> dict[str, int]:
    """What they alone hold, and with their part of what is shared with others."""
    sums = {"Pss": 0, "Private": 0}
    for process in processes(words):
        for line in (process / "smaps_rollup").read_text().splitlines():
            for kind in sums:
                if line.startswith(f"{kind}_" if kind == "Private" else f"{kind}:"):
                    sums[kind] += int(line.split()[1]) * 1024
    return sums


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: median and 95 of 100."""
    return {
        "median_ms": round(statistics.median(seconds) * 1000, 2),
        "p95_ms": round(statistics.quantiles(seconds, n=20)[-1] * 1000, 2),
    }


def measure(bench: Bench, direction: Direction) -> dict[str, Any]:
    """All ways of a direction: one question after the other in turn, loads, bursts."""
    direction.run(bench, direction.ways, 2, 5)  # what is started on demand runs
    asked = direction.run(bench, direction.ways, 2, ROUNDS)["times"]
    loaded = direction.run(bench, direction.ways, LOAD_BYTES, LOADS)["times"]
    figures: dict[str, Any] = {}
    for number, way in enumerate(direction.ways):
        whole = statistics.median(load[number][1] for load in loaded)
        figures[way.name] = {
            **quantiles([round_[number][0] for round_ in asked]),
            "mib_per_s": round(LOAD_BYTES / MIB / whole),
            "cpu_ms_per_ask": round(burst(bench, direction, way, 2, BURST) * 1000, 2),
            "cpu_ms_per_100_mib": round(
                burst(bench, direction, way, LOAD_BYTES, 2) * 1000 / (LOAD_BYTES / MIB / 100)
            ),
        }
        if way.carrier:
            held = memory_bytes(way.carrier)
            figures[way.name] |= {
                "carriers": len(processes(way.carrier)),
                "private_mib": round(held["Private"] / MIB, 1),
                "pss_mib": round(held["Pss"] / MIB, 1),
            }
    return figures


def burst(bench: Bench, direction: Direction, way: Way, size: int, rounds: int) -> float:
    """Processor seconds of one question: client, carrier and server."""
    before = cpu_seconds(way.carrier) + cpu_seconds(direction.server)
    client = direction.run(bench, (way,), size, rounds)["cpu"]
    after = cpu_seconds(way.carrier) + cpu_seconds(direction.server)
    return float(client + after - before) / rounds


def measure_starts(bench: Bench) -> dict[str, Any]:
    """Seconds that Incus takes to start the instance with each kind of device, in turn."""
    times: dict[str, list[float]] = {"neither": [], "proxies": [], "share": []}
    added: dict[str, list[float]] = {"proxies": [], "share": []}
    for _ in range(STARTS):
        for kind, found in times.items():
            if kind == "proxies":
                bench.add_proxies()
            if kind == "share":
                bench.add_share()
            begun = time.monotonic()
            incus("start", INSTANCE, project=bench.project)
            found.append(time.monotonic() - begun)
            if kind == "neither":
                added["proxies"].append(bench.add_proxies())
                added["share"].append(bench.add_share())
            incus("stop", "--force", INSTANCE, project=bench.project)
            names = {"neither": ("door", "model", "shared"), "proxies": ("door", "model")}
            for name in names.get(kind, ("shared",)):
                bench.device("remove", name)
    median = {name: round(statistics.median(found), 2) for name, found in times.items()}
    return {
        "start_s": median,
        "added_running_s": {
            name: round(statistics.median(found), 2) for name, found in added.items()
        },
    }


async def measure_exec(project: str) -> dict[str, float]:
    """A question by a command that Incus starts in the instance."""
    times = []
    async with Incus.unix("/var/lib/incus/unix.socket", project=project) as daemon:
        for _ in range(EXECS):
            begun = time.monotonic()
            argv = ("curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{PORT}/2")
            result = await daemon.instances.exec(INSTANCE, argv, within=30)
            assert result.exit_code == 0
            times.append(time.monotonic() - begun)
    return quantiles(times)


def measure_restart(bench: Bench, gateway: str) -> dict[str, float]:
    """Milliseconds from the first connection that the new server takes to an answer inside."""
    bench.serve(gateway)
    waits = {}
    for way in bench.directions(gateway)[0].ways:
        begun = time.monotonic()
        bench.inside("python3", "-c", CLIENT, "/root/bench.pem", "2", "1", way.address)
        waits[way.name] = round((time.monotonic() - begun) * 1000)
    return waits


@contextlib.contextmanager
def made(image: str) -> Iterator[Bench]:
    """A bench in a project and a folder of its own; everything is removed at the end."""
    project = f"taos-fwd-{secrets.token_hex(3)}"
    folder = Path(tempfile.mkdtemp(prefix="taos-fwd-"))
    folder.joinpath("shared").mkdir()
    folder.joinpath("shared").chmod(0o777)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=bench",
         "-addext", "subjectAltName=DNS:bench", "-keyout", folder / "key", "-out", folder / "crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    pem = (folder / "key").read_bytes() + (folder / "crt").read_bytes()
    (folder / "bench.pem").write_bytes(pem)
    incus("project", "create", project, "-c", "features.images=true",
          "-c", "features.profiles=true", "-c", "features.storage.volumes=true")  # fmt: skip
    bench = None
    try:
        profile = incus("profile", "show", "default", project="taos")
        incus("profile", "edit", "default", project=project, stdin=profile.encode())
        bench = Bench(image, folder, project)
        yield bench
    finally:
        if bench and bench.server:
            bench.server.kill()
        remove_project(project)
        shutil.rmtree(folder)


def main() -> None:
    """Measure every way, in both directions."""
    with made(sys.argv[1]) as bench:
        figures: dict[str, Any] = measure_starts(bench)
        bench.add_share()
        incus("start", INSTANCE, project=bench.project)
        until(lambda: bench.address())
        gateway = bench.inside("ip", "-4", "route", "show", "default").split()[2]
        bench.serve(gateway)
        bench.put_units()
        bench.add_proxies()
        figures["listen_s"] = round(bench.start_forwarders(), 2)
        for direction in bench.directions(gateway):
            figures[direction.name] = measure(bench, direction)
        figures["door"]["exec"] = asyncio.run(measure_exec(bench.project))
        figures["after_server_restart_ms"] = measure_restart(bench, gateway)
        keep("forwarders", figures)


if __name__ == "__main__":
    main()
