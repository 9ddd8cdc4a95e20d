"""Incus goes away and comes back in every step of every kind of job: nothing is left or lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.deploy.cases import Case, Channel, in_each_step, prepared, sum_up, undisturbed
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.model.job import JobState

AWAY = 0.05


@in_each_step
async def test_incus_restarts(
    case: Case, step: str, folder: Path, fake: FakeIncus, channel: Channel
) -> None:
    taos = await prepared(case, folder, fake, channel)
    job = await case.begin(taos)
    await taos.until(job.id, step)
    await fake.stop()
    await asyncio.sleep(AWAY)
    await fake.start()
    ended = await taos.runner.wait_job(job.id)
    assert ended.state is JobState.succeeded, ended.error
    await taos.idle()
    assert await sum_up(taos) == await undisturbed(case, channel)
    await taos.close()
