"""What commands print of a job: in a pipe, on a terminal, and when a person presses Ctrl-C."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from tinyagentos import wire
from tinyagentos.cli.render import (
    JobPicture,
    check_succeeded,
    follow_job,
    print_table,
    step_line,
)
from tinyagentos.model.errors import Cancelled, TaosError
from tinyagentos.model.job import Job, JobState, Problem, Step, StepState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = Job("j1", "deploy", "agent:hello", NOW, JobState.running, attempt=1)
ONE = Step("create instance", StepState.succeeded, NOW, 1.25)
TWO = Step("install", StepState.running, NOW, 2.0, 5_000_000, 20_000_000, "npm\nunpacking")


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def of(job: Job, *steps: Step, state: JobState = JobState.running) -> wire.Job:
    return wire.Job.of(replace(job, steps=steps, state=state))


def course() -> Iterator[wire.Job]:
    job = replace(JOB, source="build", source_reason="no image is here")
    yield of(JOB)
    yield of(job, TWO)
    yield of(job, ONE, TWO)
    yield of(job, ONE, replace(TWO, state=StepState.succeeded), state=JobState.succeeded)


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (Step("plan"), "· plan"),
        (ONE, "✓ create instance  1.2 s"),
        (TWO, "… install  3.5 s  5 of 20 MB  unpacking"),
        (replace(TWO, total_bytes=None, detail=""), "… install  3.5 s  5 MB"),
        (replace(TWO, done_bytes=None, total_bytes=None, detail=" \n"), "… install  3.5 s"),
        (replace(TWO, state=StepState.failed), "✗ install  2.0 s"),
    ],
)
def test_a_step_is_a_line(step: Step, line: str) -> None:
    assert step_line(wire.Step.of(step), since=1.5) == line


def test_in_a_pipe_each_step_is_told_once_when_it_has_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert follow_job(course()).state is JobState.succeeded
    assert capsys.readouterr().out == (
        "by build: no image is here\n✓ create instance  1.2 s\n✓ install  2.0 s\n"
    )


def test_a_step_that_ran_again_after_a_crash_is_told_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    follow_job(iter([of(JOB, ONE), of(replace(JOB, attempt=2), ONE)]))
    assert capsys.readouterr().out.count("create instance") == 2


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow_job(course(), quiet=True).state is JobState.succeeded
    assert capsys.readouterr().out == ""


def test_on_a_terminal_the_whole_job_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    assert follow_job(course()).state is JobState.succeeded
    assert "deploy hello" in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()


def test_the_seconds_of_a_running_step_go_on_between_changes() -> None:
    now = 100.0
    picture = JobPicture(lambda: now)
    picture.tell(of(JOB, ONE, TWO))

    def text() -> str:
        console = Console(file=io.StringIO(), width=80)
        console.print(picture)
        return str(console.file.getvalue())  # type: ignore[attr-defined] # it is a StringIO

    assert "2.0 s" in text()
    now = 107.0
    assert "9.0 s" in text()
    assert "1.2 s" in text()


def test_a_job_that_waits_for_its_turn_says_so() -> None:
    picture = JobPicture(lambda: 0.0)
    console = Console(file=io.StringIO(), width=80)
    console.print(picture)
    picture.tell(of(JOB, state=JobState.queued))
    console.print(picture)
    assert "waiting for its turn" in console.file.getvalue()  # type: ignore[attr-defined] # a StringIO


@pytest.mark.parametrize("out", [io.StringIO, Terminal])
def test_ctrl_c_leaves_the_job_and_says_how_to_stop_it(
    monkeypatch: pytest.MonkeyPatch, out: type[io.StringIO]
) -> None:
    monkeypatch.setattr(sys, "stdout", out())

    def interrupted() -> Iterator[wire.Job]:
        yield of(JOB, TWO)
        raise KeyboardInterrupt

    with pytest.raises(Cancelled, match="goes on in the server") as caught:
        follow_job(interrupted())
    assert "taos job cancel j1" in caught.value.hint


def test_ctrl_c_before_anything_is_known_is_just_that() -> None:
    def interrupted() -> Iterator[wire.Job]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        follow_job(interrupted())


def test_a_stream_that_told_nothing_is_an_error() -> None:
    with pytest.raises(TaosError, match="nothing"):
        follow_job(iter(()))


def test_only_a_job_that_succeeded_passes() -> None:
    check_succeeded(of(JOB, state=JobState.succeeded))
    with pytest.raises(Cancelled):
        check_succeeded(of(JOB, state=JobState.cancelled))
    failed = replace(JOB, error=Problem("no_space", "The disk is full.", ""))
    with pytest.raises(TaosError, match="deploy hello: The disk is full") as caught:
        check_succeeded(of(failed, state=JobState.failed))
    assert "taos job show j1" in caught.value.hint
    with pytest.raises(TaosError, match="ended early"):
        check_succeeded(of(JOB, state=JobState.failed))


def test_a_row_is_a_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [("x" * 300, "[bold]no markup")], "Nothing.")
    _, row = capsys.readouterr().out.splitlines()
    assert row.rstrip() == "x" * 300 + "  [bold]no markup"
    print_table(("A",), [], "Nothing.")
    assert capsys.readouterr().out == "Nothing.\n"
