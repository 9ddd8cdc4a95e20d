"""A job: durable work with named, timed steps. States and their legal moves stand in one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType


class JobState(StrEnum):
    """Where a job is."""

    queued = "queued"
    running = "running"
    interrupted = "interrupted"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


NEXT: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        # A job that this taOS cannot read fails before it runs.
        JobState.queued: frozenset({JobState.running, JobState.cancelled, JobState.failed}),
        JobState.running: frozenset(
            {JobState.succeeded, JobState.failed, JobState.cancelled, JobState.interrupted}
        ),
        JobState.interrupted: frozenset({JobState.queued}),
        JobState.succeeded: frozenset(),
        JobState.failed: frozenset(),
        JobState.cancelled: frozenset(),
    }
)

ACTIVE = frozenset({JobState.queued, JobState.running, JobState.interrupted})


class StepState(StrEnum):
    """Where a step is."""

    pending = "pending"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


@dataclass(frozen=True)
class Step:
    """A named part of a job. `seconds` counts up while it runs and stays when it ended."""

    name: str
    state: StepState = StepState.pending
    started_at: datetime | None = None
    seconds: float = 0.0
    done_bytes: int | None = None
    total_bytes: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class Problem:
    """Why a job failed, worded like a TaosError."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Job:
    """One piece of durable work. `params` is what its kind needs to run it again after a crash.

    committed: what it did cannot be undone any more, so it only goes on.
    dismissed: somebody has seen that it failed, and wants to be told no more.
    """

    id: str
    kind: str
    subject: str
    created_at: datetime
    state: JobState = JobState.queued
    params: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    source_reason: str = ""
    # What all of its steps are expected to take together; None while nobody knows.
    expected_seconds: float | None = None
    steps: tuple[Step, ...] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: Problem | None = None
    attempt: int = 0
    cancel_requested: bool = False
    committed: bool = False
    idempotency_key: str = ""
    dismissed: bool = False

    @property
    def is_active(self) -> bool:
        """Whether the job still has work to do."""
        return self.state in ACTIVE


@dataclass(frozen=True)
class Accepted:
    """What a request that began a job was answered (JSON), to answer it the same again.

    request: a digest of all that it said.
    """

    key: str
    request: str
    job_id: str
    answer: str


def move(job: Job, to: JobState) -> Job:
    """The job in its new state; ValueError when the table has no such move."""
    if to not in NEXT[job.state]:
        raise ValueError(f"job {job.id}: {job.state} -> {to}")
    return dataclasses.replace(job, state=to)
