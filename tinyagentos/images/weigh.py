"""What an image of this host weighs, by component: read out of Incus once, then kept.

Weighing unpacks the image with a window of 128 MiB, so a process of its own does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tinyagentos import proc
from tinyagentos.images.download import Supply
from tinyagentos.jobs.context import JobContext
from tinyagentos.jobs.runner import JobKind
from tinyagentos.model.errors import NoSpace

WEIGH = "weigh image"
READ, COUNT = "read the image", "count its parts"
STEPS = (READ, COUNT)
COUNT_WITHIN = 900.0
STALL = 60.0
PACKAGE = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Weight:
    """The files of a weighed image: the report as JSON, and the picture of it."""

    report: Path
    picture: Path

    @property
    def is_known(self) -> bool:
        """Whether the image was weighed."""
        return self.report.exists() and self.picture.exists()


def weight_of(cache_dir: Path, fingerprint: str) -> Weight:
    """Where the weight of the image is kept."""
    folder = cache_dir / "weights"
    return Weight(folder / f"{fingerprint}.json", folder / f"{fingerprint}.svg")


@functools.cache
def read_unpacked(report: Path) -> int:
    """The image's size when it is unpacked; a report that is there does not change any more."""
    return int(json.loads(report.read_text())["unpacked_bytes"])


def weigh_subject(fingerprint: str) -> str:
    """What weighing holds; the image itself stays free."""
    return f"weight:{fingerprint[:12]}"


def weigh_kind(supply: Supply) -> JobKind:
    """The kind of job that weighs an image."""

    async def run(job: JobContext) -> None:
        await weigh_image(job, supply)

    async def undo(job: JobContext) -> None:
        _copy_of(job, supply).unlink(missing_ok=True)

    return JobKind(WEIGH, run, undo, STEPS, at_once=1, needs=("fingerprint",))


async def weigh_image(job: JobContext, supply: Supply) -> None:
    """Have the image's weight known; nothing is done when it is."""
    job.plan_steps(*STEPS)
    weight = weight_of(supply.settings.cache_dir, job.params["fingerprint"])
    if weight.is_known:
        return
    weight.report.parent.mkdir(parents=True, exist_ok=True)
    copy = _copy_of(job, supply)
    try:
        await ensure_read(copy, job, supply)
        await ensure_counted(copy, weight, job)
    finally:
        copy.unlink(missing_ok=True)


async def ensure_read(copy: Path, job: JobContext, supply: Supply) -> None:
    """The image as a file."""
    with job.step(READ):
        fingerprint = job.params["fingerprint"]
        image = await supply.incus.images.get(fingerprint)
        done = 0
        try:
            with copy.open("wb") as file:
                async for chunk in supply.incus.images.export(fingerprint, stall=STALL):
                    await asyncio.to_thread(file.write, chunk)
                    done += len(chunk)
                    job.progress(done, image.size)
        except OSError as error:
            raise NoSpace(
                f"The image cannot be read out: {error.strerror}.",
                hint=f"It needs {image.size / 1e6:.0f} MB on the disk of {copy.parent}.",
            ) from error


async def ensure_counted(copy: Path, weight: Weight, job: JobContext) -> None:
    """Report and picture, both whole or not there."""
    with job.step(COUNT):
        part = weight.picture.with_suffix(".part.svg")
        paths = filter(None, (str(PACKAGE), os.environ.get("PYTHONPATH", "")))
        said = await proc.run(
            "nice", sys.executable, "-P", "-m", "tinyagentos.cli", "image", "report", copy,
            "--treemap", part, "--json",
            within=COUNT_WITHIN, env={"PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        with contextlib.suppress(FileNotFoundError):
            part.replace(weight.picture)
        weight.report.write_text(said)


def _copy_of(job: JobContext, supply: Supply) -> Path:
    folder = weight_of(supply.settings.cache_dir, "x").report.parent
    return folder / f"{job.params['fingerprint'][:12]}.image"
