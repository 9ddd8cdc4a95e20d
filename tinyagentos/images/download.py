"""Getting an image from the channel into use: the story, as a job that may run twice.

A working image is never touched before its successor is unpacked and proven; no byte reaches Incus
that was not signed.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tinyagentos.config import Settings
from tinyagentos.images.fetch import Manner, fetch_image, part_path
from tinyagentos.images.line import Line
from tinyagentos.images.source import open_source
from tinyagentos.images.supply import find_image, warm_image
from tinyagentos.images.verify import VerifiedImage, verify
from tinyagentos.incus import Incus, IncusError, NotFound
from tinyagentos.jobs.context import JobContext
from tinyagentos.jobs.runner import JobKind
from tinyagentos.model.errors import HostNotReady, NoSpace, Unavailable
from tinyagentos.model.image import image_alias
from tinyagentos.model.release import ImageTarget
from tinyagentos.signing.channel import Channel, trusted_root
from tinyagentos.store.timings import TimingTable

DOWNLOAD = "download image"
ASK, FETCH, VERIFY = "ask the channel", "fetch", "verify"
IMPORT, WARM, USE = "import", "unpack image", "use it from now on"
STEPS = (ASK, FETCH, VERIFY, IMPORT, WARM, USE)
HEADROOM = 512 << 20
SAY_EVERY = 0.25
# The timing of all that follows on fetching.
SETTLE = "image.settle"
MB = 1_000_000


@dataclass(frozen=True)
class Supply:
    """What getting images works with. line: what the bytes come by; now: the time of day."""

    incus: Incus
    settings: Settings
    arch: str
    line: Line
    timings: TimingTable
    now: Callable[[], datetime]

    @property
    def folder(self) -> Path:
        """Where files of images grow."""
        return self.settings.cache_dir / "images"


def download_kind(supply: Supply) -> JobKind:
    """The kind of job that gets an image."""

    async def run(job: JobContext) -> None:
        await ensure_image_present(job, supply)

    async def undo(job: JobContext) -> None:
        await undo_download(job, supply)

    return JobKind(DOWNLOAD, run, undo, STEPS, at_once=1)


async def ensure_image_present(job: JobContext, supply: Supply) -> None:
    """Have the newest released image of the framework in use; nothing is done when it is."""
    framework = job.params["framework"]
    job.plan_steps(*STEPS)
    target = await ensure_known(framework, job, supply)
    held = await find_image(supply.incus, image_alias(framework, supply.arch), supply.arch)
    if held is None or held.fingerprint != target.fingerprint:
        if await supply.incus.images.find(target.fingerprint) is None:
            await check_space(target, supply)
            path = await ensure_fetched(target, job, supply)
            image = await ensure_verified(path, target, job)
            await ensure_imported(image, job, supply)
        await ensure_warm(target, job, supply)
    await ensure_used(target, job, supply)
    record_settled(target, job, supply)


async def undo_download(job: JobContext, supply: Supply) -> None:
    """Remove an image that came into Incus and never came into use; what was fetched is kept.

    It is proven again before it is used, so keeping it costs only its space.
    """
    for image in await supply.incus.images.list():
        ours = image.properties.get("taos.framework") == job.params["framework"]
        if ours and not image.aliases:
            await supply.incus.images.delete(image.fingerprint)


async def ensure_known(framework: str, job: JobContext, supply: Supply) -> ImageTarget:
    """The newest image that the channel offers; Unavailable when it has none for this machine."""
    with job.step(ASK):
        index = await asyncio.to_thread(open_channel(supply.settings).refresh)
        target = index.newest(framework, supply.arch)
        if target is None:
            raise Unavailable(
                f"The channel has no image of {framework} for {supply.arch}.",
                hint="Deploying builds it on this host instead.",
            )
        job.note(f"{target.framework} {target.version}, {target.size_bytes / MB:.0f} MB")
        return target


def open_channel(settings: Settings) -> Channel:
    """The configured channel; HostNotReady when none is, or no root to trust."""
    if not settings.image_channel:
        raise HostNotReady(
            "No channel of images is configured.",
            hint="Set `image_channel` to its address; until then deploying builds on this host.",
        )
    source = open_source(settings.image_channel)
    state = settings.data_dir / "channel"
    return Channel(trusted_root(settings.image_root), state, source.metadata)


async def check_space(target: ImageTarget, supply: Supply) -> None:
    """Return when there is room for the file, Incus's copy and the unpacked image; else NoSpace."""
    part = part_path(supply.folder, target)
    here = part.stat().st_size if part.exists() else 0
    need = 2 * target.size_bytes - here + HEADROOM
    supply.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(supply.folder).free
    if free < need:
        raise NoSpace(
            f"The image needs {need / MB:.0f} MB on the disk of {supply.settings.data_dir}; "
            f"{free / MB:.0f} MB are free.",
            hint="Make room there, then download again: what has come is kept.",
        )
    profile = await supply.incus.profiles.get("default")
    pool = supply.settings.pool or profile.devices.get("root", {}).get("pool", "")
    room = await supply.incus.storage.get_resources(pool)
    if room.free_bytes < target.unpacked_bytes + HEADROOM:
        raise NoSpace(
            f"The image takes {target.unpacked_bytes / MB:.0f} MB on storage pool {pool}, "
            f"and {HEADROOM / MB:.0f} MB are to stay; {room.free_bytes / MB:.0f} MB are free.",
            hint="Delete agents or images you do not need, or grow the pool.",
        )


async def ensure_fetched(target: ImageTarget, job: JobContext, supply: Supply) -> Path:
    """The image's file, every part of it proven."""
    with job.step(FETCH):
        drop_others(target, supply)
        settings = supply.settings
        return await fetch_image(
            target,
            open_source(settings.image_channel),
            supply.folder,
            progress=Pace(job, supply.line).at,
            note=job.note,
            manner=Manner(stall=settings.image_stall, line=supply.line),
        )


class Pace:
    """Says how far a fetch is, how fast, and how long it will still take."""

    def __init__(self, job: JobContext, line: Line) -> None:
        self._job = job
        self._line = line
        self._said = 0.0

    def at(self, done: int, total: int) -> None:
        """So many bytes of so many are here."""
        now = time.monotonic()
        if now - self._said < SAY_EVERY and done < total:
            return
        self._said = now
        if rate := self._line.rate:
            self._job.note(f"{rate / MB:.1f} MB/s, about {(total - done) / rate:.0f} s left")
        self._job.progress(done, total)


async def ensure_verified(path: Path, target: ImageTarget, job: JobContext) -> VerifiedImage:
    """The file as an image that Incus may see."""
    with job.step(VERIFY):
        return await verify(path, target)


async def ensure_imported(image: VerifiedImage, job: JobContext, supply: Supply) -> None:
    """Have the image in Incus, without an alias; its file is not needed any more then."""
    with job.step(IMPORT):
        total = image.target.size_bytes
        await supply.incus.images.add(
            image.path,
            expect=image.target.fingerprint,
            progress=lambda sent: job.progress(min(sent, total), total),
        )
        image.path.unlink()


async def ensure_warm(target: ImageTarget, job: JobContext, supply: Supply) -> None:
    """Have the pool unpack the image now, so that no deploy waits for it."""
    with job.step(WARM):
        await warm_image(supply.incus, target.fingerprint)


async def ensure_used(target: ImageTarget, job: JobContext, supply: Supply) -> None:
    """Move the alias; what the framework had before goes unless an instance still needs it."""
    with job.step(USE):
        alias = image_alias(target.framework, supply.arch)
        held = await find_image(supply.incus, alias, supply.arch)
        await supply.incus.images.set_alias(alias, target.fingerprint)
        for image in await supply.incus.images.list():
            ours = image.properties.get("taos.framework") == target.framework
            was_used = held is not None and image.fingerprint == held.fingerprint
            nameless = ours and not image.aliases
            if image.fingerprint == target.fingerprint or not (was_used or nameless):
                continue
            try:
                await supply.incus.images.delete(image.fingerprint)
            except NotFound:
                continue
            except IncusError as error:
                job.note(f"the image before is kept: {error}")


def record_settled(target: ImageTarget, job: JobContext, supply: Supply) -> None:
    """Keep how long an image that was fetched took until its use, for later estimates."""
    took = {step.name: step.seconds for step in job.job.steps}
    if IMPORT in took:
        seconds = sum(took.get(name, 0.0) for name in (VERIFY, IMPORT, WARM, USE))
        subject = image_alias(target.framework, supply.arch)
        supply.timings.add(SETTLE, subject, seconds, supply.now(), target.size_bytes)


def drop_others(target: ImageTarget, supply: Supply) -> None:
    """Remove what was fetched of images that the channel has newer ones of."""
    mine = part_path(supply.folder, target)
    for left in supply.folder.glob("*.part"):
        if left != mine:
            left.unlink(missing_ok=True)
