"""An agent in one file: what it knows and how it was set, to keep or to carry to another host.

The file is an uncompressed tar with two members: `state.backup`, which Incus makes of a copy of the
state volume and takes again, and `agent.json`, which tells what it is, how much, and its SHA-256.
What is imported becomes a kept state (kept.py), which a deploy then begins with.

Whoever made the file chose every byte of it. Incus is given what state_archive.py makes of it.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import re
import stat
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import zstandard

from tinyagentos.agents import instances
from tinyagentos.agents.host import Host
from tinyagentos.agents.kept import keep_state
from tinyagentos.agents.model_keys import read_choice
from tinyagentos.agents.network import read_policy
from tinyagentos.agents.order import (
    AGENT_KEY,
    AUTOSTART,
    FRAMEWORK_KEY,
    IDLE_KEY,
    KEPT_KEY,
    NESTING,
    TITLE_KEY,
    UNIT,
    VERSION_KEY,
)
from tinyagentos.agents.settings import ROOT, check_title, read_schedule
from tinyagentos.agents.state_archive import Archive, Tally
from tinyagentos.host.files import remove_unfinished
from tinyagentos.host.room import read_room
from tinyagentos.images.source import read_members
from tinyagentos.incus import Instance
from tinyagentos.incus import NotFound as IncusNotFound
from tinyagentos.jobs.context import JobContext
from tinyagentos.model.agent import AgentSpec, ImportChoice, SnapshotSchedule, check_agent_name
from tinyagentos.model.errors import HostNotReady, InvalidInput, NoSpace, Untrusted
from tinyagentos.model.network import NetworkPolicy
from tinyagentos.model.provider import parse_model

EXPORT, IMPORT = "export agent", "import state"
COPY, WRITE = "copy state", "write the file"
CHECK, GIVE = "check the file", "give the state to Incus"
EXPORT_STEPS, IMPORT_STEPS = (COPY, WRITE), (CHECK, GIVE)
FORMAT = 1
STATE_FILE, AGENT_FILE = "state.backup", "agent.json"
BACKUP = "export"
LARGEST_AGENT_FILE = 64 * 1024
STALL = 120.0
# How much of what a pool has free an import may take: the agents there go on writing.
FREE_TO_USE = 0.9
# What systemd gives a unit to stop is 90 s.
STOP_WITHIN = 100.0
# What reading a description that somebody made up can raise.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Carried:
    """An exported file: the agent as it was, where its state is in the file, and its digest.

    tally: how much the state is said to be; None in a file of a taOS that did not say.
    """

    path: Path
    agent: AgentSpec
    version: str
    offset: int
    size: int
    sha256: str
    tally: Tally | None = None


def describe(instance: Instance, volume: Mapping[str, str]) -> Mapping[str, object]:
    """What the file tells of the agent besides its state. volume: its state volume's config."""
    config = instance.config
    choice = read_choice(config)
    models = tuple(map(str, choice.models))
    return {
        "format": FORMAT,
        "name": config[AGENT_KEY],
        "framework": config[FRAMEWORK_KEY],
        "version": config.get(VERSION_KEY, ""),
        "model": models[0] if models else "",
        "fallbacks": models[1:],
        "monthly_tokens": choice.monthly_tokens,
        "network": str(read_policy(config)),
        "memory_bytes": config.get("limits.memory", ""),
        "cpus": config.get("limits.cpu", ""),
        "disk_bytes": instance.devices.get(ROOT, {}).get("size", ""),
        "state_bytes": volume.get("size", ""),
        "title": config.get(TITLE_KEY, ""),
        "autostart": config.get(AUTOSTART) != "false",
        "idle_stop_minutes": config.get(IDLE_KEY, ""),
        "snapshots": read_schedule(volume),
        "nesting": config.get(NESTING) == "true",
    }


@contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """The file, opened once: what is checked is what is read. InvalidInput when it is no file."""
    wrong = InvalidInput(f"There is no file {path}.", hint="Give the whole path of the file.")
    if not path.is_absolute():
        raise wrong
    try:
        # Not to wait for a writer of what turns out to be a FIFO.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise wrong from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise wrong
    with os.fdopen(number, "rb") as file:
        yield file


def read_carried(path: Path) -> Carried:
    """The exported file; InvalidInput when it is none, or of another format.

    Nothing of its state is proven yet; see check_state().
    """
    with open_file(path) as file:
        return _read_carried(path, file)


def _read_carried(path: Path, file: IO[bytes]) -> Carried:
    hint = "Give a file that `taos agent export` wrote."
    members = read_members(path, file)
    if set(members) != {STATE_FILE, AGENT_FILE}:
        raise InvalidInput(f"{path.name} is no exported agent.", hint=hint)
    where, size = members[AGENT_FILE]
    if size > LARGEST_AGENT_FILE:
        raise InvalidInput(f"{path.name} is no exported agent.", hint=hint)
    file.seek(where)
    content = file.read(size)
    try:
        told = json.loads(content)
        if told["format"] != FORMAT:
            raise InvalidInput(
                f"{path.name} has format {told['format']!r}; this taOS reads {FORMAT}.",
                hint="A newer taOS wrote it: update this one.",
            )
        if "checksum" in told and told.pop("checksum") != _checksum(told):
            raise Untrusted(
                f"{path.name} is damaged.", hint="Copy the file again, or export again."
            )
        spec = _read_spec(told)
        digest = str(told["sha256"])
        if not _DIGEST.fullmatch(digest) or told["size"] != members[STATE_FILE][1]:
            raise ValueError(digest)
        tally = Tally(**told["tally"]) if "tally" in told else None
        version = str(told["version"])[:100]
    except UNREADABLE as error:
        raise InvalidInput(f"{path.name} does not say what is in it.", hint=hint) from error
    return Carried(path, spec, version, *members[STATE_FILE], digest, tally)


def decide(agent: AgentSpec, choice: ImportChoice) -> AgentSpec:
    """The agent with what was decided about it.

    Raises InvalidInput when the file asks for what opens its walls, and nobody decided about that.
    """
    asked = {
        "nesting": (agent.nesting, choice.nesting, "to run containers of its own"),
        "lan": (agent.network.startswith("lan:"), choice.lan, f"to reach {agent.network[4:]}"),
    }
    open_ = [(name, what) for name, (asks, given, what) in asked.items() if asks and given is None]
    if open_:
        flags = " and ".join(f"`--{name}` or `--no-{name}`" for name, _ in open_)
        raise InvalidInput(
            f"The agent in the file asks {' and '.join(what for _, what in open_)}, "
            "which weakens its walls.",
            hint=f"Decide with {flags}; in the API, with `nesting` and `lan`.",
        )
    return replace(
        agent,
        nesting=agent.nesting and choice.nesting is True,
        # A policy that opens networks at home opens the internet, too.
        network="internet" if asked["lan"][0] and not choice.lan else agent.network,
        memory_bytes=choice.memory_bytes or agent.memory_bytes,
    )


def _read_spec(told: Mapping[str, Any]) -> AgentSpec:
    """The agent as it was set; what an older taOS did not write is as it usually is."""
    return AgentSpec(
        name=check_agent_name(str(told["name"])),
        framework=str(told["framework"]),
        model=str(parse_model(told["model"])) if told["model"] else "",
        fallbacks=tuple(str(parse_model(one)) for one in told.get("fallbacks", ())),
        monthly_tokens=int(told.get("monthly_tokens", 0)),
        network=str(NetworkPolicy.parse(str(told["network"]))),
        memory_bytes=_number(told["memory_bytes"]),
        cpus=_number(told["cpus"]),
        disk_bytes=_number(told.get("disk_bytes")),
        state_bytes=_number(told.get("state_bytes")),
        title=check_title(str(told.get("title", ""))),
        autostart=told.get("autostart") is not False,
        idle_stop_minutes=_number(told.get("idle_stop_minutes")) or 0,
        snapshots=SnapshotSchedule(told.get("snapshots", "off")),
        nesting=told.get("nesting") is True,
    )


def _checksum(told: Mapping[str, Any]) -> str:
    """What tells that nothing of it was changed by accident."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _number(text: object) -> int | None:
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 20 else None


async def export_agent(job: JobContext, host: Host) -> None:
    """Write the agent's state, at rest, with what tells about it, into the file."""
    job.plan_steps(*EXPORT_STEPS)
    pool, copy = (await instances.pick_pool(host)).name, _copy_name(job)
    with job.step(COPY):
        await _drop_copy(pool, copy, host)
        await _copy_at_rest(job.params["instance"], pool, copy, host)
        await host.incus.storage.create_volume_backup(pool, copy, BACKUP)
    with job.step(WRITE):
        part = _part(job)
        try:
            await _write(part, pool, job, host)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(
                    f"{part.parent} takes no more: {error.strerror}.", hint="Make room there."
                ) from error
            raise InvalidInput(
                f"{part.parent} cannot be written: {error.strerror}.", hint="Give another folder."
            ) from error
        part.replace(job.params["to"])
        await _drop_copy(pool, copy, host)


async def _copy_at_rest(instance: str, pool: str, copy: str, host: Host) -> None:
    """Copy the state while the agent's own programs are stopped, for a moment on btrfs and zfs.

    A copy of a running agent's would say that somebody has it open: OpenClaw then refuses to start
    with it under another name for minutes.
    """
    found = await host.incus.instances.get(instance)
    if found.is_running:
        await host.incus.instances.exec(instance, ("systemctl", "stop", UNIT), within=STOP_WITHIN)
    try:
        await host.incus.storage.copy_volume(pool, copy, f"{instance}-state")
    finally:
        await _ensure_unit_runs(instance, host)


async def _ensure_unit_runs(instance: str, host: Host) -> None:
    found = await host.incus.instances.find(instance)
    if found and found.is_running:
        argv = ("systemctl", "start", "--no-block", UNIT)
        await host.incus.instances.exec(instance, argv, within=60)


async def undo_export(job: JobContext, host: Host) -> None:
    """Remove the copy and what was written; the agent works."""
    await _ensure_unit_runs(job.params["instance"], host)
    remove_unfinished(_part(job))
    await _drop_copy((await instances.pick_pool(host)).name, _copy_name(job), host)


async def _write(part: Path, pool: str, job: JobContext, host: Host) -> None:
    digest, size = hashlib.sha256(), 0
    part.unlink(missing_ok=True)  # of an attempt that a crash ended
    # What an agent knows is nobody else's, and goes into no file that somebody else put there.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(part, flags, 0o600), "w+b") as file:
        # The state's own head comes when its size is known.
        file.write(bytes(tarfile.BLOCKSIZE))
        source = host.incus.storage.read_volume_backup(pool, _copy_name(job), BACKUP, stall=STALL)
        async for piece in source:
            await asyncio.to_thread(file.write, piece)
            digest.update(piece)
            size += len(piece)
            job.progress(size, None)
        file.write(bytes(-size % tarfile.BLOCKSIZE))
        file.flush()
        # Whoever needs the file needs it when the agent is gone: that it can be imported, and how
        # much it is, is found out now.
        archive = Archive(file, tarfile.BLOCKSIZE, size, Path(job.params["to"]).name)
        try:
            await _read_through(archive)
        except Untrusted as error:
            raise HostNotReady(
                f"What Incus wrote could not be imported again. {error.message}",
                hint="Keep the state where it is: `taos agent snapshot`, or delete with "
                "`--keep-state`.",
            ) from error
        file.seek(0, os.SEEK_END)
        told = json.loads(job.params["agent_file"]) | {"sha256": digest.hexdigest(), "size": size}
        told |= {"tally": asdict(archive.tally)}
        content = json.dumps(told | {"checksum": _checksum(told)}, indent=2).encode()
        file.write(_head(AGENT_FILE, len(content)) + content)
        file.write(bytes(-len(content) % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE))
        file.seek(0)
        file.write(_head(STATE_FILE, size))
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())  # it may be a stick that is pulled out


def _head(name: str, size: int) -> bytes:
    head = tarfile.TarInfo(name)
    head.size, head.mode = size, 0o600
    return head.tobuf(tarfile.GNU_FORMAT)


async def import_state(job: JobContext, host: Host) -> None:
    """Check the file, then have Incus take its state, as one that is kept."""
    job.plan_steps(*IMPORT_STEPS)
    path = Path(job.params["from"])
    with open_file(path) as file:
        with job.step(CHECK):
            carried = await asyncio.to_thread(_read_carried, path, file)
            await check_state(carried, file, host)
        with job.step(GIVE):
            await _give(carried, file, job, host)


async def check_state(carried: Carried, file: IO[bytes], host: Host) -> None:
    """Return when the state can be given to Incus.

    Raises Untrusted when it is not what was exported, or what no agent's state can be, NoSpace
    when it unpacks to more than there is room for.
    """
    pool = (await instances.pick_pool(host)).name
    room = await read_room(host.incus, pool)
    await _read_through(_archive(carried, file), carried, int(room.free_bytes * FREE_TO_USE), pool)


async def _give(carried: Carried, file: IO[bytes], job: JobContext, host: Host) -> None:
    volume, pool = job.params["volume"], (await instances.pick_pool(host)).name
    found = await host.incus.storage.find_volume(pool, volume)
    if found and found.config.get(KEPT_KEY):
        return
    if found:
        await host.incus.storage.delete_volume(pool, volume)
    await host.incus.storage.import_volume(pool, volume, _state(carried, file, job), stall=STALL)
    instance = volume.removesuffix("-state")
    await keep_state(instance, carried.agent.framework, host, carried.agent.name)


async def undo_import(job: JobContext, host: Host) -> None:
    """Remove what Incus took."""
    pool = (await instances.pick_pool(host)).name
    with suppress(IncusNotFound):
        await host.incus.storage.delete_volume(pool, job.params["volume"])


def _archive(carried: Carried, file: IO[bytes]) -> Archive:
    return Archive(file, carried.offset, carried.size, carried.path.name)


async def _read_through(
    archive: Archive, carried: Carried | None = None, most: int | None = None, pool: str = ""
) -> None:
    """Read all of the archive, which says what is wrong with it. most: bytes it may unpack to."""
    unpacked = 0
    async for piece in _in_thread(archive.renewed()):
        unpacked += len(piece)
        if most is not None and unpacked > most:
            raise NoSpace(
                f"The state unpacks to more than {most // 2**20} MiB, which is what storage pool "
                f"{pool} has free for it.",
                hint="Delete what you do not need, or grow the pool.",
            )
    if carried:
        _compare(archive, carried)


def _compare(archive: Archive, carried: Carried) -> None:
    if archive.sha256 != carried.sha256 or carried.tally not in (None, archive.tally):
        raise Untrusted(
            f"{carried.path.name} is damaged: its state is not what was exported.",
            hint="Copy the file again, or export again.",
        )


async def _state(carried: Carried, file: IO[bytes], job: JobContext) -> AsyncIterator[bytes]:
    """The archive that Incus is given. It has no end when the file changed since it was checked."""
    # Incus keeps what it is sent in a file of its own meanwhile: it had better be small.
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    archive = _archive(carried, file)
    async for piece in _in_thread(archive.renewed()):
        if packed := await asyncio.to_thread(packer.compress, piece):
            yield packed
        job.progress(archive.position, carried.size)
    _compare(archive, carried)
    yield packer.compress(bytes(2 * tarfile.BLOCKSIZE)) + packer.flush()


async def _in_thread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(next, pieces, b""):
        yield piece


async def _drop_copy(pool: str, copy: str, host: Host) -> None:
    with suppress(IncusNotFound):
        await host.incus.storage.delete_volume(pool, copy)


def _copy_name(job: JobContext) -> str:
    return f"{job.params['instance']}-export-{job.job.id}"


def _part(job: JobContext) -> Path:
    to = Path(job.params["to"])
    return to.with_name(f".{to.name}.{job.job.id}.part")
