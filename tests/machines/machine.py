"""A machine in systemd-nspawn: its own root, network and loop devices, systemd as process 1.

The root of a distribution is made once with mmdebstrap and kept; each machine begins as a copy of
it on a disk of its own (a sparse file), and reaches what this host reaches.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOTS = Path("/var/cache/taos-machines")
# Raise it when what a root is made of changes.
GENERATION = 1
DISK_BYTES = 20 * 2**30
LOOPS = 16
BOOT_WITHIN = 90.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PERSON = "ann"
# Certificates that this host trusts beside its distribution's, as behind a company's proxy.
HOST_CERTIFICATES = Path("/usr/local/share/ca-certificates")
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True)
class Distribution:
    """What a machine runs. packages: beside a minimal system with systemd."""

    name: str
    suite: str
    packages: tuple[str, ...]


DEBIAN_13 = Distribution(
    "debian13",
    "trixie",
    (
        "systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "sudo", "iproute2",
        "nftables", "ca-certificates",
    ),
)  # fmt: skip


def run(*argv: str | Path, within: float = 60, **more: object) -> str:
    """What a command of this host printed; it must succeed."""
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=within, check=False, **more,  # type: ignore[call-overload]
    )  # fmt: skip
    assert done.returncode == 0, f"{argv}: {done.stdout}"
    return str(done.stdout)


def ensure_root(distribution: Distribution) -> Path:
    """The distribution's root in a folder, made when it is not there."""
    root = ROOTS / f"{distribution.name}-{GENERATION}"
    if root.exists():
        return root
    ROOTS.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="part-", dir=ROOTS) as folder:
        part = Path(folder) / "root"
        run(
            "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=directory",
            f"--include={','.join(distribution.packages)}",
            '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"',
            distribution.suite, part, within=600,
        )  # fmt: skip
        settle(part, distribution.name)
        with contextlib.suppress(OSError):  # another test was quicker
            part.rename(root)
    return root


def settle(root: Path, name: str) -> None:
    """A person with sudo, and the name servers, proxies and certificates of this host."""
    (root / "etc/hostname").write_text(f"{name}\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
    names = root / "etc/resolv.conf"
    names.unlink(missing_ok=True)
    shutil.copy("/etc/resolv.conf", names)
    run("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", PERSON)
    sudo = root / "etc/sudoers.d" / PERSON
    sudo.write_text(
        f'Defaults env_keep += "{" ".join(PROXIES)}"\n{PERSON} ALL=(ALL) NOPASSWD: ALL\n'
    )
    sudo.chmod(0o440)
    environment = [f"{key}={os.environ[key]}\n" for key in PROXIES if os.environ.get(key)]
    (root / "etc/environment").write_text("".join(environment))
    if HOST_CERTIFICATES.is_dir():
        shutil.copytree(HOST_CERTIFICATES, root / HOST_CERTIFICATES.relative_to("/"),
                        dirs_exist_ok=True)  # fmt: skip
        run("chroot", root, "update-ca-certificates")
    if (pip := Path("/etc/pip.conf")).is_file():
        shutil.copy(pip, root / "etc/pip.conf")
    run("chroot", root, "systemctl", "enable", "--quiet", "systemd-networkd")


class Machine:
    """One machine. on(), off() and cut() may follow each other as on a real one."""

    def __init__(self, name: str, folder: Path, subnet: str) -> None:
        """name: at most 8 letters; subnet: the first three numbers of its network to this host."""
        self.name = name
        self.subnet = subnet
        self._folder = folder
        self._link = f"ve-{name}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        """Its disk, as this host sees it."""
        return self._folder / "root"

    def make(self, distribution: Distribution) -> None:
        """Give it a disk with the distribution on it, and a way to the network."""
        source = ensure_root(distribution)
        disk = self._folder / "disk"
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        run("mkfs.ext4", "-q", disk)
        self.root.mkdir()
        run("mount", "-o", "loop", disk, self.root)
        run("cp", "-a", f"{source}/.", self.root, within=120)
        networks = self.root / "etc/systemd/network"
        networks.mkdir(parents=True, exist_ok=True)
        (networks / "10-up.network").write_text(
            f"[Match]\nName=host0\n[Network]\nAddress={self.subnet}.2/24\nGateway={self.subnet}.1\n"
        )
        rules = f"""table ip {self.name} {{
            chain post {{
                type nat hook postrouting priority 100
                ip saddr {self.subnet}.0/24 oifname != "{self._link}" masquerade
            }}
        }}"""
        run("nft", rules)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def on(self) -> None:
        """Switch it on; return when systemd has started all it starts at boot."""
        ensure_loops()
        loops = [f"--bind=/dev/loop{number}" for number in range(LOOPS)]
        with (self._folder / "console").open("ab") as console:
            self._process = subprocess.Popen(
                [
                    "unshare", "--mount", "--propagation=slave",
                    "systemd-nspawn", "--quiet", f"--directory={self.root}", "--boot",
                    f"--machine={self.name}", "--register=no", "--keep-unit", "--network-veth",
                    "--capability=all", "--bind=/dev/loop-control", *loops, "--console=pipe",
                ],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )  # fmt: skip
        wait_until(lambda: Path("/sys/class/net", self._link).exists(), 30, self.said)
        run("ip", "address", "add", f"{self.subnet}.1/24", "dev", self._link)
        run("ip", "link", "set", self._link, "up")
        # As root what it says is no failure of the boot: a container loads no kernel modules.
        wait_until(lambda: self.state() in ("running", "degraded"), BOOT_WITHIN, self.said)

    def off(self) -> None:
        """Shut it down as its power button does."""
        process = self._alive()
        os.kill(self._systemd(), signal.SIGRTMIN + 4)  # systemd(1): poweroff
        process.wait(timeout=120)
        self._process = None

    def cut(self) -> None:
        """Take its power away."""
        process = self._alive()
        os.kill(self._systemd(), signal.SIGKILL)
        process.wait(timeout=60)
        self._process = None

    def remove(self) -> None:
        """Leave nothing of it on this host."""
        if self._process:
            with contextlib.suppress(OSError, AssertionError):
                os.kill(self._systemd(), signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=30)
            self._process.kill()
        subprocess.run(
            ["nft", "delete", "table", "ip", self.name], check=False, capture_output=True
        )
        subprocess.run(["umount", "--lazy", self.root], check=False, capture_output=True)

    def state(self) -> str:
        """What systemd says of itself."""
        with contextlib.suppress(OSError, AssertionError):
            return self.call("systemctl", "is-system-running", within=20).stdout.strip()
        return "off"

    def call(self, *argv: str, within: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root."""
        enter = ("nsenter", "-t", str(self._systemd()), "-m", "-u", "-i", "-n", "-p", "-C", "--")
        return subprocess.run(
            [*enter, "env", "-i", f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8", *argv],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=within, check=False,
        )  # fmt: skip

    def root_says(self, *argv: str, within: float = 60) -> str:
        """What a command of root printed; it must succeed."""
        done = self.call(*argv, within=within)
        assert done.returncode == 0, f"{argv}: {done.stdout}\n{self.said()[-2000:]}"
        return done.stdout

    def person_says(self, command: str, within: float = 60) -> str:
        """What a line typed by the ordinary person printed; it must succeed."""
        return self.root_says("su", "--login", PERSON, "-c", command, within=within)

    def give(self, files: dict[str, Path], to: str) -> None:
        """Put files of this host below the person's home, as theirs."""
        folder = self.root / "home" / PERSON / to
        owner = (folder.parent.stat().st_uid, folder.parent.stat().st_gid)
        for name, path in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target, follow_symlinks=False)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, *owner, follow_symlinks=False)

    def said(self) -> str:
        """What its console showed."""
        return (self._folder / "console").read_text(errors="replace")

    def _alive(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the machine is off"
        return self._process

    def _systemd(self) -> int:
        """Its process 1, by its number on this host."""
        pid = self._alive().pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert found, f"the machine does not run: {self.said()[-2000:]}"
        return int(found[0])


def ensure_loops() -> None:
    """Have the nodes of the loop devices: the machine's own pool is on one."""
    for number in range(LOOPS):
        if not (node := Path(f"/dev/loop{number}")).exists():
            os.mknod(node, 0o600 | 0o060000, os.makedev(7, number))


def wait_until(is_so: Callable[[], bool], within: float, said: Callable[[], str]) -> None:
    """Return when it is so; AssertionError with what was said when it does not come about."""
    until = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < until, f"not within {within:.0f} s: {said()[-2000:]}"
        time.sleep(0.2)


@contextlib.contextmanager
def machine(name: str, distribution: Distribution, subnet: str) -> Iterator[Machine]:
    """A machine that is switched on; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix=f"taos-{name}-", dir="/var/tmp") as folder:
        made = Machine(name, Path(folder), subnet)
        try:
            made.make(distribution)
            made.on()
            yield made
        finally:
            made.remove()
