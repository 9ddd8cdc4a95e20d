"""What commands print of a job: in a pipe, on a terminal, and when a person presses Ctrl-C."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from tests.unit.api.live import LiveServer, make_agent
from tests.unit.cli.conftest import Terminal
from tinyagentos import wire
from tinyagentos.cli.progress import (
    Gauge,
    JobPicture,
    about,
    byte_gauge,
    check_succeeded,
    follow_job,
    rate,
    step_line,
    time_gauge,
    usual_seconds,
)
from tinyagentos.client import Client
from tinyagentos.model.agent import AgentState
from tinyagentos.model.errors import Cancelled, TaosError
from tinyagentos.model.job import Job, JobState, Problem, Step, StepState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = Job("j1", "deploy", "agent:hello", NOW, JobState.running, attempt=1)
ONE = Step("create instance", StepState.succeeded, NOW, 1.25)
TWO = Step("install", StepState.running, NOW, 2.0, 5_000_000, 20_000_000, "npm\nunpacking")


def of(job: Job, *steps: Step, state: JobState = JobState.running) -> wire.Job:
    return wire.Job.of(replace(job, steps=steps, state=state))


def course() -> Iterator[wire.Job]:
    job = replace(JOB, source="build", source_reason="no image is here")
    yield of(JOB)
    yield of(job, TWO)
    yield of(job, ONE, TWO)
    yield of(job, ONE, replace(TWO, state=StepState.succeeded), state=JobState.succeeded)


def drawn(picture: JobPicture, width: int = 80) -> str:
    """The picture as text."""
    file = io.StringIO()
    Console(file=file, width=width).print(picture)
    return file.getvalue()


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

    assert "2.0 s" in drawn(picture)
    now = 107.0
    assert "9.0 s" in drawn(picture)
    assert "1.2 s" in drawn(picture)


def test_bytes_have_a_bar_with_rate_and_what_is_left() -> None:
    now = 100.0
    picture = JobPicture(lambda: now)
    picture.tell(of(JOB, ONE, TWO))
    assert "5 of 20 MB\n" in drawn(picture)
    now = 102.0
    picture.tell(of(JOB, ONE, replace(TWO, done_bytes=10_000_000)))
    *_, bar = drawn(picture).splitlines()
    assert bar.startswith("━" * 20)
    assert bar.endswith("  10 of 20 MB, 2.5 MB/s, 4 s left")
    now = 110.0
    assert "0.5 MB/s, 20 s left" in drawn(picture), "a line that stalls is seen to"
    picture.tell(of(JOB, ONE, replace(TWO, name="next")))
    assert "MB/s" not in drawn(picture), "another step's rate is its own"


def test_a_rate_looks_back_a_little_and_not_to_the_beginning() -> None:
    now = 0.0
    picture = JobPicture(lambda: now)
    for second in range(31):
        now = float(second)
        done = 1_000_000 * (second if second <= 20 else 20 + 5 * (second - 20))
        picture.tell(of(JOB, replace(TWO, done_bytes=done, total_bytes=100_000_000)))
    assert "5.0 MB/s, 6 s left" in drawn(picture)


def test_the_usual_time_has_a_bar_where_no_bytes_do() -> None:
    now = 0.0
    job = replace(JOB, source="build", source_reason="no image is here")
    running = replace(TWO, done_bytes=None, total_bytes=None)
    picture = JobPicture(lambda: now, {"build": 17.0, "image": None})
    picture.tell(of(job, ONE, running))
    now = 5.0
    said = drawn(picture).splitlines()
    assert said[0] == "deploy hello (usually about 17 s)"
    assert said[-1].endswith("  8 of about 17 s")
    picture.tell(of(job, ONE, state=JobState.succeeded))
    assert "of about" not in drawn(picture), "what is over needs no bar"


@pytest.mark.parametrize("width", [20, 40, 80])
def test_each_row_stays_one_row_at_any_width(width: int) -> None:
    picture = JobPicture(lambda: 0.0)
    picture.tell(of(JOB, ONE, replace(TWO, detail="a long word about it " * 4)))
    rows = drawn(picture, width).splitlines()
    assert len(rows) == 4
    assert all(len(row) <= width for row in rows)


def test_how_far_it_is() -> None:
    step = wire.Step.of(TWO)
    assert byte_gauge(step, None) == Gauge(0.25, "5 of 20 MB")
    assert byte_gauge(step.model_copy(update={"done_bytes": 30_000_000}), None) == Gauge(
        1.0, "20 of 20 MB"
    )
    assert byte_gauge(step.model_copy(update={"total_bytes": None}), 1.0) is None
    job = of(replace(JOB, source="image"), replace(ONE, seconds=40.0))
    assert time_gauge(job, {"image": 20.0}, 0) == Gauge(0.97, "40 of about 20 s")
    assert time_gauge(job, {"image": None}, 0) is None
    assert [about(n) for n in (3, 89.4, 90, 1000)] == ["3 s", "89 s", "2 min", "17 min"]


@pytest.mark.parametrize("seen", [(), ((5.0, 10),), ((1.0, 10), (2.0, 10)), ((5.0, 1), (5.0, 9))])
def test_a_rate_nobody_can_know_is_none(seen: tuple[tuple[float, int], ...]) -> None:
    assert rate(seen, 5.0) is None


def test_the_usual_time_is_this_hosts_for_the_agents_framework(server: LiveServer) -> None:
    client = Client.connect(server.settings)
    deploy = of(replace(JOB, kind="deploy"))
    assert usual_seconds(client, deploy) == {}, "an agent that is gone fails nobody"
    server.agents["hello"] = make_agent("hello", AgentState.deploying)
    assert usual_seconds(client, deploy) == {"image": 12.0, "build": None}
    assert usual_seconds(client, of(replace(JOB, kind="stop"))) == {}


def test_in_a_pipe_the_usual_time_is_with_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    follow_job(course(), usual={"build": 95.0})
    assert capsys.readouterr().out.startswith(
        "by build: no image is here (usually about 2 min)\n✓ create instance"
    )


def test_a_terminal_that_cannot_redraw_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "dumb")
    follow_job(course())
    assert terminal.getvalue().startswith("by build: no image is here\n✓ create instance")


def test_a_job_that_waits_for_its_turn_says_so() -> None:
    picture = JobPicture(lambda: 0.0)
    assert drawn(picture).strip() == ""
    picture.tell(of(JOB, state=JobState.queued))
    assert "waiting for its turn" in drawn(picture)


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
