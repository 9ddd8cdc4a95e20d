"""A job of each kind while the database fails, and what has to be true after it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.deploy.cases import Case, Channel, prepared, sum_up, undisturbed
from tests.deploy.world import Taos
from tests.fakes.failing_store import Faults
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents.reconcile import RETURN
from tinyagentos.agents.steps import DEPLOY
from tinyagentos.model.errors import NotFound
from tinyagentos.model.job import Job, JobState

WITHIN = 60.0
# What is made after the job, and is not made when that cannot be written down.
MORE = {DEPLOY: frozenset({"images", "aliases"})}
# What was put right already when the job was asked for.
LESS = {RETURN: frozenset({"sockets"})}


async def prepared_with(
    case: Case, folder: Path, fake: FakeIncus, channel: Channel, faults: Faults
) -> Taos:
    """A server whose database can fail, with all that the case's job needs."""
    taos = await prepared(case, folder, fake, {**channel, "connect": faults.connect})
    fake.ready_after = 1
    return taos


async def ended(taos: Taos, job: Job) -> Job:
    """The job when it has ended; every other job has, too."""
    async with asyncio.timeout(WITHIN):
        last = await taos.runner.wait_job(job.id)
        await taos.idle()
    return last


async def assert_all_or_nothing(
    case: Case, job: Job, taos: Taos, before: dict[str, object], channel: Channel
) -> None:
    """The job did what was asked for, or nothing."""
    after = await sum_up(taos)
    if job.state is JobState.succeeded:
        ignored = MORE.get(job.kind, frozenset())
        assert different(after, await undisturbed(case, channel), ignored) == {}
        return
    assert job.state is JobState.failed
    assert job.error
    assert job.error.code in ("no_space", "store_failed")
    assert not job.committed
    ignored = case.stays | LESS.get(job.kind, frozenset())
    assert different(after, before, ignored) == {}


def different(
    one: dict[str, object], other: dict[str, object], ignored: frozenset[str]
) -> dict[str, tuple[object, object]]:
    """The parts of two worlds that differ, by name."""
    return {
        part: (value, other[part])
        for part, value in one.items()
        if value != other[part] and part not in ignored
    }


async def assert_usable(taos: Taos) -> None:
    """The database answers again: agents can be deployed and deleted."""
    assert (await taos.deploy("next", source="build")).state is JobState.succeeded
    await taos.idle()
    await assert_deletable(taos, "next", "hello")


async def assert_deletable(taos: Taos, *names: str) -> None:
    """The database answers again: these agents can be deleted."""
    for name in names:
        try:
            job = await taos.agents.start_delete(name)
        except NotFound:
            continue  # the case deleted it
        assert (await ended(taos, job)).state is JobState.succeeded
    assert taos.database.failure is None
