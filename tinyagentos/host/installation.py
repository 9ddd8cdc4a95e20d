"""The program that the server runs, installed where only root can change it.

A checkout belongs to the person who cloned it: what root runs from there, that person's programs
could change. Each content of the checkout has a folder of its own in /opt/taos; the link `current`
leads to the one that the unit starts, `previous` to the one before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tinyagentos import __version__, proc
from tinyagentos.host.trust import find_changeable, find_changeable_below
from tinyagentos.model.errors import CommandFailed, HostNotReady

Report = Callable[[str], None]
SOURCE = Path(__file__).parent.parent.parent
PLACE = Path("/opt/taos")
CURRENT, PREVIOUS = "current", "previous"
# What the server needs of a checkout. No test, no history, and no packages: those have a lock.
PARTS = ("taos", "requirements.lock", "tinyagentos", "docs")
PREPARE = "--prepare"
PREPARE_WITHIN = 900.0
COMPILE_WITHIN = 300.0
PROCESSES = Path("/proc")


@dataclass(frozen=True)
class Program:
    """How taOS is started. A checkout and a copy of one have a launcher; a wheel has none.

    folder: where the package is; launcher: the words that run the command line.
    """

    folder: Path
    launcher: tuple[str, ...]
    python: str

    @property
    def prepare(self) -> tuple[str, ...]:
        """The words that mend the Python packages of this program; empty for a wheel's."""
        return () if self.launcher[0] == self.python else (*self.launcher, PREPARE)

    def starting(self, *argv: str) -> tuple[str, ...]:
        """The words that run one of its commands."""
        return (*self.launcher, *argv)


def of_folder(folder: Path) -> Program:
    """The program in a checkout, or in an installed copy of one."""
    return Program(folder, (str(folder / "taos"),), str(folder / ".venv" / "bin" / "python"))


def own_program(source: Path = SOURCE) -> Program:
    """The program that this process runs."""
    if (source / "taos").is_file():
        return of_folder(source)
    return Program(source, (sys.executable, "-P", "-m", "tinyagentos.cli"), sys.executable)


async def ensure_installed(
    report: Report, *, source: Path = SOURCE, place: Path = PLACE
) -> Program:
    """The program as only root can change it; a checkout is copied to where that is so.

    It begins through the link `current`, which leads to that copy afterwards. Raises HostNotReady
    with the part of the path that others may change, when there is no such program.
    """
    own = own_program(source)
    if not own.prepare or source.parent == place:
        check_unchangeable(own)
        return own
    name = await asyncio.to_thread(name_of, source)
    folder = place / name
    if not (folder / "taos").exists():
        report(f"installing taOS into {folder} …")
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
        await _install(source, folder, _venvs(place))
    check_unchangeable(of_folder(folder))
    await asyncio.to_thread(switch, place, name)
    return of_folder(place / CURRENT)


def check_unchangeable(program: Program) -> None:
    """Return when only root can change what the program is; HostNotReady in words when not."""
    for path in (program.folder / "tinyagentos", Path(program.launcher[0]), Path(program.python)):
        if found := find_changeable(path):
            raise HostNotReady(
                f"The server would run {path}, and others than root may change {found}.",
                hint="Let root own it, and nobody else write to it (`chown root`, `chmod go-w`).",
            )


def name_of(source: Path) -> str:
    """The version with a checksum of what the server would run: two checkouts of one differ."""
    digest = hashlib.sha256()
    for path in sorted(_files(source)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(source)}\0{content}\n".encode())
    return f"{__version__}-{digest.hexdigest()[:12]}"


def switch(place: Path, name: str) -> None:
    """Have `current` lead to the folder of this name, and `previous` to the one before it.

    At every moment `current` leads to a whole program. What neither leads to is removed, unless a
    process runs it.
    """
    before = _target(place / CURRENT)
    if before != name:
        if before and (place / before).is_dir():
            _link(place / PREVIOUS, before)
        _link(place / CURRENT, name)
    kept = {name, _target(place / PREVIOUS)}
    for folder in place.glob("[0-9]*"):
        if folder.name not in kept and not is_running(folder):
            shutil.rmtree(folder, ignore_errors=True)


def is_running(folder: Path, processes: Path = PROCESSES) -> bool:
    """Whether a process was started with a path in the folder."""
    inside = os.fsencode(folder) + b"/"
    for process in processes.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if inside in (process / "cmdline").read_bytes():
                return True
    return False


async def _install(source: Path, folder: Path, venvs: tuple[Path, ...]) -> None:
    """Have a copy of the source with its packages in the folder; it appears when it is whole."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        await asyncio.to_thread(_copy, source, part)
        found = await asyncio.to_thread(_find_venv, venvs)
        if found:
            await proc.run(
                "cp", "-a", "--reflink=auto", found, part / ".venv", within=COMPILE_WITHIN
            )
        # Packages that do not fit the lock and this Python are installed anew by the launcher.
        # Nothing of the checkout is on the path of the programs that it runs.
        clean = {"PYTHONPATH": ""}
        await proc.run(part / "taos", PREPARE, within=PREPARE_WITHIN, env=clean)
        # The server may not write here: without this each start would compile everything again.
        await proc.run(
            part / ".venv" / "bin" / "python", "-I", "-m", "compileall", "-q", "-j", "0",
            "-s", part, "-p", folder, part / "tinyagentos",
            within=COMPILE_WITHIN, env=clean,
        )  # fmt: skip
        with contextlib.suppress(OSError):  # another `up` was quicker
            part.rename(folder)
    except (CommandFailed, OSError) as error:
        raise HostNotReady(
            f"taOS could not be installed into {folder}: {error}",
            hint="Check the network and the disk, then run this again.",
        ) from error
    finally:
        await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)


def _copy(source: Path, part: Path) -> None:
    """Copy the parts of the checkout; all is root's, and nobody else may write to it.

    Symbolic links are left out: they would lead to what others may change.
    """
    part.mkdir(mode=0o755)
    for path in _files(source):
        to = part / path.relative_to(source)
        _make_folders(to.parent)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as content:
            is_program = os.fstat(descriptor).st_mode & stat.S_IXUSR
            to.write_bytes(content.read())
        to.chmod(0o755 if is_program else 0o644)


def _make_folders(folder: Path) -> None:
    if not folder.exists():
        _make_folders(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)  # whatever the person's umask is


def _files(source: Path) -> Iterator[Path]:
    for name in PARTS:
        part = source / name
        if part.is_file() and not part.is_symlink():
            yield part
        for where, folders, files in os.walk(part):
            folders[:] = [one for one in folders if one != "__pycache__"]
            yield from (path for one in files if not (path := Path(where, one)).is_symlink())


def _venvs(place: Path) -> tuple[Path, ...]:
    """Where packages may be that fit: those this process uses, and those of the last version."""
    return (Path(sys.prefix), place / CURRENT / ".venv")


def _find_venv(venvs: tuple[Path, ...]) -> Path | None:
    """A whole environment that the launcher made, and that only root could have changed since."""
    for venv in venvs:
        with contextlib.suppress(OSError):
            locks = set((venv / "complete").read_text().splitlines())
            is_developers = len(locks) > 1
            if is_developers or find_changeable(venv) or find_changeable_below(venv):
                continue
            return venv.resolve()
    return None


def _link(link: Path, target: str) -> None:
    part = link.with_name(f"{link.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(link)


def _target(link: Path) -> str:
    """The name that the link leads to; empty when there is no link."""
    try:
        return str(link.readlink())
    except OSError:
        return ""
