"""The table of job states."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tinyagentos.model.job import ACTIVE, NEXT, Job, JobState, move

JOB = Job("1", "deploy", "agent:a", datetime(2026, 1, 1, tzinfo=UTC))


def test_every_state_stands_in_the_table() -> None:
    assert set(NEXT) == set(JobState)


def test_an_ended_job_moves_no_more() -> None:
    for state in set(JobState) - ACTIVE:
        assert NEXT[state] == frozenset()


def test_a_queued_job_cannot_succeed() -> None:
    with pytest.raises(ValueError, match="queued -> succeeded"):
        move(JOB, JobState.succeeded)
