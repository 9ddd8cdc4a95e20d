"""Jobs as people see them, and text that tries to be markup."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tinyagentos.model.job import Job, JobState, Problem, Step, StepState
from tinyagentos.web import timeline, words
from tinyagentos.web.markup import bar, el, facts

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(state: JobState, *steps: Step, **more: object) -> Job:
    return Job("1", "deploy", "agent:hello", NOW, state, steps=steps, **more)  # type: ignore[arg-type]


def test_a_running_step_says_bytes_detail_and_counts() -> None:
    fetch = Step("fetch", StepState.running, NOW, 3.2, 50_000_000, 100_000_000, "4.0 MB/s")
    html = timeline.render_job(job(JobState.running, Step("plan", StepState.succeeded), fetch))
    assert "50.0 MB of 100 MB" in html
    assert "4.0 MB/s" in html
    assert 'data-seconds="3.2"' in html
    assert 'aria-valuenow="50"' in html
    assert timeline.progress(job(JobState.running, fetch), None) == 0.5


def test_progress_by_the_usual_time_never_says_done() -> None:
    late = job(JobState.running, Step("install", StepState.running, NOW, 99.0))
    assert timeline.progress(late, 10.0) == 0.97
    assert timeline.progress(late, None) is None
    assert timeline.progress(job(JobState.queued), 10.0) is None


def test_a_failure_has_cause_hint_and_log() -> None:
    failed = job(JobState.failed, error=Problem("not_ready", "No answer.\nline 1", "Read it."))
    html = timeline.render_job(failed)
    assert "<strong>No answer.</strong>" in html
    assert "Read it." in html
    assert "<pre" in html
    assert timeline.said(failed).startswith("Deploy hello: Failed: No answer.")
    undoing = job(JobState.running, error=Problem("not_ready", "No answer.", ""))
    assert "being undone" in timeline.render_job(undoing)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_words_from_elsewhere_stay_words(text: str) -> None:
    step = Step(text, StepState.running, NOW, 1.0, detail=text)
    one = job(JobState.failed, step, error=Problem("x", text, text), source_reason=text,
              source="image")  # fmt: skip
    html = timeline.render_job(one) + timeline.render_brief(one)
    html += el("a", text, href=text, title=text) + facts({text: text}) + bar(0.1, text)
    assert "<script" not in html
    assert "<img" not in html
    assert f'"{text}"' not in html


def test_sizes_times_and_ages() -> None:
    assert [words.size(n) for n in (0, 999, 1500, 2_500_000, 117_500_000, 3.2e9)] == [
        "0 B", "999 B", "1.5 kB", "2.5 MB", "118 MB", "3.2 GB",
    ]  # fmt: skip
    assert words.memory_of(3 << 29, 2 << 30) == "1.5 of 2.0 GiB"
    assert words.memory_of(3 << 20, 2 << 30) == "3 MiB of 2.0 GiB"
    assert words.memory_of(3 << 20, None) == "3 MiB"
    assert [words.seconds(n) for n in (0.04, 9.96, 59.4, 61, 3700)] == [
        "0.0 s", "10.0 s", "59 s", "1 min 01 s", "1 h 01 min",
    ]  # fmt: skip
    assert words.about(None) == ""
    assert words.ago(NOW - timedelta(hours=3), NOW) == "3 h ago"
    assert words.ago(NOW, NOW) == "just now"
