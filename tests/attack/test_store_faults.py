"""The database fails from each write of each kind of job on, until the job has ended."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest

from tests.deploy.cases import CASES, Case, Channel, channel_of, sum_up
from tests.deploy.store_faults import assert_all_or_nothing, assert_deletable, ended, prepared_with
from tests.fakes.failing_store import Fault, Faults
from tests.fakes.fake_incus import FakeIncus

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_from_each_write_on(case: Case, tmp_path: Path) -> None:
    channel = channel_of(tmp_path)
    fault = itertools.cycle(Fault)
    for number in itertools.count(1):
        if not await disturbed(case, number, next(fault), channel):
            assert number > 2, "the job was begun and ended"
            return


async def disturbed(case: Case, number: int, fault: Fault, channel: Channel) -> bool:
    """Whether the job wrote that often, with all that has to be true after it."""
    faults = Faults()
    with tempfile.TemporaryDirectory(prefix="taos-", ignore_cleanup_errors=True) as name:
        async with FakeIncus(Path(name) / "incus.sock") as fake:
            taos = await prepared_with(case, Path(name), fake, channel, faults)
            before = await sum_up(taos)
            accepted = await case.begin(taos)
            faults.begin(lambda write: write >= number, fault)
            job = await ended(taos, accepted)
            reached = faults.writes >= number
            faults.end()
            taos.database.flush()
            await assert_all_or_nothing(case, job, taos, before, channel)
            assert taos.runner.get_job(job.id) == job
            await assert_deletable(taos, "hello")
            await taos.close()
    return reached
