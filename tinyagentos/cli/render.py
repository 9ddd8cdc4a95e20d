"""What commands print: tables, JSON, and a job as it goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

from pydantic import BaseModel
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tinyagentos import wire
from tinyagentos.model.errors import Cancelled, TaosError
from tinyagentos.model.job import JobState, StepState

_MARKS = {
    StepState.pending: ("·", "dim"),
    StepState.running: ("…", "cyan"),
    StepState.succeeded: ("✓", "green"),
    StepState.failed: ("✗", "red"),
    StepState.cancelled: ("-", "yellow"),
}


def print_json(value: BaseModel | Sequence[BaseModel] | dict[str, object]) -> None:
    """The value as JSON on standard output."""
    if isinstance(value, BaseModel):
        plain: object = value.model_dump(mode="json")
    elif isinstance(value, dict):
        plain = value
    else:
        plain = [one.model_dump(mode="json") for one in value]
    sys.stdout.write(json.dumps(plain, indent=2) + "\n")


def print_line(line: str) -> None:
    """One line on standard output."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], nothing: str) -> None:
    """A table, or the sentence when there are no rows."""
    rows = list(rows)
    if not rows:
        print_line(nothing)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


def print_job(job: wire.Job) -> None:
    """The job and its steps."""
    print_line(f"job {job.id}: {job.kind} {job.subject.partition(':')[2]}: {job.state}")
    if job.source:
        print_line(f"  by {job.source}: {job.source_reason}")
    for step in job.steps:
        print_line(f"  {_step_line(step)}")
    if job.error:
        print_line(f"  {job.error.message}\n  hint: {job.error.hint}")


def follow_job(jobs: Iterable[wire.Job], *, as_json: bool) -> wire.Job:
    """Show the job until it has ended; its final value.

    Raises the error the job failed with, or Cancelled.
    """
    if as_json:
        last = _last(jobs)
        print_json(last)
    elif sys.stdout.isatty():
        last = _follow_live(jobs)
    else:
        last = _follow_plain(jobs)
    if last.state is JobState.cancelled:
        raise Cancelled(f"The job {last.id} was cancelled; what it had made is removed.")
    if last.error:
        raise TaosError(last.error.message, hint=last.error.hint)
    return last


def _last(jobs: Iterable[wire.Job]) -> wire.Job:
    *_, last = jobs
    return last


def _follow_live(jobs: Iterable[wire.Job]) -> wire.Job:
    with Live(refresh_per_second=8, transient=False) as live:
        for job in jobs:
            live.update(_picture(job))
    return job


def _picture(job: wire.Job) -> Group:
    lines = [Text(f"{job.kind} {job.subject.partition(':')[2]}", style="bold")]
    if job.source:
        lines.append(Text(f"by {job.source}: {job.source_reason}", style="dim"))
    lines += [Text(_step_line(step), style=_MARKS[step.state][1]) for step in job.steps]
    return Group(*lines)


def _follow_plain(jobs: Iterable[wire.Job]) -> wire.Job:
    """One line for each step when it has ended."""
    said: set[str] = set()
    source = ""
    for job in jobs:
        if job.source and job.source != source:
            source = job.source
            print_line(f"by {job.source}: {job.source_reason}")
        for step in job.steps:
            over = step.state not in (StepState.pending, StepState.running)
            if over and step.name not in said:
                said.add(step.name)
                print_line(_step_line(step))
    return job


def _step_line(step: wire.Step) -> str:
    line = f"{_MARKS[step.state][0]} {step.name}"
    if step.state is not StepState.pending:
        line += f"  {step.seconds:.1f} s"
    if step.state is StepState.running:
        if step.total_bytes:
            line += f"  {(step.done_bytes or 0) / 1e6:.0f} of {step.total_bytes / 1e6:.0f} MB"
        if step.detail:
            line += f"  {step.detail.splitlines()[-1][:80]}"
    return line
