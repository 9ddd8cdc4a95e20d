"""The database fails while each kind of job is at work; the exhaustive form is in tests/attack."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.deploy.cases import CASES, Case, Channel, begin_world, sum_up, undisturbed
from tests.deploy.store_faults import (
    assert_all_or_nothing,
    assert_usable,
    ended,
    prepared_with,
)
from tests.fakes.failing_store import Fault, Faults
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.model.job import JobState

FAULTS = list(zip(CASES, itertools.cycle(Fault), strict=False))
each_case = pytest.mark.parametrize(
    ("case", "fault"), FAULTS, ids=[f"{case.name}, {fault.name}" for case, fault in FAULTS]
)


@each_case
async def test_every_second_write_fails(
    case: Case, fault: Fault, folder: Path, fake: FakeIncus, channel: Channel
) -> None:
    faults = Faults()
    taos = await prepared_with(case, folder, fake, channel, faults)
    before = await sum_up(taos)
    accepted = await case.begin(taos)
    faults.begin(lambda write: write % 2 == 0, fault)
    job = await ended(taos, accepted)
    faults.end()
    taos.database.flush()
    await assert_all_or_nothing(case, job, taos, before, channel)
    await assert_usable(taos)
    await taos.close()


@each_case
async def test_its_end_is_not_written_and_the_server_dies(
    case: Case, fault: Fault, folder: Path, fake: FakeIncus, channel: Channel
) -> None:
    """The next server does it again from the top, on a world where it is done already."""
    faults = Faults()
    taos = await prepared_with(case, folder, fake, channel, faults)
    job = await case.begin(taos)
    await taos.until(job.id, case.steps[-1])
    faults.begin(lambda _: True, fault)
    first = await ended(taos, job)
    await taos.die()
    second = begin_world(folder, fake, channel)
    last = await ended(second, job)
    assert last.state is JobState.succeeded, (first, last.error)
    assert await sum_up(second) == await undisturbed(case, channel)
    await second.close()
