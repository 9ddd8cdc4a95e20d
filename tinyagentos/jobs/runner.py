"""Runs jobs: at most so many at a time, again after a crash, and back to nothing on failure.

A run that fails or is cancelled is undone before the job ends. While Incus is away the job stays in
its "roll back" step, so that nothing is left behind. What Incus refuses is tried for some minutes:
then the job ends as failed, says what is left, and holds nothing any more.

What a job is now is what this process knows. Its record follows as soon as the database takes it,
so that no failure of the database leaves a job without an end. Only two things wait for the
record: that a job begins, and that it cannot be undone any more (docs/adr/0082).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from tinyagentos import log
from tinyagentos.jobs.context import Clock, JobContext, Kept
from tinyagentos.model.errors import Cancelled, Conflict, InvalidInput, NotFound, TaosError
from tinyagentos.model.job import Accepted, Job, JobState, Problem, StepState, move
from tinyagentos.store.jobs import JobTable

_log = logging.getLogger(__name__)
ROLL_BACK = "roll back"
LONGEST_PAUSE = 60.0
# Seconds between tries of what failed for a passing reason.
PATIENCE = (1.0, 2.0, 4.0, 8.0, 16.0)
# Seconds between tries of a roll back that does not fail for a passing reason: ten minutes in all.
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, *(LONGEST_PAUSE,) * 9)

Work = Callable[[JobContext], Awaitable[None]]
Settle = Callable[[Job], Awaitable[None]]
Recheck = Callable[[Job], Awaitable[Mapping[str, str]]]
Sleep = Callable[[float], Awaitable[None]]


async def _settled(_: Job) -> None:
    """Nothing that an earlier attempt began goes on by itself."""


async def _nothing(_: JobContext) -> None:
    """Undo of a job that leaves nothing behind when it stops half-way."""


async def _same(job: Job) -> Mapping[str, str]:
    """Recheck of a job whose parameters are true at any time."""
    return job.params


@dataclass(frozen=True)
class JobKind:
    """One kind of job.

    run does the work and may be run again from the top after a crash; undo removes what run may
    have made. steps: every step name the kind can have. at_once: how many run at the same time.
    max_attempts: how often a crash of the server may start it again. needs: parameters without
    which it is a job of another taOS. recheck: the parameters of a retry, found out anew as things
    are now; it raises what asking for the job anew would. makes_room: it is accepted on a full disk
    as well.
    """

    name: str
    run: Work
    undo: Work = _nothing
    steps: tuple[str, ...] = ()
    at_once: int = 4
    max_attempts: int = 10
    needs: tuple[str, ...] = ()
    recheck: Recheck = _same
    makes_room: bool = False


@dataclass(eq=False)
class _Feed:
    """What one watcher of all jobs has not seen yet."""

    ids: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Runner:
    """The jobs of this server: accepts, runs, cancels, retries and shows them."""

    def __init__(
        self,
        table: JobTable,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        explain: Callable[[BaseException], Problem],
        is_transient: Callable[[BaseException], bool] = lambda _: False,
        sleep: Sleep = asyncio.sleep,
        settle: Settle = _settled,
    ) -> None:
        """explain words an unexpected exception; is_transient: it may pass if tried again soon.

        settle: returns when nothing goes on any more that an earlier attempt of the job began
        elsewhere; the server's death ends none of it.
        """
        self._table = table
        self._clock = clock
        self._new_id = new_id
        self._explain = explain
        self._is_transient = is_transient
        self._sleep = sleep
        self._settle = settle
        self._kinds: dict[str, JobKind] = {}
        self._places: dict[str, asyncio.Semaphore] = {}
        self._live: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._feeds: set[_Feed] = set()
        # What hinders the roll back of a job now, and those whose roll back is given up.
        self._hindered: dict[str, Problem] = {}
        self._given_up: set[str] = set()
        self._stopping = False
        # How many jobs have ended in this process.
        self.ended = 0

    def register(self, kind: JobKind) -> None:
        """Make a kind of job known. All kinds are registered before start()."""
        self._kinds[kind.name] = kind
        self._places[kind.name] = asyncio.Semaphore(kind.at_once)

    @property
    def kinds(self) -> Mapping[str, JobKind]:
        """The registered kinds by name."""
        return self._kinds

    def start(self) -> None:
        """Take up every job that an earlier server left unfinished. Waits for nothing."""
        for job in self._table.list_active():
            if job.state is JobState.running:
                job = move(job, JobState.interrupted)
            if job.state is JobState.interrupted:
                job = move(job, JobState.queued)
            self._keep(job)
            if why := self._foreign(job):
                self._end(job.id, JobState.failed, why)
                del self._live[job.id]
            else:
                self._begin(job)

    async def stop(self) -> None:
        """Stop running jobs where they are; the next start() takes them up again."""
        self._stopping = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def submit(
        self, kind: str, subject: str, params: Mapping[str, str], *, idempotency_key: str = ""
    ) -> Job:
        """Accept a job; it is on disk when this returns.

        The same idempotency key gives the job made before. Raises Conflict when another job is at
        work on the subject, NoSpace or StoreFailed when it cannot be kept.
        """
        job = Job(
            id=self._new_id(),
            kind=self._kinds[kind].name,
            subject=subject,
            created_at=self._clock(),
            params=dict(params),
            idempotency_key=idempotency_key,
        )
        kept = self._table.add(job, vital=self._kinds[kind].makes_room)
        if kept is job:
            self._show(job)
            self._begin(job)
        return self.get_job(kept.id)

    def list_jobs(self) -> tuple[Job, ...]:
        """The newest jobs, newest first."""
        return tuple(self._now(self._live.get(job.id, job)) for job in self._table.list_newest())

    def get_job(self, job_id: str) -> Job:
        """The job as it is now; NotFound when there is none."""
        return self._now(self._live.get(job_id) or self._table.get(job_id))

    def list_active(self) -> tuple[Job, ...]:
        """Jobs that still have work to do, oldest first."""
        return tuple(self._now(job) for job in self._live.values() if job.is_active)

    def find_active(self, subject: str) -> Job | None:
        """The job at work on the subject now, if any."""
        return next((job for job in self.list_active() if job.subject == subject), None)

    def find_by_key(self, idempotency_key: str) -> Job | None:
        """The job that was accepted with this idempotency key, if any."""
        found = self._table.find_by_key(idempotency_key)
        return self.get_job(found.id) if found else None

    def find_accepted(self, key: str) -> Accepted | None:
        """The request that came with this idempotency key and began a job, if any."""
        return self._table.find_accepted(key)

    def keep_accepted(self, accepted: Accepted) -> None:
        """Keep what a request was answered, for as long as its job is kept."""
        self._table.keep_accepted(accepted)

    def cancel_job(self, job_id: str) -> Job:
        """Ask the job to stop and undo what it did, also while that cannot be written down.

        Raises Conflict when it has ended, or cannot be undone any more.
        """
        job = self.get_job(job_id)
        if not job.is_active:
            raise Conflict(
                f"The job has ended: it {job.state}.", hint="There is nothing to cancel."
            )
        if job.committed:
            raise Conflict(
                f"What the {job.kind} job does cannot be undone any more.",
                hint=f"It goes on to its end: `taos job watch {job.id}`.",
            )
        self._keep(replace(job, cancel_requested=True))
        # Not at once: a task that is cancelled before its first step never ends the job.
        asyncio.get_running_loop().call_soon(self._tasks[job_id].cancel)
        return self.get_job(job_id)

    async def retry_job(self, job_id: str) -> Job:
        """A new job that does the same, as things are now.

        Raises Conflict when the old one is at work or succeeded, or what it was to do cannot be
        done any more; and whatever else asking for it anew would.
        """
        job = self.get_job(job_id)
        if job.is_active:
            raise Conflict("The job is still at work.", hint="Cancel it first, or watch it.")
        if job.state is JobState.succeeded:
            raise Conflict("The job succeeded.", hint="There is nothing to do again.")
        if why := self._foreign(job):
            raise Conflict(why.message, hint=why.hint)
        try:
            params = await self._kinds[job.kind].recheck(job)
        except NotFound as error:
            # 404 would say that there is no such job.
            raise Conflict(error.message, hint=error.hint) from error
        return self.submit(job.kind, job.subject, params)

    def is_hindered(self, job_id: str) -> bool:
        """Whether the job is rolled back and the last try of that failed."""
        return job_id in self._hindered

    async def give_up(self, job_id: str) -> Job:
        """End a job whose roll back is hindered, as failed, so that its subject is free.

        Raises Conflict unless it is so.
        """
        if job_id not in self._hindered:
            raise Conflict("The job is still at work.", hint="Watch it, or cancel it first.")
        self._given_up.add(job_id)
        self._tasks[job_id].cancel()
        return await self.wait_job(job_id)

    def dismiss_job(self, job_id: str) -> None:
        """Note that somebody has seen how the job ended; Conflict when it is still at work."""
        job = self.get_job(job_id)
        if job.is_active:
            raise Conflict("The job is still at work.", hint="Cancel it first, or watch it.")
        self._table.keep(replace(job, dismissed=True))
        self._tell(job_id)

    async def watch_job(self, job_id: str) -> AsyncIterator[Job]:
        """The job now, then after each change, ending with its final state."""
        changed = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(changed)
        try:
            while True:
                changed.clear()
                job = self.get_job(job_id)
                yield job
                if not job.is_active:
                    return
                await changed.wait()
        finally:
            self._watchers[job_id].discard(changed)

    async def watch_changes(self) -> AsyncIterator[frozenset[str]]:
        """The ids of jobs that changed since the last time this was asked, whenever there are."""
        feed = _Feed()
        self._feeds.add(feed)
        try:
            while True:
                await feed.changed.wait()
                feed.changed.clear()
                ids, feed.ids = frozenset(feed.ids), set()
                yield ids
        finally:
            self._feeds.discard(feed)

    async def wait_job(self, job_id: str) -> Job:
        """The job when it has ended."""
        async for job in self.watch_job(job_id):
            last = job
        return last

    def _begin(self, job: Job) -> None:
        self._tasks[job.id] = asyncio.create_task(self._run(job.id), name=f"job {job.id}")

    async def _run(self, job_id: str) -> None:
        log.job_id.set(job_id)
        job = self._live[job_id]
        kind = self._kinds[job.kind]
        try:
            try:
                async with self._places[kind.name]:
                    await self._carry_out(kind, job_id)
            except asyncio.CancelledError:
                job = self._live[job_id]
                if self._stopping or not job.cancel_requested:
                    self._interrupt(job_id)
                    raise
                # Cancelled before its turn: nothing was made unless an earlier attempt did.
                await self._finish(kind, job_id, JobState.cancelled)
        except Exception as error:
            # A fault of ours: without an end the job would hold its subject for ever.
            _log.exception("job could not be brought to its end")
            if self._live[job_id].is_active:
                self._end(job_id, JobState.failed, self._explain(error))
        finally:
            self._tasks.pop(job_id, None)
            self._given_up.discard(job_id)
            if not self._live[job_id].is_active:
                del self._live[job_id]
                with contextlib.suppress(TaosError):  # the end of the next job does it
                    self._table.prune()

    async def _carry_out(self, kind: JobKind, job_id: str) -> None:
        """Run the job to one of its final states."""
        job = self._live[job_id]
        job = replace(
            move(job, JobState.running),
            attempt=job.attempt + 1,
            started_at=job.started_at or self._clock(),
        )
        try:
            await self._note_begun(job)
        except TaosError as error:
            self._keep(job)
            self._fail(job_id, self._explain(error))
            # It made nothing, but it may have been to tidy up after another.
            await self._finish(kind, job_id, JobState.failed)
            return
        if job.attempt > 1:
            await self._settle(job)
            job = self._live[job_id]
        if job.cancel_requested:
            await self._finish(kind, job_id, JobState.cancelled)
        elif job.error:
            await self._finish(kind, job_id, JobState.failed)
        elif job.attempt > kind.max_attempts:
            self._fail(
                job_id,
                Problem(
                    "internal",
                    f"The server ended {job.attempt - 1} times while this job ran.",
                    "Look at the server's log, then retry the job.",
                ),
            )
            await self._finish(kind, job_id, JobState.failed)
        else:
            await self._try(kind, job_id)

    async def _note_begun(self, job: Job) -> None:
        """Have it on disk that the job runs before it makes anything, so that this can be undone.

        Of an attempt after the first that is on disk already. Raises NoSpace or StoreFailed.
        """
        pauses = iter(PATIENCE)
        is_first = job.attempt == 1
        while True:
            try:
                self._keep(job, Kept.certain if is_first else Kept.soon)
                return
            except TaosError as error:
                pause = next(pauses, None)
                if pause is None or not self._is_transient(error):
                    raise
            await self._sleep(pause)

    async def _try(self, kind: JobKind, job_id: str) -> None:
        context = self._context(job_id)
        try:
            await self._with_patience(kind.run, context)
        except asyncio.CancelledError:
            if self._stopping or not self._live[job_id].cancel_requested:
                raise
            await self._finish(kind, job_id, JobState.cancelled)
        except Cancelled:
            await self._finish(kind, job_id, JobState.cancelled)
        except Exception as error:
            problem = self._explain(error)
            if problem.code == TaosError.code:
                _log.exception("job failed unexpectedly")
            self._fail(job_id, problem)
            await self._finish(kind, job_id, JobState.failed)
        else:
            self._end(job_id, JobState.succeeded)

    async def _with_patience(self, work: Work, context: JobContext) -> None:
        """Do the work, again from the top when what stopped it may pass by itself."""
        for wait in PATIENCE:
            try:
                return await work(context)
            except Exception as error:
                if not self._is_transient(error):
                    raise
                _log.warning("trying again", extra={"seconds": wait, "after": repr(error)})
            await self._sleep(wait)
            await self._settle(context.job)
        return await work(context)

    async def _finish(self, kind: JobKind, job_id: str, state: JobState) -> None:
        """Undo the run, however long that takes, then give the job its final state."""
        task = asyncio.current_task()
        while task and task.cancelling():
            task.uncancel()
        job = self._live[job_id]
        if job.state is JobState.queued and job.attempt == 0:
            self._end(job_id, JobState.cancelled)
            return
        if job.state is JobState.queued:
            self._keep(move(job, JobState.running))
        if left := await self._roll_back(kind, self._context(job_id)):
            self._end(job_id, JobState.failed, _incomplete(self._live[job_id], left))
        else:
            self._end(job_id, state)

    async def _roll_back(self, kind: JobKind, context: JobContext) -> Problem | None:
        """Undo the run; what hindered that, when it was given up."""
        job_id = context.job.id
        if kind.undo is _nothing or context.job.committed:
            return None
        try:
            with context.step(ROLL_BACK):
                await self._insist_on_undo(kind, context)
        except asyncio.CancelledError:
            if self._stopping or job_id not in self._given_up:
                raise
            return self._hindered[job_id]
        except Exception as error:
            _log.exception("roll back given up")
            return self._explain(error)
        finally:
            self._hindered.pop(job_id, None)
        return None

    async def _insist_on_undo(self, kind: JobKind, context: JobContext) -> None:
        """Undo, again and again while what hinders it may pass, and else for as long as PAUSES."""
        job_id, pauses, wait_away = context.job.id, iter(PAUSES), 1.0
        while True:
            try:
                return await self._insist(asyncio.ensure_future(kind.undo(context)), job_id)
            except Exception as error:
                if self._is_transient(error):
                    wait, wait_away = wait_away, min(wait_away * 2, LONGEST_PAUSE)
                elif (wait := next(pauses, 0.0)) == 0.0:
                    raise
                _log.warning("roll back failed", extra={"error": repr(error)})
                self._hindered[job_id] = self._explain(error)
                said = self._hindered[job_id].message
                context.note(f"{said} Trying again in {wait:.0f} s.")
            await self._insist(asyncio.ensure_future(self._sleep(wait)), job_id)

    async def _insist(self, undoing: asyncio.Future[None], job_id: str) -> None:
        """Wait for it to end; a second cancel does not stop it, the server's stop does."""
        while True:
            try:
                return await asyncio.shield(undoing)
            except asyncio.CancelledError:
                if self._stopping or job_id in self._given_up or undoing.cancelled():
                    undoing.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await undoing
                    raise
                task = asyncio.current_task()
                if task:
                    task.uncancel()

    def _context(self, job_id: str) -> JobContext:
        return JobContext(self._live[job_id], self._clock, self._keep_steps)

    def _keep_steps(self, job: Job, kept: Kept) -> Job:
        # A cancel request may have come since the context took its copy.
        requested = self._live[job.id].cancel_requested
        job = replace(job, cancel_requested=requested)
        self._keep(job, kept)
        return job

    def _foreign(self, job: Job) -> Problem | None:
        """Why this taOS cannot carry the job out, if another one made it."""
        kind = self._kinds.get(job.kind)
        if kind is None:
            said = f"This taOS knows no {job.kind!r} jobs: another version made this one."
        elif missing := [name for name in kind.needs if name not in job.params]:
            said = f"This job does not say {missing[0]!r}: another version of taOS made it."
        else:
            return None
        return Problem(InvalidInput.code, said, "Ask for it again, if it is still wanted.")

    def _keep(self, job: Job, kept: Kept = Kept.soon) -> None:
        """Have the job's new value; only one that is to be certain can fail, and then is not."""
        if kept is Kept.certain:
            self._table.save(job)
        elif kept is Kept.soon:
            self._table.keep(job)
        self._show(job)

    def _show(self, job: Job) -> None:
        self._live[job.id] = job
        self._tell(job.id)

    def _tell(self, job_id: str) -> None:
        for changed in self._watchers.get(job_id, ()):
            changed.set()
        for feed in self._feeds:
            feed.ids.add(job_id)
            feed.changed.set()

    def _fail(self, job_id: str, problem: Problem) -> None:
        self._keep(replace(self._live[job_id], error=problem))

    def _interrupt(self, job_id: str) -> None:
        job = self._live[job_id]
        if job.state is JobState.running:
            self._keep(move(job, JobState.interrupted))

    def _end(self, job_id: str, state: JobState, error: Problem | None = None) -> None:
        job = move(self._live[job_id], state)
        steps = tuple(
            # One that a dead server left, and that nobody entered again.
            replace(step, state=StepState.cancelled) if step.state is StepState.running else step
            for step in job.steps
            if step.state is not StepState.pending
        )
        job = replace(job, steps=steps, finished_at=self._clock(), error=error or job.error)
        self._keep(job)
        self.ended += 1
        _log.info("job ended", extra={"kind": job.kind, "subject": job.subject, "state": state})

    def _now(self, job: Job) -> Job:
        """The job with the seconds of its running steps counted up to now."""
        if not job.is_active:
            return job
        now = self._clock()
        return replace(
            job,
            steps=tuple(
                replace(
                    step, seconds=round(step.seconds + (now - step.started_at).total_seconds(), 3)
                )
                if step.state is StepState.running and step.started_at
                else step
                for step in job.steps
            ),
        )


def _incomplete(job: Job, left: Problem) -> Problem:
    """Why the job failed, when it could not be undone either."""
    why = job.error or left
    sentence = f"It {'failed' if job.error else 'was cancelled'}; roll back incomplete: "
    more = f"\n{job.error.message}" if job.error else ""
    return Problem(
        why.code,
        sentence + left.message + more,
        "What is left is looked for every hour and put right where that is safe. "
        "Retry the job, or delete the agent, when Incus lets you again.",
    )
