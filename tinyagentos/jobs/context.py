"""What a job's code gets in its hands: its parameters, and the record of its steps."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from enum import Enum

from tinyagentos.model.errors import Cancelled
from tinyagentos.model.job import Job, Step, StepState

Clock = Callable[[], datetime]


class Kept(Enum):
    """How a change of a job is kept."""

    shown = "only in memory, until the next that is written"
    soon = "written as soon as that is possible"
    certain = "on disk before anything else is done"


Keep = Callable[[Job, Kept], Job]


class JobContext:
    """One run of a job. Steps change here and nowhere else; every change is kept and shown."""

    def __init__(self, job: Job, clock: Clock, keep: Keep) -> None:
        """keep is called with the job's new value, and how it is to be kept.

        It answers with the job as it is then: somebody may have asked it to stop meanwhile.
        """
        self._job = job
        self._clock = clock
        self._keep = keep
        self._current = ""

    @property
    def job(self) -> Job:
        """The job as it is now."""
        return self._job

    @property
    def params(self) -> Mapping[str, str]:
        """What the job was asked to do."""
        return self._job.params

    def plan_steps(self, *names: str) -> None:
        """Show these steps as still to come; steps already there keep their record."""
        known = {step.name: step for step in self._job.steps}
        planned = tuple(known.pop(name, Step(name)) for name in names)
        done = tuple(step for step in known.values() if step.state is not StepState.pending)
        self.update(steps=done + planned)

    def commit(self) -> None:
        """Say that what comes next cannot be undone: from here on the job is not cancelled.

        Raises Cancelled when somebody asked for that before, and NoSpace or StoreFailed when it
        cannot be written down: the next server would undo what cannot be undone.
        """
        self.update(Kept.shown)
        if self._job.cancel_requested:
            raise Cancelled("It was cancelled before anything was removed.")
        self.update(Kept.certain, committed=True)

    def leave_out(self, name: str, why: str) -> None:
        """Show the step as one that is not done, and why."""
        step = self._find(name) or Step(name)
        self._put(dataclasses.replace(step, state=StepState.cancelled, detail=why))

    def choose_source(self, source: str, reason: str) -> None:
        """Record which way the job takes, and why, in words."""
        self.update(source=source, source_reason=reason)

    def expect(self, rest: float | None) -> None:
        """Record how many seconds the job is expected to go on; None: nobody knows."""
        spent = sum(step.seconds for step in self._job.steps)
        self.update(expected_seconds=None if rest is None else round(spent + rest, 1))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what happens inside as the step of that name.

        Running a step again, after a crash, goes on with the time it already took.
        """
        outer = self._current
        before = self._find(name) or Step(name)
        started = self._clock()
        self._put(dataclasses.replace(before, state=StepState.running, started_at=started))
        self._current = name
        state = StepState.failed
        try:
            yield
            state = StepState.succeeded
        except asyncio.CancelledError:
            state = StepState.cancelled
            raise
        finally:
            self._current = outer
            seconds = before.seconds + (self._clock() - started).total_seconds()
            now = self._find(name) or before
            self._put(dataclasses.replace(now, state=state, seconds=round(seconds, 3)))

    def note(self, detail: str) -> None:
        """Say in words what the current step is doing."""
        if step := self._find(self._current):
            self._put(dataclasses.replace(step, detail=detail), Kept.shown)

    def progress(self, done_bytes: int, total_bytes: int | None) -> None:
        """Say how far the current step is; it never goes backwards."""
        if step := self._find(self._current):
            done = max(done_bytes, step.done_bytes or 0)
            self._put(
                dataclasses.replace(step, done_bytes=done, total_bytes=total_bytes), Kept.shown
            )

    def update(self, kept: Kept = Kept.soon, **changes: object) -> None:
        """Change the job's record."""
        changed = dataclasses.replace(self._job, **changes)  # type: ignore[arg-type] # by name
        self._job = self._keep(changed, kept)

    def _find(self, name: str) -> Step | None:
        return next((step for step in self._job.steps if step.name == name), None)

    def _put(self, step: Step, kept: Kept = Kept.soon) -> None:
        if self._find(step.name):
            steps = tuple(step if old.name == step.name else old for old in self._job.steps)
        else:
            steps = (*self._job.steps, step)
        self.update(kept, steps=steps)
