"""A job as it goes: in a pipe a line for each step, on a terminal a picture with a bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tinyagentos import wire
from tinyagentos.cli.render import print_line, print_quote
from tinyagentos.cli.screen import Screen
from tinyagentos.client import Client
from tinyagentos.model.errors import Cancelled, TaosError
from tinyagentos.model.job import JobState, StepState
from tinyagentos.visible import visible_line

# Seconds that a job of this kind usually takes here, by the way it goes.
Usual = Mapping[str, float | None]

MARKS = {
    StepState.pending: ("·", "dim"),
    StepState.running: ("…", "cyan"),
    StepState.succeeded: ("✓", "green"),
    StepState.failed: ("✗", "red"),
    StepState.cancelled: ("-", "yellow"),
}
# How far back a rate looks: long enough to be calm, short enough to follow a line that changes.
RATE_OVER = 10.0
REDRAWS = 8
# A job that takes longer than usual is not done for that.
ALMOST = 0.97


def follow(client: Client, job: wire.Job, *, quiet: bool = False) -> wire.Job:
    """Show the server's job (unless quiet) until it has ended; its final value."""
    usual = {} if quiet else usual_seconds(client, job)
    return follow_job(client.watch(job.id), quiet=quiet, usual=usual)


def usual_seconds(client: Client, job: wire.Job) -> Usual:
    """What a deploy of the agent's framework takes on this host; empty for other jobs."""
    if job.kind != "deploy":
        return {}
    try:
        return usual_deploy(client, client.agent(job.subject.partition(":")[2]).framework)
    except TaosError:
        return {}  # nobody fails for an ornament


def usual_deploy(client: Client, framework: str) -> Usual:
    """What a deploy of the framework takes on this host."""
    found = (one.expected_seconds for one in client.frameworks() if one.name == framework)
    return next(found, {})


def follow_job(
    jobs: Iterable[wire.Job], *, quiet: bool = False, usual: Usual | None = None
) -> wire.Job:
    """Show the job (unless quiet) until it has ended; its final value, whatever that is.

    Ctrl-C ends the showing and not the job: it raises Cancelled, which says how to stop the job.
    """
    show = _pass if quiet else _show_live if can_redraw() else _show_plain
    last: wire.Job | None = None
    try:
        for job in show(jobs, usual or {}):
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


def can_redraw() -> bool:
    """Whether standard output is a terminal on which lines can be drawn again."""
    return sys.stdout.isatty() and not Screen().is_dumb_terminal


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


def print_job(job: wire.Job) -> None:
    """The job and its steps."""
    print_line(f"job {job.id}: {title(job)}: {job.state}")
    if job.source:
        print_line(f"  by {job.source}: {job.source_reason}")
    for step in job.steps:
        print_line(f"  {step_line(step)}")
    if job.error:
        print_quote(f"  {job.error.message}")
        if job.error.hint:
            print_line(f"  hint: {job.error.hint}")


def title(job: wire.Job) -> str:
    """What the job does, such as `deploy hello`."""
    return f"{job.kind} {job.subject.partition(':')[2]}"


def step_line(step: wire.Step, since: float = 0.0) -> str:
    """The step in one line; since: seconds that passed since the server told its state."""
    line = f"{MARKS[step.state][0]} {step.name}"
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


def usually(job: wire.Job, usual: Usual) -> str:
    """How long the job usually takes by the way it goes; empty when nobody knows."""
    expected = usual.get(job.source)
    return f" (usually about {about(expected)})" if expected else ""


def about(seconds: float) -> str:
    """A duration as one says it beforehand."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def rate(seen: Sequence[tuple[float, int]], now: float) -> float | None:
    """Bytes a second, of what was seen at which time; None while that says nothing."""
    if not seen or now <= seen[0][0] or seen[-1][1] <= seen[0][1]:
        return None
    return (seen[-1][1] - seen[0][1]) / (now - seen[0][0])


class Gauge(NamedTuple):
    """How far something is, from 0 to 1, and that in words."""

    part: float
    words: str


def byte_gauge(step: wire.Step, per_second: float | None) -> Gauge | None:
    """How far the step's bytes are, how fast they come and how long that still takes."""
    if not step.total_bytes:
        return None
    done = min(step.done_bytes or 0, step.total_bytes)
    words = f"{done / 1e6:.0f} of {step.total_bytes / 1e6:.0f} MB"
    if per_second:
        left = about((step.total_bytes - done) / per_second)
        words += f", {per_second / 1e6:.1f} MB/s, {left} left"
    return Gauge(done / step.total_bytes, words)


def time_gauge(job: wire.Job, usual: Usual, since: float) -> Gauge | None:
    """How far the job is by its usual time."""
    expected = usual.get(job.source)
    if not expected:
        return None
    spent = sum(step.seconds for step in job.steps) + since
    return Gauge(min(ALMOST, spent / expected), f"{spent:.0f} of about {about(expected)}")


class JobPicture:
    """A job on a terminal. What runs goes on between two changes, and rows keep their places."""

    def __init__(self, clock: Callable[[], float], usual: Usual | None = None) -> None:
        self._clock = clock
        self._usual = usual or {}
        self._job: wire.Job | None = None
        self._told = clock()
        self._seen: tuple[tuple[float, int], ...] = ()
        self._of = ""

    def tell(self, job: wire.Job) -> None:
        """From now on show this value of the job."""
        self._job, self._told = job, self._clock()
        step = current(job)
        name = step.name if step else ""
        before = self._seen if name == self._of else ()
        now = ((self._told, step.done_bytes or 0),) if step and step.total_bytes else ()
        self._of = name
        # Assigned as a whole: another thread draws.
        self._seen = (*(one for one in before if self._told - one[0] <= RATE_OVER), *now)

    def __rich__(self) -> Group:
        """The job as it should be by now."""
        job = self._job
        if job is None:
            return Group()
        since = self._clock() - self._told
        rows: list[RenderableType] = [_row(title(job) + usually(job, self._usual), "bold")]
        if job.state in (JobState.queued, JobState.interrupted):
            rows.append(_row("waiting for its turn", "dim"))
        if job.source:
            rows.append(Text(visible_line(f"by {job.source}: {job.source_reason}"), style="dim"))
        rows += [_row(step_line(step, since), MARKS[step.state][1]) for step in job.steps]
        if gauge := self._gauge(job, since):
            rows.append(_bar(gauge))
        return Group(*rows)

    def _gauge(self, job: wire.Job, since: float) -> Gauge | None:
        step = current(job)
        if step is None or not job.is_active:
            return None
        per_second = rate(self._seen, self._clock())
        return byte_gauge(step, per_second) or time_gauge(job, self._usual, since)


def current(job: wire.Job) -> wire.Step | None:
    """The step that runs, the innermost where one runs within another."""
    running = [step for step in job.steps if step.state is StepState.running]
    return running[-1] if running else None


def _row(text: str, style: str) -> Text:
    # A row that is cut off keeps the picture's height; one that wrapped would make it jump.
    return Text(visible_line(text), style=style, no_wrap=True, overflow="ellipsis")


def _bar(gauge: Gauge) -> Table:
    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, justify="right")
    row.add_row(ProgressBar(total=1.0, completed=gauge.part), gauge.words)
    return row


def _pass(jobs: Iterable[wire.Job], _: Usual) -> Iterator[wire.Job]:
    yield from jobs


def _show_plain(jobs: Iterable[wire.Job], usual: Usual) -> Iterator[wire.Job]:
    """One line for each step when it has ended."""
    said: set[tuple[int, str]] = set()
    source = ""
    for job in jobs:
        if job.source and job.source != source:
            source = job.source
            print_line(f"by {job.source}: {job.source_reason}{usually(job, usual)}")
        for step in job.steps:
            over = step.state not in (StepState.pending, StepState.running)
            if over and (job.attempt, step.name) not in said:
                said.add((job.attempt, step.name))
                print_line(step_line(step))
        yield job


def _show_live(jobs: Iterable[wire.Job], usual: Usual) -> Iterator[wire.Job]:
    """All steps, redrawn in a steady beat while the job goes on."""
    picture = JobPicture(time.monotonic, usual)
    with Live(picture, console=Screen(), refresh_per_second=REDRAWS):
        for job in jobs:
            picture.tell(job)
            yield job
