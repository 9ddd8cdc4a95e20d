"""What commands print: tables, JSON, and a job as it goes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from pydantic import BaseModel
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tinyagentos import wire
from tinyagentos.cli.errors import as_typed
from tinyagentos.model.errors import Cancelled, TaosError
from tinyagentos.model.job import JobState, StepState

PIPE_WIDTH = 10_000
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
    """A line of our own on standard output; commands in it as the person typed ours."""
    print_text(as_typed(line))


def print_text(line: str) -> None:
    """A line on standard output as it is, whoever wrote it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_pieces(pieces: Iterable[str]) -> None:
    """Text as it comes, without what would steer the terminal; a new line at its end."""
    for piece in pieces:
        sys.stdout.write("".join(one for one in piece if one.isprintable() or one in "\n\t"))
        sys.stdout.flush()
    print_line("")


def ask_line(prompt: str) -> str:
    """A line from the person at the terminal; empty when there are no more."""
    while True:
        try:
            if line := input(prompt).strip():
                return line
        except EOFError:
            print_line("")
            return ""


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
    # In a pipe a row is a line, however long.
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def print_job(job: wire.Job) -> None:
    """The job and its steps."""
    print_line(f"job {job.id}: {title(job)}: {job.state}")
    if job.source:
        print_line(f"  by {job.source}: {job.source_reason}")
    for step in job.steps:
        print_line(f"  {step_line(step)}")
    if job.error:
        print_line(f"  {job.error.message}")
        if job.error.hint:
            print_line(f"  hint: {job.error.hint}")


def follow_job(jobs: Iterable[wire.Job], *, quiet: bool = False) -> wire.Job:
    """Show the job (unless quiet) until it has ended; its final value, whatever that is.

    Ctrl-C ends the showing and not the job: it raises Cancelled, which says how to stop the job.
    """
    show = _pass if quiet else _show_live if sys.stdout.isatty() else _show_plain
    last: wire.Job | None = None
    try:
        for job in show(jobs):
            last = job
    except KeyboardInterrupt:
        if last is None:
            raise
        raise Cancelled(
            f"Stopped watching; the {last.kind} goes on in the server.",
            hint=f"`taos job cancel {last.id}` stops it, `taos job watch {last.id}` shows it.",
        ) from None
    if last is None:
        raise TaosError("The server told nothing about the job.", hint="Look at `taos job list`.")
    return last


def check_succeeded(job: wire.Job) -> None:
    """Raise the error that the job failed with, or Cancelled."""
    if job.state is JobState.cancelled:
        raise Cancelled(
            f"The {job.kind} was cancelled; what it had made is removed.",
            hint=f"`taos job retry {job.id}` does it again.",
        )
    if job.state is not JobState.succeeded:
        error = job.error or wire.Problem(code="internal", message="It ended early.", hint="")
        raise TaosError(
            f"Job failed: {title(job)}: {error.message}",
            hint=error.hint or f"`taos job show {job.id}` has its steps.",
        )


def title(job: wire.Job) -> str:
    """What the job does, such as `deploy hello`."""
    return f"{job.kind} {job.subject.partition(':')[2]}"


def step_line(step: wire.Step, since: float = 0.0) -> str:
    """The step in one line; since: seconds that passed since the server told its state."""
    line = f"{_MARKS[step.state][0]} {step.name}"
    if step.state is StepState.pending:
        return line
    if step.state is not StepState.running:
        return f"{line}  {step.seconds:.1f} s"
    line += f"  {step.seconds + since:.1f} s"
    if step.total_bytes:
        line += f"  {(step.done_bytes or 0) / 1e6:.0f} of {step.total_bytes / 1e6:.0f} MB"
    elif step.done_bytes:
        line += f"  {step.done_bytes / 1e6:.0f} MB"
    if detail := step.detail.strip():
        line += f"  {detail.splitlines()[-1][:80]}"
    return line


def _pass(jobs: Iterable[wire.Job]) -> Iterator[wire.Job]:
    yield from jobs


def _show_plain(jobs: Iterable[wire.Job]) -> Iterator[wire.Job]:
    """One line for each step when it has ended."""
    said: set[tuple[int, str]] = set()
    source = ""
    for job in jobs:
        if job.source and job.source != source:
            source = job.source
            print_line(f"by {job.source}: {job.source_reason}")
        for step in job.steps:
            over = step.state not in (StepState.pending, StepState.running)
            if over and (job.attempt, step.name) not in said:
                said.add((job.attempt, step.name))
                print_line(step_line(step))
        yield job


def _show_live(jobs: Iterable[wire.Job]) -> Iterator[wire.Job]:
    """All steps, redrawn while the job goes on."""
    picture = JobPicture(time.monotonic)
    with Live(picture, refresh_per_second=8) as live:
        for job in jobs:
            picture.tell(job)
            live.refresh()
            yield job


class JobPicture:
    """A job on a terminal. The seconds of its running step go on between two changes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._job: wire.Job | None = None
        self._told = clock()

    def tell(self, job: wire.Job) -> None:
        """From now on show this value of the job."""
        self._job, self._told = job, self._clock()

    def __rich__(self) -> Group:
        """The job as it should be by now."""
        job = self._job
        if job is None:
            return Group()
        lines = [Text(title(job), style="bold")]
        if job.state in (JobState.queued, JobState.interrupted):
            lines.append(Text("waiting for its turn", style="dim"))
        if job.source:
            lines.append(Text(f"by {job.source}: {job.source_reason}", style="dim"))
        since = self._clock() - self._told
        lines += [Text(step_line(s, since), style=_MARKS[s.state][1]) for s in job.steps]
        return Group(*lines)
