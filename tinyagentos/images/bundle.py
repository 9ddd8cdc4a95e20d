"""An image in one file with all that proves it: a channel as a tar, for a USB stick or a share.

The file is an uncompressed tar with the channel's own files: the chain of roots, the timestamp,
snapshot and targets as they were signed, and the image. Nothing is unpacked: the metadata and the
image are read where they stand, through the same doors as a channel's, and verified the same way.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import tarfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from tinyagentos.host.files import remove_unfinished
from tinyagentos.images.download import Supply, in_thread, open_channel
from tinyagentos.images.source import read_members
from tinyagentos.jobs.context import JobContext
from tinyagentos.jobs.runner import JobKind
from tinyagentos.model.errors import HostNotReady, InvalidInput, NoSpace, NotFound
from tinyagentos.model.release import ImageTarget
from tinyagentos.signing.channel import TIMESTAMP_FILE

EXPORT = "export image"
PROVE, WRITE = "look for the release", "write the file"
STEPS = (PROVE, WRITE)
STALL = 60.0
IMAGE_FILE = re.compile(r"[0-9a-f]{64}\.([a-z0-9][a-z0-9-]*?)-[0-9].*\.tar\.zst")


@dataclass(frozen=True)
class Bundle:
    """What an exported file says it is; nothing of it is proven yet."""

    path: Path
    framework: str


def read_bundle(path: Path) -> Bundle:
    """The exported file; InvalidInput when it is none."""
    if not path.is_absolute() or not path.is_file():
        raise InvalidInput(f"There is no file {path}.", hint="Give the whole path of the file.")
    members = read_members(path)
    images = [match for name in members if (match := IMAGE_FILE.fullmatch(name))]
    if TIMESTAMP_FILE not in members or len(images) != 1:
        raise InvalidInput(
            f"{path.name} is no file that `taos image export` wrote.",
            hint="Export the image on a host that has it from its channel.",
        )
    return Bundle(path, images[0][1])


def export_kind(supply: Supply) -> JobKind:
    """The kind of job that writes an image with its proofs into a file."""

    async def run(job: JobContext) -> None:
        await export_image(job, supply)

    async def undo(job: JobContext) -> None:
        remove_unfinished(_part(job))

    return JobKind(EXPORT, run, undo, STEPS, at_once=1, needs=("framework", "to"))


async def export_image(job: JobContext, supply: Supply) -> None:
    """Write the framework's released image, with all that proves it, into the file."""
    job.plan_steps(*STEPS)
    with job.step(PROVE):
        target = await find_released(job.params["framework"], supply)
    with job.step(WRITE):
        part = _part(job)
        try:
            await _write(part, target, job, supply)
        except OSError as error:
            raise NoSpace(
                f"{part.parent} takes no more: {error.strerror}.", hint="Make room there."
            ) from error
        part.replace(job.params["to"])


async def find_released(framework: str, supply: Supply) -> ImageTarget:
    """The newest release that is here and that the remembered metadata proves.

    Raises NotFound when no release is here: what was built on this host nobody has signed.
    """
    async with supply.asking:
        index = await in_thread(open_channel(supply.settings).remembered)
    for target in index.history(framework, supply.arch):
        if await supply.incus.images.find(target.fingerprint):
            return target
    raise NotFound(
        f"No released image of {framework} is on this host.",
        hint=f"`taos image download {framework}` gets one; what was built here is not signed.",
    )


async def _write(part: Path, target: ImageTarget, job: JobContext, supply: Supply) -> None:
    state = supply.settings.data_dir / "channel"
    with part.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for name, content in _metadata(state):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            member = tarfile.TarInfo(target.file_name)
            member.size = target.size_bytes
            tar.addfile(member)  # the head only: the bytes follow as Incus gives them
            written = 0
            async for piece in _pieces(target, supply):
                await asyncio.to_thread(file.write, piece)
                written += len(piece)
                job.progress(written, target.size_bytes)
            if written != target.size_bytes:
                raise HostNotReady(
                    f"Incus gave {written} of {target.size_bytes} bytes.", hint="Export again."
                )
            file.write(b"\0" * (-written % tarfile.BLOCKSIZE))
            tar.offset = file.tell()
        file.flush()


def _pieces(target: ImageTarget, supply: Supply) -> AsyncIterator[bytes]:
    return supply.incus.images.export(target.fingerprint, stall=STALL)


def _metadata(state: Path) -> Iterator[tuple[str, bytes]]:
    """The verified metadata under the names that a channel has them by."""
    for root in sorted((state / "root_history").glob("*.root.json")):
        yield root.name, root.read_bytes()
    yield TIMESTAMP_FILE, (state / TIMESTAMP_FILE).read_bytes()
    for role in ("snapshot", "targets"):
        content = (state / f"{role}.json").read_bytes()
        yield f"{json.loads(content)['signed']['version']}.{role}.json", content


def _part(job: JobContext) -> Path:
    to = Path(job.params["to"])
    return to.with_name(f".{to.name}.{job.job.id}.part")
