"""Getting an image from the channel into use: the story, as a job that may run twice.

A working image is never touched before its successor is unpacked and proven; no byte reaches Incus
that was not signed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar, cast

from tinyagentos.config import Settings
from tinyagentos.host.room import MIB, read_room
from tinyagentos.images.fetch import Manner, fetch_image, part_of, part_path
from tinyagentos.images.line import Line
from tinyagentos.images.policy import (
    after_failure,
    after_look,
    after_stop,
    after_success,
    after_vain_look,
)
from tinyagentos.images.source import open_source
from tinyagentos.images.supply import find_image, warm_image
from tinyagentos.images.verify import VerifiedImage, verify
from tinyagentos.incus import Incus, IncusError, NotFound
from tinyagentos.jobs.context import JobContext
from tinyagentos.jobs.runner import JobKind
from tinyagentos.model.errors import HostNotReady, NoSpace, TaosError, Unavailable
from tinyagentos.model.image import image_alias
from tinyagentos.model.release import ImageTarget
from tinyagentos.signing.channel import Channel, trusted_root
from tinyagentos.store.supply import SupplyTable
from tinyagentos.store.timings import TimingTable

DOWNLOAD = "download image"
ASK, FETCH, VERIFY = "ask the channel", "fetch", "verify"
IMPORT, WARM, USE = "import", "unpack image", "use it from now on"
# The parameter of a job that gets its image from elsewhere than the configured channel.
FROM = "from"
STEPS = (ASK, FETCH, VERIFY, IMPORT, WARM, USE)
HEADROOM = 512 << 20
MAX_ATTEMPTS = 500
SAY_EVERY = 0.25
# The timings of fetching, with its bytes, and of all that follows on it.
FETCHED, SETTLE = "image.fetch", "image.settle"
# A fetch that took less says nothing of the line.
LEAST_SECONDS = 0.5
MB = 1_000_000
T = TypeVar("T")


@dataclass(frozen=True)
class Supply:
    """What getting images works with. line: what the bytes come by; now: the time of day."""

    incus: Incus
    settings: Settings
    arch: str
    line: Line
    timings: TimingTable
    table: SupplyTable
    now: Callable[[], datetime]
    # What is trusted of the channel is read and written by one at a time.
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def folder(self) -> Path:
        """Where files of images grow."""
        return self.settings.cache_dir / "images"


def download_kind(supply: Supply) -> JobKind:
    """The kind of job that gets an image."""

    async def run(job: JobContext) -> None:
        try:
            await ensure_image_present(job, supply)
        except TaosError as error:
            remember_failure(error, job, supply)
            raise

    async def undo(job: JobContext) -> None:
        await undo_download(job, supply)

    # Each attempt goes on from where the one before was cut off: many cuts are no crash loop.
    return JobKind(
        DOWNLOAD, run, undo, STEPS, at_once=1, max_attempts=MAX_ATTEMPTS, needs=("framework",)
    )


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

    It is proven again before it is used, so keeping it costs only its space; it goes when somebody
    asked for that.
    """
    alias = image_alias(job.params["framework"], supply.arch)
    record = supply.table.get(alias)
    if record.discards:
        part_of(supply.folder, record.fingerprint).unlink(missing_ok=True)
    if job.job.cancel_requested:
        supply.table.put(alias, after_stop(record))
    for image in await supply.incus.images.list():
        ours = image.properties.get("taos.framework") == job.params["framework"]
        if ours and not image.aliases:
            await supply.incus.images.delete(image.fingerprint)


async def ensure_known(framework: str, job: JobContext, supply: Supply) -> ImageTarget:
    """The newest image that the channel offers; Unavailable when it has none for this machine."""
    with job.step(ASK):
        target = await find_newest(framework, supply, job.params.get(FROM, ""))
        job.note(f"{target.framework} {target.version}, {target.size_bytes / MB:.0f} MB")
        return target


async def find_newest(framework: str, supply: Supply, address: str = "") -> ImageTarget:
    """The newest image that the channel offers for this machine, remembered as such.

    address: another channel than the configured one, such as an exported file. Raises Untrusted in
    its kinds, Unavailable when the channel cannot be reached or has none.
    """
    if target := (await find_all_newest([framework], supply, address)).get(framework):
        return target
    raise Unavailable(
        f"The channel has no image of {framework} for {supply.arch}.",
        hint="Deploying builds it on this host instead.",
    )


async def find_all_newest(
    frameworks: Iterable[str], supply: Supply, address: str = ""
) -> Mapping[str, ImageTarget]:
    """The same for several frameworks, asked once; without those that the channel has none of."""
    async with supply.asking:
        index = await in_thread(open_channel(supply.settings, address).refresh)
    found = {}
    for framework in frameworks:
        if target := index.newest(framework, supply.arch):
            found[framework] = target
            note_newest(target, supply)
        else:
            alias, chance = image_alias(framework, supply.arch), random.random()  # noqa: S311 - spreads the checks
            record = after_vain_look(supply.table.get(alias), supply.now(), chance)
            supply.table.put(alias, record)
    return found


def note_newest(target: ImageTarget, supply: Supply) -> None:
    """Remember what is newest; what has come of an older one is of no use any more."""
    alias = image_alias(target.framework, supply.arch)
    before = supply.table.get(alias)
    record = after_look(before, target, supply.now(), random.random())  # noqa: S311 - spreads the checks
    supply.table.put(alias, record)
    if before.fingerprint and before.fingerprint != target.fingerprint:
        part_of(supply.folder, before.fingerprint).unlink(missing_ok=True)


async def in_thread(work: Callable[[], T]) -> T:
    """The result of work that blocks for a while; when cancelled, nobody waits for it.

    Not asyncio.to_thread: the server could not end before a stalled channel's deadline.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(cast(T, value))
        else:
            result.set_exception(error)

    def run() -> None:
        value, failure = None, None
        try:
            value = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, value, failure)

    threading.Thread(target=run, name="channel", daemon=True).start()
    return await result


def remember_failure(error: TaosError, job: JobContext, supply: Supply) -> None:
    """Keep why the image did not come, and when the policy may try again."""
    alias = image_alias(job.params["framework"], supply.arch)
    record = supply.table.get(alias)
    begun = any(step.name == FETCH for step in job.job.steps if step.state != "pending")
    fetched = record.fingerprint if begun else ""
    chance = random.random()  # noqa: S311 - spreads the tries
    supply.table.put(alias, after_failure(record, error, supply.now(), chance, fetched=fetched))


def open_channel(settings: Settings, address: str = "") -> Channel:
    """The channel at the address, else the configured one.

    Raises HostNotReady when there is neither, or no root to trust.
    """
    address = address or settings.image_channel
    if not address:
        raise HostNotReady(
            "No channel of images is configured.",
            hint="Set `image_channel` to its address; until then deploying builds on this host.",
        )
    source = open_source(address)
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
    room = await read_room(supply.incus, pool)
    if room.free_bytes < target.unpacked_bytes + HEADROOM:
        raise NoSpace(
            f"{room.said}; the image takes {target.unpacked_bytes / MIB:.0f} MiB of it, "
            f"and {HEADROOM / MIB:.0f} MiB more are to stay.",
            hint=room.hint,
        )


async def ensure_fetched(target: ImageTarget, job: JobContext, supply: Supply) -> Path:
    """The image's file, every part of it proven."""
    with job.step(FETCH):
        drop_others(target, supply)
        settings = supply.settings
        address = job.params.get(FROM) or settings.image_channel
        pace = Pace(job, supply.line)
        try:
            return await fetch_image(
                target,
                open_source(address),
                supply.folder,
                progress=pace.at,
                note=job.note,
                manner=Manner(stall=settings.image_stall, line=supply.line),
            )
        finally:
            if address == settings.image_channel and pace.seconds >= LEAST_SECONDS and pace.came:
                alias = image_alias(target.framework, supply.arch)
                supply.timings.add(FETCHED, alias, pace.seconds, supply.now(), pace.came)


class Pace:
    """Says how far a fetch is, how fast, and how long it will still take."""

    def __init__(self, job: JobContext, line: Line) -> None:
        self._job = job
        self._line = line
        self._said = 0.0
        self._begun = self._latest = time.monotonic()
        self._first: int | None = None
        self._done = 0

    @property
    def seconds(self) -> float:
        """How long bytes came."""
        return self._latest - self._begun

    @property
    def came(self) -> int:
        """How many bytes came, besides those that were here before."""
        return self._done - (self._first or 0)

    def at(self, done: int, total: int) -> None:
        """So many bytes of so many are here."""
        now = time.monotonic()
        if self._first is None:
            self._begun, self._first = now, done
        if done > self._done:
            self._latest, self._done = now, done
        if now - self._said < SAY_EVERY and done < total:
            return
        self._said = now
        if rate := self._line.rate:
            self._job.note(f"{say_rate(rate)}, about {say_seconds((total - done) / rate)} left")
        self._job.progress(done, total)


def say_rate(rate: float) -> str:
    """Bytes a second in words."""
    return f"{rate / MB:.1f} MB/s" if rate >= MB else f"{rate / 1000:.0f} kB/s"


def say_seconds(seconds: float) -> str:
    """A time to wait in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


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
    """Keep that it came, and how long it took from its last byte to its use."""
    alias = image_alias(target.framework, supply.arch)
    supply.table.put(alias, after_success(supply.table.get(alias)))
    took = {step.name: step.seconds for step in job.job.steps}
    if IMPORT in took:
        seconds = sum(took.get(name, 0.0) for name in (VERIFY, IMPORT, WARM, USE))
        supply.timings.add(SETTLE, alias, seconds, supply.now(), target.size_bytes)


def drop_others(target: ImageTarget, supply: Supply) -> None:
    """Remove what was fetched of images that the channel has newer ones of."""
    useful = {part_of(supply.folder, one.fingerprint) for one in supply.table.list_all()}
    for left in supply.folder.glob("*.part"):
        if left != part_path(supply.folder, target) and left not in useful:
            left.unlink(missing_ok=True)
