"""Jobs: run, fail, cancel, survive the death of the server, and are undone completely."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from tinyagentos.jobs.context import JobContext
from tinyagentos.jobs.runner import PAUSES, JobKind, Runner
from tinyagentos.model.errors import Conflict, NotFound, NotReady
from tinyagentos.model.job import Job, JobState, Problem, StepState
from tinyagentos.store.database import Database
from tinyagentos.store.jobs import JobTable


class World:
    """What jobs of these tests change, and a clock that moves when told."""

    def __init__(self) -> None:
        self.made: set[str] = set()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.fail_with: Exception | None = None
        self.undo_failures = 0
        self.undo_error: Exception = ConnectionError("Incus is away")
        self.undos = 0
        self.runs = 0
        self.commit = False

    async def work(self, job: JobContext) -> None:
        self.runs += 1
        job.plan_steps("one", "two")
        with job.step("one"):
            self.made.add("one")
            self.now += timedelta(seconds=3)
        with job.step("two"):
            if self.commit:
                job.commit()
            self.entered.set()
            await self.go_on.wait()
            if self.fail_with:
                raise self.fail_with
            self.made.add("two")

    async def undo(self, job: JobContext) -> None:
        self.undos += 1
        if self.undo_failures:
            self.undo_failures -= 1
            raise self.undo_error
        self.made.clear()


@pytest.fixture
def database() -> Iterator[Database]:
    opened = Database(":memory:")
    yield opened
    opened.close()


@pytest.fixture
def world() -> World:
    return World()


def make_runner(database: Database, world: World, **more: Any) -> Runner:
    ids = count(len(JobTable(database).list_newest()) + 1)

    async def no_sleep(_: float) -> None:
        await asyncio.sleep(0)

    runner = Runner(
        JobTable(database),
        clock=lambda: world.now,
        new_id=lambda: f"job{next(ids)}",
        explain=lambda error: Problem(getattr(error, "code", "internal"), str(error)),
        sleep=no_sleep,
        **{"is_transient": lambda error: isinstance(error, ConnectionError), **more},
    )
    runner.register(JobKind("work", world.work, world.undo, ("one", "two")))
    return runner


async def die(runner: Runner) -> None:
    """End the runner as a killed server would: nothing more reaches the disk."""
    runner._keep = lambda *_args, **_kwargs: None  # type: ignore[method-assign]
    await runner.stop()


async def test_a_job_succeeds_with_its_steps_timed(database: Database, world: World) -> None:
    runner = make_runner(database, world)
    world.go_on.set()
    job = await runner.wait_job(runner.submit("work", "agent:a", {}).id)
    assert job.state is JobState.succeeded
    assert [(s.name, s.state, s.seconds) for s in job.steps] == [
        ("one", StepState.succeeded, 3.0),
        ("two", StepState.succeeded, 0.0),
    ]
    assert world.made == {"one", "two"}


async def test_a_failed_job_is_undone_and_keeps_its_reason(
    database: Database, world: World
) -> None:
    runner = make_runner(database, world)
    world.fail_with = NotReady("no answer")
    world.go_on.set()
    job = await runner.wait_job(runner.submit("work", "agent:a", {}).id)
    assert job.state is JobState.failed
    assert job.error == Problem("not_ready", "no answer")
    assert world.made == set()


async def test_undoing_is_tried_until_it_works(database: Database, world: World) -> None:
    runner = make_runner(database, world)
    world.fail_with, world.undo_failures = NotReady("no answer"), 4
    world.go_on.set()
    job = await runner.wait_job(runner.submit("work", "agent:a", {}).id)
    assert (job.state, world.made, world.undo_failures) == (JobState.failed, set(), 0)


async def test_cancelling_a_running_job_undoes_it(database: Database, world: World) -> None:
    runner = make_runner(database, world)
    job = runner.submit("work", "agent:a", {})
    await world.entered.wait()
    assert world.made == {"one"}
    runner.cancel_job(job.id)
    ended = await runner.wait_job(job.id)
    assert ended.state is JobState.cancelled
    assert world.made == set()
    with pytest.raises(Conflict):
        runner.cancel_job(job.id)


async def test_what_passes_by_itself_is_tried_again(database: Database, world: World) -> None:
    runner = make_runner(database, world)
    world.fail_with = ConnectionError("Incus restarts")
    job = runner.submit("work", "agent:a", {})
    await world.entered.wait()
    world.go_on.set()
    while world.runs < 3:
        await asyncio.sleep(0)
    world.fail_with = None
    assert (await runner.wait_job(job.id)).state is JobState.succeeded


async def test_one_job_at_a_time_works_on_a_subject(database: Database, world: World) -> None:
    runner = make_runner(database, world)
    first = runner.submit("work", "agent:a", {})
    with pytest.raises(Conflict, match="agent a"):
        runner.submit("work", "agent:a", {})
    world.go_on.set()
    await runner.wait_job(first.id)
    assert (await runner.wait_job(runner.submit("work", "agent:a", {}).id)).state == "succeeded"


async def test_the_same_idempotency_key_gives_the_same_job(
    database: Database, world: World
) -> None:
    runner = make_runner(database, world)
    first = runner.submit("work", "agent:a", {}, idempotency_key="k")
    assert runner.submit("work", "agent:a", {}, idempotency_key="k").id == first.id
    world.go_on.set()
    await runner.wait_job(first.id)
    assert runner.submit("work", "agent:a", {}, idempotency_key="k").id == first.id
    assert world.runs == 1


async def test_a_killed_server_takes_its_jobs_up_again(database: Database, world: World) -> None:
    runner = make_runner(database, world)
    job = runner.submit("work", "agent:a", {"x": "1"})
    await world.entered.wait()
    await die(runner)
    again = make_runner(database, world)
    world.go_on.set()
    again.start()
    ended = await again.wait_job(job.id)
    assert (ended.state, ended.attempt, world.runs) == (JobState.succeeded, 2, 2)
    assert ended.steps[0].seconds == 6.0


async def test_a_cancel_survives_the_death_of_the_server(database: Database, world: World) -> None:
    world.undo_failures = 10**6
    runner = make_runner(database, world)
    job = runner.submit("work", "agent:a", {})
    await world.entered.wait()
    runner.cancel_job(job.id)
    await asyncio.sleep(0)
    await die(runner)
    assert world.made == {"one"}
    world.undo_failures = 0
    again = make_runner(database, world)
    again.start()
    assert (await again.wait_job(job.id)).state is JobState.cancelled
    assert (world.made, world.runs) == (set(), 1)


async def test_a_failure_under_way_is_not_run_again_after_a_death(
    database: Database, world: World
) -> None:
    world.undo_failures, world.fail_with = 10**6, NotReady("no answer")
    world.go_on.set()
    runner = make_runner(database, world)
    job = runner.submit("work", "agent:a", {})
    while not runner.get_job(job.id).error:
        await asyncio.sleep(0)
    await die(runner)
    world.undo_failures = 0
    again = make_runner(database, world)
    again.start()
    ended = await again.wait_job(job.id)
    assert (ended.state, ended.error.message if ended.error else "") == ("failed", "no answer")
    assert (world.made, world.runs) == (set(), 1)


async def test_a_stopping_server_leaves_jobs_to_the_next(database: Database, world: World) -> None:
    runner = make_runner(database, world)
    job = runner.submit("work", "agent:a", {})
    await world.entered.wait()
    await runner.stop()
    assert JobTable(database).get(job.id).state is JobState.interrupted
    assert world.made == {"one"}
    again = make_runner(database, world)
    world.go_on.set()
    again.start()
    assert (await again.wait_job(job.id)).state is JobState.succeeded


async def test_a_job_that_ends_the_server_each_time_is_given_up(
    database: Database, world: World
) -> None:
    job_id = ""
    for _ in range(10):
        runner = make_runner(database, world)
        world.entered.clear()
        if job_id:
            runner.start()
        else:
            job_id = runner.submit("work", "agent:a", {}).id
        await world.entered.wait()
        await die(runner)
    last = make_runner(database, world)
    last.start()
    ended = await last.wait_job(job_id)
    assert (ended.state, world.made) == (JobState.failed, set())


async def test_watching_ends_with_the_final_state(database: Database, world: World) -> None:
    runner = make_runner(database, world)
    job = runner.submit("work", "agent:a", {})
    world.go_on.set()
    states = [seen.state async for seen in runner.watch_job(job.id)]
    assert states[-1] is JobState.succeeded


def test_an_unknown_job_is_not_found(database: Database, world: World) -> None:
    with pytest.raises(NotFound):
        make_runner(database, world).get_job("nothing")


async def test_how_a_job_ended_can_be_dismissed(database: Database, world: World) -> None:
    runner = make_runner(database, world)
    world.fail_with = NotReady("no answer")
    job = runner.submit("work", "agent:a", {})
    with pytest.raises(Conflict):
        runner.dismiss_job(job.id)
    world.go_on.set()
    assert not (await runner.wait_job(job.id)).dismissed
    changes = runner.watch_changes()
    told = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    runner.dismiss_job(job.id)
    assert job.id in await told
    [kept] = make_runner(database, world).list_jobs()
    assert (kept.dismissed, kept.state) == (True, JobState.failed)


async def test_a_failed_job_can_be_retried(database: Database, world: World) -> None:
    runner = make_runner(database, world)
    world.fail_with = NotReady("no answer")
    world.go_on.set()
    failed = await runner.wait_job(runner.submit("work", "agent:a", {"x": "1"}).id)
    world.fail_with = None
    again = await runner.wait_job((await runner.retry_job(failed.id)).id)
    assert (again.state, again.params) == (JobState.succeeded, {"x": "1"})


async def test_a_watcher_of_all_jobs_hears_of_each_and_its_end_is_forgotten(
    database: Database, world: World
) -> None:
    runner = make_runner(database, world)
    changes = runner.watch_changes()
    first = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    one = runner.submit("work", "agent:a", {})
    two = runner.submit("work", "agent:b", {})
    assert await first == {one.id, two.id}
    second = asyncio.ensure_future(anext(changes))
    world.go_on.set()
    await runner.wait_job(one.id)
    assert one.id in await second
    await changes.aclose()  # type: ignore[attr-defined] # it is a generator
    assert not runner._feeds


async def test_what_an_earlier_attempt_began_elsewhere_is_waited_for(
    database: Database, world: World
) -> None:
    """After a crash, and before a try after a fault that may pass; never the first time."""
    order: list[str] = []

    async def settle(job: Job) -> None:
        order.append(f"settle {job.attempt}")

    async def work(job: JobContext) -> None:
        order.append(f"work {job.job.attempt}")
        if len(order) == 1:
            raise ConnectionError
        await world.go_on.wait()

    def make() -> Runner:
        runner = make_runner(database, world, settle=settle)
        runner.register(JobKind("more", work))
        return runner

    first = make()
    job = first.submit("more", "agent:a", {})
    while len(order) < 3:
        await asyncio.sleep(0)
    await die(first)
    second = make()
    world.go_on.set()
    second.start()
    assert (await second.wait_job(job.id)).state is JobState.succeeded
    assert order == ["work 1", "settle 1", "work 1", "settle 2", "work 2"]


async def test_a_roll_back_that_incus_refuses_is_given_up_and_holds_nothing(
    database: Database, world: World
) -> None:
    runner = make_runner(database, world)
    world.fail_with, world.undo_failures = NotReady("no answer"), 10**6
    world.undo_error = PermissionError("it does not let me")
    world.go_on.set()
    ended = await runner.wait_job(runner.submit("work", "agent:a", {}).id)
    assert ended.state is JobState.failed
    assert ended.error
    assert ended.error.code == "not_ready"
    assert ended.error.message == ("It failed; roll back incomplete: it does not let me\nno answer")
    assert [step.state for step in ended.steps if step.name == "roll back"] == [StepState.failed]
    assert world.undos == len(PAUSES) + 1
    world.undo_failures = 0
    assert runner.submit("work", "agent:a", {}).state is JobState.queued, "the lock is free"


async def test_a_cancelled_job_that_cannot_be_undone_has_failed(
    database: Database, world: World
) -> None:
    runner = make_runner(database, world)
    world.undo_failures, world.undo_error = 10**6, PermissionError("no")
    job = runner.submit("work", "agent:a", {})
    await world.entered.wait()
    runner.cancel_job(job.id)
    ended = await runner.wait_job(job.id)
    assert (ended.state, ended.error and ended.error.message) == (
        JobState.failed, "It was cancelled; roll back incomplete: no",
    )  # fmt: skip


async def test_while_incus_is_away_a_roll_back_is_not_given_up(
    database: Database, world: World
) -> None:
    runner = make_runner(database, world)
    world.fail_with, world.undo_failures = NotReady("no answer"), 3 * len(PAUSES)
    world.go_on.set()
    ended = await runner.wait_job(runner.submit("work", "agent:a", {}).id)
    assert (ended.state, world.made) == (JobState.failed, set())
    assert ended.error == Problem("not_ready", "no answer")


async def test_a_hindered_roll_back_can_be_given_up_at_once(
    database: Database, world: World
) -> None:
    runner = make_runner(database, world)
    world.undo_failures = 10**9
    job = runner.submit("work", "agent:a", {})
    await world.entered.wait()
    with pytest.raises(Conflict, match="still at work"):
        await runner.give_up(job.id)
    runner.cancel_job(job.id)
    while not runner.is_hindered(job.id):
        await asyncio.sleep(0)
    runner.cancel_job(job.id)
    await asyncio.sleep(0)
    assert runner.get_job(job.id).is_active, "a second cancel changes nothing"
    ended = await runner.give_up(job.id)
    assert (ended.state, ended.error and ended.error.message) == (
        JobState.failed, "It was cancelled; roll back incomplete: Incus is away",
    )  # fmt: skip
    assert not runner.is_hindered(job.id)
    assert runner.find_active("agent:a") is None


@pytest.mark.parametrize("state", [JobState.queued, JobState.running, JobState.interrupted])
@pytest.mark.parametrize(
    ("kind", "said"), [("dance", "knows no 'dance' jobs"), ("needy", "does not say 'what'")]
)
async def test_a_job_of_another_version_ends_as_failed(
    kind: str, said: str, state: JobState, database: Database, world: World
) -> None:
    job = Job("old", kind, "agent:a", world.now, state, {"x": "1"})
    JobTable(database).add(job)
    runner = make_runner(database, world)
    runner.register(JobKind("needy", world.work, needs=("x", "what")))
    runner.start()
    ended = runner.get_job("old")
    assert ended.state is JobState.failed
    assert ended.error
    assert (ended.error.code, said in ended.error.message) == ("invalid_input", True)
    assert (world.runs, runner.list_active()) == (0, ())
    with pytest.raises(Conflict, match=said):
        await runner.retry_job("old")
    runner.submit("work", "agent:a", {})
    await runner.stop()


async def test_a_retry_finds_out_anew_what_the_job_needs(database: Database, world: World) -> None:
    async def recheck(job: Job) -> dict[str, str]:
        if not world.made:
            raise NotFound("There is no agent 'a'.", hint="Look.")
        return {"before": f"not {job.params['before']}"}

    runner = make_runner(database, world)
    runner.register(JobKind("change", world.work, recheck=recheck))
    world.fail_with = NotReady("no answer")
    world.go_on.set()
    failed = await runner.wait_job(runner.submit("change", "agent:a", {"before": "1"}).id)
    again = await runner.retry_job(failed.id)
    assert again.params == {"before": "not 1"}
    await runner.wait_job(again.id)
    world.made.clear()
    with pytest.raises(Conflict, match="no agent 'a'"):
        await runner.retry_job(failed.id)


async def test_past_the_point_of_no_return_a_cancel_is_refused(
    database: Database, world: World
) -> None:
    world.commit = True
    runner = make_runner(database, world)
    job = runner.submit("work", "agent:a", {})
    await world.entered.wait()
    with pytest.raises(Conflict, match="cannot be undone"):
        runner.cancel_job(job.id)
    await die(runner)
    again = make_runner(database, world)
    again.start()
    with pytest.raises(Conflict, match="cannot be undone"):
        again.cancel_job(job.id)
    world.go_on.set()
    assert (await again.wait_job(job.id)).state is JobState.succeeded
    assert world.made == {"one", "two"}


async def test_what_fails_past_the_point_of_no_return_is_not_undone(
    database: Database, world: World
) -> None:
    world.commit, world.fail_with = True, NotReady("no answer")
    world.go_on.set()
    runner = make_runner(database, world)
    ended = await runner.wait_job(runner.submit("work", "agent:a", {}).id)
    assert (ended.state, world.made, world.undos) == (JobState.failed, {"one"}, 0)


async def test_a_cancel_just_before_the_point_of_no_return_counts(
    database: Database, world: World
) -> None:
    runner = make_runner(database, world)

    async def work(job: JobContext) -> None:
        world.made.add("one")
        runner.cancel_job(job.job.id)
        job.commit()
        world.made.add("gone for ever")

    runner.register(JobKind("end", work, world.undo))
    ended = await runner.wait_job(runner.submit("end", "agent:a", {}).id)
    assert (ended.state, world.made) == (JobState.cancelled, set())


async def test_a_step_that_a_dead_server_left_does_not_run_for_ever(
    database: Database, world: World
) -> None:
    runner = make_runner(database, world)
    job = runner.submit("work", "agent:a", {})
    await world.entered.wait()
    await die(runner)
    again = make_runner(database, world)
    again.start()
    again.cancel_job(job.id)
    ended = await again.wait_job(job.id)
    assert ended.state is JobState.cancelled
    assert StepState.running not in {step.state for step in ended.steps}
