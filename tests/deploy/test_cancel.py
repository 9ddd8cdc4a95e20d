"""Somebody cancels in every step of every kind of job: all is as before, or it is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.cases import (
    Case,
    Channel,
    begin_world,
    in_each_step,
    prepared,
    sum_up,
    undisturbed,
)
from tests.deploy.world import Taos
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.model.errors import Conflict
from tinyagentos.model.job import JobState


@pytest.mark.parametrize("dies", [False, True], ids=["server lives", "server dies"])
@in_each_step
async def test_somebody_cancels(
    case: Case, step: str, dies: bool, folder: Path, fake: FakeIncus, channel: Channel
) -> None:
    taos = await prepared(case, folder, fake, channel)
    before = await sum_up(taos)
    fake.ready_after = 1
    job = await case.begin(taos)
    await taos.until(job.id, step)
    refused = cancel(taos, job.id)
    assert not refused or "cannot be undone" in refused or "has ended" in refused
    if dies:
        await taos.die()
        taos = begin_world(folder, fake, channel)
    ended = await taos.runner.wait_job(job.id)
    await taos.idle()
    if ended.state is JobState.succeeded:
        assert await sum_up(taos) == await undisturbed(case, channel)
    else:
        assert ended.state is JobState.cancelled, ended.error
        after = await sum_up(taos)
        assert without(after, case.stays) == without(before, case.stays)
    await taos.close()


def without(world: dict[str, object], parts: frozenset[str]) -> dict[str, object]:
    return {part: value for part, value in world.items() if part not in parts}


def cancel(taos: Taos, job_id: str) -> str:
    """Cancel the job; why that is refused, if it is."""
    try:
        taos.runner.cancel_job(job_id)
    except Conflict as error:
        return error.message
    return ""
