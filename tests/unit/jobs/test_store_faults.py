"""The database fails at any write of a job: the job has an end, and nothing holds its subject."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.failing_store import Fault, Faults, never
from tests.unit.jobs.test_runner import World, die, make_runner
from tinyagentos.jobs.runner import Runner
from tinyagentos.model.errors import NoSpace, NotReady, StoreFailed, TaosError
from tinyagentos.model.job import Accepted, Job, JobState
from tinyagentos.store.database import Database
from tinyagentos.store.jobs import JobTable

MOST_WRITES = 16
WITHIN = 10.0
Prepare = Callable[[World], None]


def fails(world: World) -> None:
    world.fail_with = NotReady("no answer")


def commits(world: World) -> None:
    world.commit = True


def commits_and_fails(world: World) -> None:
    world.commit, world.fail_with = True, NotReady("no answer")


def roll_back_is_hard(world: World) -> None:
    world.fail_with, world.undo_failures = NotReady("no answer"), 3


def nothing(_: World) -> None:
    pass


JOBS = (nothing, fails, commits, commits_and_fails, roll_back_is_hard)
from_then_on = pytest.mark.parametrize("from_then_on", [False, True], ids=["once", "from then on"])
each_fault = pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
each_job = pytest.mark.parametrize("prepare", JOBS, ids=lambda prepare: prepare.__name__)


def chosen(number: int, from_then_on: bool) -> Callable[[int], bool]:
    return lambda write: write >= number if from_then_on else write == number


def runner_of(database: Database, world: World) -> Runner:
    return make_runner(
        database, world, is_transient=lambda e: isinstance(e, ConnectionError | StoreFailed)
    )


def submit(runner: Runner) -> Job | None:
    """The job, when it is accepted; a refusal is worded and leaves nothing."""
    try:
        return runner.submit("work", "agent:a", {})
    except (NoSpace, StoreFailed):
        assert runner.list_active() == ()
        return None


def assert_whole(ended: Job, world: World) -> None:
    """All of it, or nothing; what removed something for good may stop half-way."""
    assert not ended.is_active
    if ended.state is JobState.succeeded:
        assert world.made == {"one", "two"}
    elif not ended.committed:
        assert world.made == set()


async def assert_usable(runner: Runner, world: World) -> None:
    """The subject is free for the next job."""
    world.fail_with, world.commit, world.undo_failures = None, False, 0
    ended = await runner.wait_job(runner.submit("work", "agent:a", {}).id)
    assert ended.state is JobState.succeeded


@each_job
@each_fault
@from_then_on
async def test_a_write_fails(prepare: Prepare, fault: Fault, from_then_on: bool) -> None:
    for number in range(1, MOST_WRITES):
        faults, world = Faults(), World()
        prepare(world)
        world.go_on.set()
        database = faults.open(":memory:")
        runner = runner_of(database, world)
        faults.begin(chosen(number, from_then_on), fault)
        async with asyncio.timeout(WITHIN):
            if job := submit(runner):
                ended = await runner.wait_job(job.id)
                assert_whole(ended, world)
                assert runner.get_job(job.id) == ended
                assert runner.list_jobs() == (ended,)
            faults.end()
            database.flush()
            assert database.failure is None
            if job:
                assert JobTable(database).get(job.id) == ended
            await assert_usable(runner, world)
        database.close()


@each_job
@pytest.mark.parametrize("fault", [Fault.full, Fault.not_synced], ids=lambda fault: fault.name)
async def test_a_write_fails_and_then_the_server_dies(prepare: Prepare, fault: Fault) -> None:
    for number in range(2, MOST_WRITES):
        faults, world = Faults(), World()
        prepare(world)
        world.go_on.set()
        database = faults.open(":memory:")
        runner = runner_of(database, world)
        faults.begin(chosen(number, from_then_on=True), fault)
        async with asyncio.timeout(WITHIN):
            if (job := submit(runner)) is None:
                continue
            await runner.wait_job(job.id)
            await die(runner)
            faults.end()
            # What waited to be written died with the first.
            second = runner_of(database, world)
            second.start()
            ended = await second.wait_job(job.id)
            assert_whole(ended, world)
            await assert_usable(second, world)
        database.close()


@each_fault
async def test_a_cancel_counts_though_it_cannot_be_written(fault: Fault, tmp_path: Path) -> None:
    faults, world = Faults(), World()
    database = faults.open(tmp_path / "db")
    runner = runner_of(database, world)
    job = runner.submit("work", "agent:a", {})
    await world.entered.wait()
    faults.begin(lambda _: True, fault)
    assert runner.cancel_job(job.id).cancel_requested
    ended = await runner.wait_job(job.id)
    assert (ended.state, world.made) == (JobState.cancelled, set())
    with pytest.raises(TaosError):
        runner.submit("work", "agent:a", {})
    faults.end()
    world.go_on.set()
    await assert_usable(runner, world)
    database.close()


async def test_a_job_waits_for_a_program_that_holds_the_database(tmp_path: Path) -> None:
    faults, world = Faults(), World()
    world.go_on.set()
    database = faults.open(tmp_path / "db")
    runner = runner_of(database, world)
    faults.begin(lambda write: 2 <= write <= 4, Fault.locked)
    ended = await runner.wait_job(runner.submit("work", "agent:a", {}).id)
    assert ended.state is JobState.succeeded
    database.close()


async def test_what_cannot_be_undone_is_not_begun_unwritten(tmp_path: Path) -> None:
    """Else the next server would take the job for one that can be cancelled."""
    faults, world = Faults(), World()
    world.commit = True
    database = faults.open(tmp_path / "db")
    runner = runner_of(database, world)

    async def work(job: object) -> None:
        world.entered.set()
        await world.go_on.wait()
        await world.work(job)  # type: ignore[arg-type]

    from tinyagentos.jobs.runner import JobKind

    runner.register(JobKind("work", work, world.undo))
    job = runner.submit("work", "agent:a", {})
    await world.entered.wait()
    faults.begin(lambda _: True, Fault.full)
    world.go_on.set()
    ended = await runner.wait_job(job.id)
    assert (ended.state, ended.committed, world.made) == (JobState.failed, False, set())
    assert ended.error
    assert ended.error.code == "no_space"
    database.close()


async def test_a_job_that_cannot_be_noted_as_begun_makes_nothing(tmp_path: Path) -> None:
    faults, world = Faults(), World()
    database = faults.open(tmp_path / "db")
    runner = runner_of(database, world)
    faults.begin(lambda write: write >= 2, Fault.full)
    ended = await runner.wait_job(runner.submit("work", "agent:a", {}).id)
    assert (ended.state, world.runs, world.undos) == (JobState.failed, 0, 1)
    database.close()


def test_what_a_request_was_answered_is_known_though_it_was_not_written(tmp_path: Path) -> None:
    faults = Faults()
    database = faults.open(tmp_path / "db")
    table = JobTable(database)
    faults.begin(lambda _: True, Fault.full)
    answer = Accepted("key", "digest", "1", "{}")
    table.keep_accepted(answer)
    assert table.find_accepted("key") == answer
    faults.begin(never, Fault.full)
    database.flush()
    assert JobTable(Database(tmp_path / "db")).find_accepted("key") == answer
    database.close()
