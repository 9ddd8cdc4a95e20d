"""What an image is asked before its release: the checks, what is looked at inside the file, and
what can be tried where it cannot be booted. Booting it is agents/smoke.py."""

from __future__ import annotations

import asyncio
import hashlib
import re
import tarfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tinyagentos import proc
from tinyagentos.factory.components import OTHER, Owners, package_of_list
from tinyagentos.factory.image_file import open_image, path_inside, read_member
from tinyagentos.factory.inputs import host_ca_bundle
from tinyagentos.factory.isolation import build_folder
from tinyagentos.factory.target import RootfsTarget
from tinyagentos.incus import IncusError
from tinyagentos.model.errors import SmokeFailed, TaosError
from tinyagentos.model.globs import pattern
from tinyagentos.model.recipe import SmokeLoad, SmokePart
from tinyagentos.model.smoke import Check, CheckState

COMMAND_WITHIN = 120.0
# An emulated processor is twenty times slower; pip without byte code compiles itself first.
EMULATED_WITHIN = 900.0
UNPACK_WITHIN = 600.0
SAID = 300
NAMED = 3
# The agent's user, and what its commands find (the recipes' unit has the same).
AGENT_UID = 1000
AGENT_ENV = {
    "HOME": "/home/agent",
    "LC_ALL": "C.UTF-8",
    "PATH": "/opt/node/bin:/usr/local/bin:/usr/bin:/bin",
}
HOST_CERTIFICATES = Path("/usr/share/ca-certificates")
BINFMT = Path("/proc/sys/fs/binfmt_misc")
QEMU = {"arm64": "qemu-aarch64", "x64": "qemu-x86_64"}

MACHINE_ID = "/etc/machine-id"
# Made at a machine's first boot; in an image they would be the same on every machine.
IDENTITIES = (
    "/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret", "/etc/ssh/ssh_host_", "/etc/hostid",
)  # fmt: skip
NO_IDENTITY = (b"", b"uninitialized")
SHADOW = "/etc/shadow"
OWN_CERTIFICATES = "/usr/local/share/ca-certificates/"
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s+([A-Za-z0-9+/=\s:,-]{64,}?)-----END ")
_NO_PACKAGE = (OTHER, "taos", "caches", "debian:(database)")


class Checks:
    """Carries checks out one after the other, and keeps how each ended."""

    def __init__(self, told: Callable[[Check], None]) -> None:
        self.done: list[Check] = []
        self._told = told

    async def run(self, name: str, work: Callable[[], Awaitable[str]]) -> bool:
        """Whether the work ended well; what it returns or raises becomes the check's detail."""
        begun = time.monotonic()
        try:
            said, state = await work(), CheckState.passed
        except TaosError as error:
            said, state = error.message, CheckState.failed
        except IncusError as error:
            said, state = f"Incus says: {error}", CheckState.failed
        self._keep(Check(name, state, time.monotonic() - begun, said))
        return state is CheckState.passed

    def skip(self, names: Iterable[str], why: str) -> None:
        """These checks could not be run."""
        for name in names:
            self._keep(Check(name, CheckState.not_run, 0.0, why))

    def _keep(self, check: Check) -> None:
        self.done.append(check)
        self._told(check)


@dataclass(frozen=True)
class Pem:
    """A certificate or private key in a file. digest: of its content without white space."""

    path: str
    is_key: bool
    digest: str


@dataclass(frozen=True)
class Look:
    """What the checks need to know of what is inside an image file."""

    files: tuple[str, ...]
    small: Mapping[str, bytes]
    privileged: tuple[str, ...]
    pems: tuple[Pem, ...]
    owners: Owners


def look_inside(path: Path) -> Look:
    """Read the image file once."""
    files: list[str] = []
    privileged: list[str] = []
    pems: list[Pem] = []
    small: dict[str, bytes] = {}
    lists: dict[str, str] = {}
    with open_image(path) as tar:
        for member in tar:
            inside = path_inside(member)
            if not inside or member.isdir():
                continue
            if member.isreg() or member.islnk():
                files.append(inside)
                if has_privilege(member):
                    privileged.append(inside)
            content = read_member(tar, member)
            pems += find_pems(inside, content)
            if inside in (MACHINE_ID, SHADOW):
                small[inside] = content
            if package := package_of_list(inside):
                lists[package] = content.decode(errors="surrogateescape")
    return Look(tuple(files), small, tuple(privileged), tuple(pems), Owners(lists))


def has_privilege(member: tarfile.TarInfo) -> bool:
    """Whether running the file gives rights of another: setuid, setgid, or a capability."""
    return bool(member.mode & 0o6000) or any(
        key.endswith("security.capability") for key in member.pax_headers
    )


def find_pems(path: str, content: bytes) -> Iterator[Pem]:
    """The certificates and private keys in a file's content."""
    if b"-----BEGIN " not in content:
        return
    for found in _PEM.finditer(content):
        is_key = found[1].endswith(b"PRIVATE KEY")
        if is_key or found[1].endswith(b"CERTIFICATE"):
            yield Pem(path, is_key, hashlib.sha256(b"".join(found[2].split())).hexdigest())


def host_certificates(
    bundle: Path | None = None, packaged: Path = HOST_CERTIFICATES
) -> frozenset[str]:
    """The digests of certificates that this host trusts and its distribution did not bring."""
    bundle = bundle or host_ca_bundle()
    if bundle is None or not packaged.is_dir():
        return frozenset()
    trusted = {one.digest for one in find_pems("", bundle.read_bytes())}
    brought = {
        one.digest for file in packaged.rglob("*.crt") for one in find_pems("", file.read_bytes())
    }
    return frozenset(trusted - brought)


def check_identity(look: Look) -> str:
    """Nothing in the image makes two machines of it look like one."""
    content = look.small.get(MACHINE_ID, b"").strip()
    if content not in NO_IDENTITY:
        raise SmokeFailed(f"{MACHINE_ID} is {content.decode(errors='replace')[:40]!r}, not empty.")
    if made := [path for path in look.files if path.startswith(IDENTITIES)]:
        raise SmokeFailed(f"The image has {_name(made)}.")
    return "machine-id is empty, no ssh host key"


def check_secrets(look: Look, host: frozenset[str]) -> str:
    """No certificate or private key is inside that no package brought.

    host: digests of the build host's own certificates, which may be nowhere.
    """
    brought = {one.digest for one in look.pems if _is_packaged(look, one.path)}
    wrong = [
        one.path
        for one in look.pems
        if (not one.is_key and one.digest in host)
        or (one.is_key and not _is_packaged(look, one.path))
        or (not one.is_key and one.digest not in brought)
    ]
    wrong += [path for path in look.files if path.startswith(OWN_CERTIFICATES)]
    if wrong:
        raise SmokeFailed(f"A certificate or key that no package brought is in {_name(wrong)}.")
    certificates = sum(not one.is_key for one in look.pems)
    return f"all {certificates} certificates come from packages"


def check_passwords(look: Look) -> str:
    """No account can be logged into with a password, or without any."""
    open_accounts = [
        line.split(":")[0]
        for line in look.small.get(SHADOW, b"").decode(errors="replace").splitlines()
        if line and not line.split(":")[1].startswith(("!", "*"))
    ]
    if open_accounts:
        raise SmokeFailed(f"{_name(open_accounts)} can be logged into with a password.")
    return "every password is locked"


def check_privileged(look: Look, allowed: Iterable[str]) -> str:
    """No file gives rights that the recipe does not name."""
    if surprise := sorted(set(look.privileged) - set(allowed)):
        raise SmokeFailed(f"The recipe does not name as privileged: {_name(surprise)}.")
    return f"{len(look.privileged)}, all named in the recipe"


def plan_loads(load: SmokeLoad, files: Iterable[str]) -> tuple[str, ...]:
    """The files that have to load; SmokeFailed when one of the patterns matches none."""
    files = tuple(files)
    found: dict[str, None] = {}
    for glob in load.paths:
        matched = [path for path in files if pattern(glob).fullmatch(path)]
        if not matched:
            raise SmokeFailed(f"No file in the image is {glob}.")
        found.update(dict.fromkeys(sorted(matched)))
    return tuple(found)


def join_parts(base: SmokePart, own: SmokePart) -> SmokePart:
    """What base and recipe ask together."""
    return SmokePart(
        (*base.privileged, *own.privileged),
        (*base.commands, *own.commands),
        (*base.loads, *own.loads),
    )


RunAsAgent = Callable[[tuple[str, ...]], Awaitable[str]]


async def check_inside(path: Path, part: SmokePart, checks: Checks) -> Look | None:
    """The checks of what is inside the file; None when it cannot be read."""
    looks: list[Look] = []

    async def read() -> str:
        looks.append(await asyncio.to_thread(look_inside, path))
        return f"{len(looks[0].files)} files"

    if not await checks.run("read the file", read):
        return None
    look = looks[0]
    host = await asyncio.to_thread(host_certificates)
    await checks.run("no identity", _soon(lambda: check_identity(look)))
    await checks.run("no certificate or key of the host", _soon(lambda: check_secrets(look, host)))
    await checks.run("no password", _soon(lambda: check_passwords(look)))
    await checks.run("privileged programs", _soon(lambda: check_privileged(look, part.privileged)))
    return look


async def check_programs(
    part: SmokePart, files: Iterable[str], run: RunAsAgent, checks: Checks
) -> None:
    """The checks that run programs of the image; run: a command, as the agent's user."""
    for load in part.loads:
        await checks.run(load.name, partial(_load_all, load, files, run))
    for command in part.commands:
        await checks.run(command.name, partial(_first_line, command.argv, run))


def program_checks(part: SmokePart) -> tuple[str, ...]:
    """The names of the checks of check_programs()."""
    return (*(one.name for one in part.loads), *(one.name for one in part.commands))


def why_not_runnable(arch: str, host: str, binfmt: Path = BINFMT) -> str:
    """Why programs of the architecture cannot run on this host; nothing when they can."""
    if arch == host:
        return ""
    entry = binfmt / QEMU[arch]
    # F: the kernel holds the emulator open, so that it is found from inside another root.
    registered = entry.read_text().splitlines() if entry.exists() else []
    if "enabled" not in registered:
        return f"{arch} programs do not run on this {host} host: {QEMU[arch]} is not registered"
    flags = next((line for line in registered if line.startswith("flags:")), "")
    if "F" not in flags.partition(":")[2]:
        return f"{QEMU[arch]} is registered without the flag F, so it is not found in a root"
    return ""


async def check_unpacked(
    path: Path, part: SmokePart, files: Iterable[str], cache: Path, checks: Checks
) -> None:
    """Run the image's programs in a folder, where it cannot be booted (by emulation)."""
    async with build_folder(cache) as work:

        async def unpack() -> str:
            await proc.run(
                "tar", "--extract", "--numeric-owner", f"--directory={work}", f"--file={path}",
                "rootfs", within=UNPACK_WITHIN,
            )  # fmt: skip
            return "in a folder"

        if not await checks.run("unpack", unpack):
            checks.skip(program_checks(part), "the image could not be unpacked")
            return
        target = RootfsTarget(work / "rootfs")
        user = str(AGENT_UID)
        be_agent = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
        home = ("install", "-d", "-o", user, "-g", user, AGENT_ENV["HOME"])

        async def run(argv: tuple[str, ...]) -> str:
            return await target.run(*be_agent, *argv, env=AGENT_ENV, within=EMULATED_WITHIN)

        try:
            await target.run(*home, env=AGENT_ENV, within=COMMAND_WITHIN)
        except TaosError as error:
            checks.skip(program_checks(part), error.message)
            return
        await check_programs(part, files, run, checks)


async def _load_all(load: SmokeLoad, files: Iterable[str], run: RunAsAgent) -> str:
    paths, failed = plan_loads(load, files), []
    for path in paths:
        try:
            await run((*load.argv, path))
        except TaosError as error:
            failed.append(f"{path} ({error.message[-SAID:]})")
    if failed:
        raise SmokeFailed(f"{len(failed)} of {len(paths)} do not load: {'; '.join(failed)}.")
    return f"{len(paths)} load"


async def _first_line(argv: tuple[str, ...], run: RunAsAgent) -> str:
    said = (await run(argv)).strip()
    return said.splitlines()[0][:80] if said else ""


def _soon(look: Callable[[], str]) -> Callable[[], Awaitable[str]]:
    async def looked() -> str:
        return look()

    return looked


def _is_packaged(look: Look, path: str) -> bool:
    return look.owners.find(path) not in _NO_PACKAGE


def _name(found: Iterable[str]) -> str:
    names = list(dict.fromkeys(found))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"
