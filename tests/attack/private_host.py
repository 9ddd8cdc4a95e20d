"""A host of a test's own: namespaces with an Incus, the internet and a home network behind it.

What a test does to the firewall or to Incus in there does not touch this machine's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

from bench.common import ROOT, Server
from tests.fakes.tiny_image import build_unified, serve
from tinyagentos.factory.recipe import load_recipe
from tinyagentos.host.facts import host_arch

INCUSD = next(
    (path for path in map(Path, ("/usr/libexec/incus/incusd", "/usr/lib/incus/incusd"))
     if path.exists()), Path("/opt/incus/bin/incusd"),
)  # fmt: skip
# Addresses of a documentation range (RFC 5737) and of a home.
INTERNET, HOME, OUTSIDE = "203.0.113.10", "192.168.77.10", "out"
PORT = 18080
INIT = """
set -e
ip link set lo up
for path in /var/lib/incus /var/log/incus /var/cache/incus; do
    mkdir -p $path {folder}$path; mount --bind {folder}$path $path
done
mkdir -p {folder}/sys; mount -t sysfs sysfs {folder}/sys
mount --rbind /sys/fs/cgroup {folder}/sys/fs/cgroup; mount --rbind {folder}/sys /sys
mount -t tmpfs -o mode=755 tmpfs /run
ip netns add {outside}
ip link add wan type veth peer name eth0 netns {outside}
ip address add 203.0.113.1/24 dev wan; ip address add 192.168.77.1/24 dev wan; ip link set wan up
ip -n {outside} address add {internet}/24 dev eth0; ip -n {outside} address add {home}/24 dev eth0
ip -n {outside} link set eth0 up; ip -n {outside} link set lo up
ip -n {outside} route add default via 203.0.113.1
sysctl -qw net.ipv4.ip_forward=1
{python} -m http.server {port} --directory {folder}/empty &
ip netns exec {outside} {python} -m http.server {port} --directory {folder}/empty &
INCUS_DIR=/var/lib/incus {incusd} --group root &
# It reaps what daemons leave.
while :; do wait -n || sleep 1; done
"""
PRESEED = """
storage_pools: [{name: taos, driver: dir}]
networks: [{name: taosbr0, type: bridge, config: {ipv4.address: 10.87.5.1/24, ipv6.address: none}}]
projects:
- {name: taos, config: {features.images: "true", features.profiles: "true",
   features.storage.volumes: "true", features.networks: "false"}}
"""
PROFILE = """
devices:
  root: {type: disk, path: /, pool: taos}
  eth0: {type: nic, name: eth0, network: taosbr0}
"""
# What the tiny agent's init does for an address.
LEASE = """#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
busybox ifconfig eth0 "$ip" netmask "$subnet"
busybox route add default gw "$router"
"""
NETWORK = "busybox ifconfig eth0 up; busybox udhcpc -i eth0 -b -t 20 -T 1 -s /bin/lease"


class PrivateHost:
    """The host; run() is a root shell on it."""

    def __init__(self, folder: Path, init: subprocess.Popen[bytes], pid: int) -> None:
        self.folder = folder
        self._init = init
        self.prefix = ("nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid")

    def run(self, *argv: str, stdin: str = "", within: float = 60) -> str:
        """The command's output; CalledProcessError tells what it said."""
        ended = self.attempt(*argv, stdin=stdin, within=within)
        assert ended.returncode == 0, f"{argv}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def attempt(
        self, *argv: str, stdin: str = "", within: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run the command, whatever comes of it."""
        return subprocess.run(
            [*self.prefix, *argv], input=stdin, capture_output=True, text=True, timeout=within,
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """The command, running; it ends with the host."""
        return subprocess.Popen([*self.prefix, *argv], stdout=subprocess.PIPE, text=True)

    def incus(self, *argv: str, stdin: str = "", project: str = "taos") -> str:
        """Incus's command line."""
        return self.run("incus", "--project", project, *argv, stdin=stdin)

    def pid_of(self, instance: str) -> str:
        """The instance's process 1, as this host numbers it."""
        shown = json.loads(
            self.run("incus", "query", f"/1.0/instances/{instance}/state?project=taos")
        )
        return str(shown["pid"])

    def inside(self, instance: str, *argv: str) -> tuple[str, ...]:
        """A command of this machine in the instance's network."""
        return ("nsenter", f"--target={self.pid_of(instance)}", "--net", *argv)


@contextlib.contextmanager
def private_host() -> Iterator[PrivateHost]:
    """A host that serves HTTP, as do INTERNET and HOME behind it, with a tiny agent's image."""
    with tempfile.TemporaryDirectory(prefix="taos-host-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "empty").mkdir()
        script = folder / "init.sh"
        script.write_text(INIT.format(
            folder=folder, outside=OUTSIDE, internet=INTERNET, home=HOME, port=PORT,
            python=sys.executable, incusd=INCUSD,
        ))  # fmt: skip
        with (folder / "init.log").open("wb") as log:
            init = subprocess.Popen(
                ["unshare", "--mount", "--propagation=private", "--uts", "--ipc", "--net", "--pid",
                 "--fork", "--kill-child", "--mount-proc", "bash", str(script)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={key: value for key, value in os.environ.items() if key != "INCUS_SOCKET"},
            )  # fmt: skip
        try:
            host = PrivateHost(folder, init, _child_of(init.pid))
            _prepare(host)
            yield host
        finally:
            os.killpg(init.pid, signal.SIGKILL)
            init.wait()
            # Without network it keeps nothing; what Incus mounted goes with the namespace.
            time.sleep(0.2)


def _prepare(host: PrivateHost) -> None:
    until(lambda: host.attempt("test", "-S", "/var/lib/incus/unix.socket").returncode == 0)
    host.run("incus", "admin", "waitready", "--timeout", "60", within=70)
    host.run("incus", "admin", "init", "--preseed", stdin=PRESEED)
    host.incus("profile", "edit", "default", stdin=PROFILE)
    port = load_recipe("openclaw").agent
    services = f"{NETWORK} &\n{serve(port.port, path=port.ready_path.lstrip('/'))}"
    image = build_unified(
        host.folder / "agent.tar.gz", services=services,
        files={"/bin/lease": LEASE.encode(), "/etc/taos/there": b"", "/home/agent/there": b""},
        names_host=True,
        properties={"taos.framework": "openclaw", "taos.version": load_recipe("openclaw").version},
    )  # fmt: skip
    alias = f"openclaw/{host_arch()}"
    host.incus("image", "import", str(image.path), "--alias", alias)


@contextlib.contextmanager
def server_in(host: PrivateHost, **settings: str) -> Iterator[Server]:
    """A taOS server on the host."""
    folder = host.folder / "server"
    folder.mkdir(exist_ok=True)
    taos = Server(folder, "taos", **settings)
    taos.start(*host.prefix)
    try:
        yield taos
    finally:
        kill(taos)


def kill(taos: Server) -> None:
    """End the server on the host as a power cut would: its process is a child of nsenter's."""
    if taos.process and taos.process.poll() is None:
        os.kill(_child_of(taos.process.pid), signal.SIGKILL)
        taos.process.wait()


def _child_of(pid: int, within: float = 10) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    until(lambda: children.read_text().split(), within)
    return int(children.read_text().split()[0])


def until(is_so: object, within: float = 30) -> None:
    """Return when the call says yes; the test fails when that takes longer."""
    assert callable(is_so)
    end = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < end, textwrap.shorten(f"not within {within} s: {is_so}", 200)
        time.sleep(0.05)
