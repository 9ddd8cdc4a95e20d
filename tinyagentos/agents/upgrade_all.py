"""Upgrading every agent, one after the other: a job that has each agent's own upgrade done.

A version that one agent does not take is given to no other: a broken image would take every agent
down in turn. Each agent's upgrade is a job as any other, begun once however often this one is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from tinyagentos.agents import requests
from tinyagentos.agents.host import Host
from tinyagentos.agents.requests import Request, agent_subject
from tinyagentos.jobs.context import JobContext
from tinyagentos.model.errors import ALL_ERRORS, Cancelled, Conflict, NotFound, TaosError
from tinyagentos.model.job import Job, JobState, Problem, StepState

Version = tuple[str, str]  # of a framework


class _NotUpgraded(Exception):
    """The agent keeps the version it had."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class _LeftOut(Exception):
    """The agent is not touched; why."""


@dataclass
class _Course:
    """How it went so far: versions that an agent did not take, who failed, who was left out."""

    broken: dict[Version, str] = field(default_factory=dict)
    failed: dict[str, Problem] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


async def upgrade_all(job: JobContext, host: Host) -> None:
    """Have every agent upgraded in turn; what was done before a crash is only looked at."""
    names, course = agents_of(job.params), _Course()
    job.plan_steps(*map(step_of, names))
    for name in names:
        try:
            with job.step(step_of(name)):
                await _ensure_upgraded(name, course, job, host)
        except _NotUpgraded as error:
            course.failed[name] = error.problem
        except _LeftOut as why:
            course.left_out.append(name)
            job.leave_out(step_of(name), str(why))
    if course.failed:
        raise _error_of(course, len(names))


async def undo_upgrade_all(job: JobContext, host: Host) -> None:
    """Cancel the upgrade that is under way; agents that have the new version keep it."""
    for name in agents_of(job.params):
        begun = host.runner.find_by_key(_key(name, job))
        if begun and begun.is_active:
            if not begun.cancel_requested:
                host.runner.cancel_job(begun.id)
            await host.runner.wait_job(begun.id)


def agents_of(params: Mapping[str, str]) -> list[str]:
    """The agents that the job is about, in its order."""
    return [str(name) for name in json.loads(params["agents"])]


def step_of(name: str) -> str:
    """The step in which the agent is upgraded."""
    return f"upgrade {name}"


async def _ensure_upgraded(name: str, course: _Course, job: JobContext, host: Host) -> None:
    begun = host.runner.find_by_key(_key(name, job)) or await _begin(name, course, job, host)
    if begun is None:
        return
    async for seen in host.runner.watch_job(begun.id):
        begun = seen
        running = [step.name for step in seen.steps if step.state is StepState.running]
        job.note(f"job {seen.id}{': ' if running else ''}{''.join(running[-1:])}")
    if begun.state is JobState.cancelled:
        raise _NotUpgraded(Problem(Cancelled.code, "Its upgrade was cancelled."))
    if begun.state is not JobState.succeeded:
        course.broken[_version(begun)] = name
        raise _NotUpgraded(begun.error or Problem(TaosError.code, "Its upgrade ended early."))


async def _begin(name: str, course: _Course, job: JobContext, host: Host) -> Job | None:
    """The agent's upgrade, as soon as no other job is at work on it; None when it needs none."""
    runner, subject = host.runner, agent_subject(name)
    while True:
        if busy := runner.find_active(subject):
            job.note(f"waiting for the {busy.kind} job {busy.id}")
            await runner.wait_job(busy.id)
            continue
        try:
            request = await requests.request_upgrade(name, host)
            if other := course.broken.get(_version(request)):
                raise _LeftOut(f"{other} did not take that version")
            return runner.submit(
                request.kind, request.subject, request.params, idempotency_key=_key(name, job)
            )
        except (Conflict, NotFound) as error:
            if runner.find_active(subject) is None:
                # It was upgraded or deleted meanwhile.
                job.note(error.message)
                return None
        except TaosError as error:
            raise _NotUpgraded(Problem(error.code, error.message, error.hint)) from error


def _version(asked: Request | Job) -> Version:
    return asked.params["framework"], asked.params["version"]


def _key(name: str, job: JobContext) -> str:
    """What an agent's upgrade is found again by."""
    return f"{job.job.id}/{name}"


def _error_of(course: _Course, count: int) -> TaosError:
    """What is said at the end, as the kind of error that came first."""
    first = next(iter(course.failed.values()))
    kind = next((one for one in ALL_ERRORS if one.code == first.code), TaosError)
    said = "; ".join(
        f"{name} ({problem.message.splitlines()[0].rstrip('.')})"
        for name, problem in course.failed.items()
    )
    message = f"{len(course.failed)} of {count} agents were not upgraded: {said}."
    if course.left_out:
        message += f" For that, these were left out: {', '.join(course.left_out)}."
    return kind(message, hint="Each goes on with the version it had; its own job says more.")
