"""The database: its schema, its rules, and what is there after it was closed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tinyagentos.model.errors import Conflict, HostNotReady
from tinyagentos.model.job import Accepted, Job, Problem, Step, StepState
from tinyagentos.store.database import MIGRATIONS, Database
from tinyagentos.store.jobs import JobTable
from tinyagentos.store.timings import TimingTable

NOW = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


def test_a_job_is_read_back_as_it_was_kept(tmp_path: Path) -> None:
    job = Job(
        "1", "deploy", "agent:a", NOW,
        params={"agent": "a"}, source="build", source_reason="no image",
        steps=(Step("plan", StepState.running, NOW, 1.5, 3, 9, "x"),),
        started_at=NOW, error=Problem("not_ready", "no answer", "wait"), attempt=2,
    )  # fmt: skip
    first = Database(tmp_path / "db")
    JobTable(first).add(job)
    first.close()
    assert JobTable(Database(tmp_path / "db")).get("1") == job


def test_two_active_jobs_on_one_subject_are_a_conflict() -> None:
    table = JobTable(Database(":memory:"))
    table.add(Job("1", "deploy", "agent:a", NOW))
    with pytest.raises(Conflict):
        table.add(Job("2", "delete", "agent:a", NOW))
    table.add(Job("3", "deploy", "agent:b", NOW))


def test_what_a_request_was_answered_goes_with_its_job(tmp_path: Path) -> None:
    table = JobTable(Database(tmp_path / "db"))
    table.add(Job("1", "deploy", "agent:a", NOW))
    kept, gone = Accepted("k1", "digest", "1", "{}"), Accepted("k2", "digest", "2", "{}")
    for one in (kept, gone):
        table.keep_accepted(one)
    again = JobTable(Database(tmp_path / "db"))
    assert again.find_accepted("k2") == gone
    again.prune()
    assert (again.find_accepted("k1"), again.find_accepted("k2")) == (kept, None)


def test_a_damaged_database_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"this is no database, it is a long sentence" * 100)
    with pytest.raises(HostNotReady, match="cannot be used"):
        Database(tmp_path / "db")


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    database.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    database.close()
    with pytest.raises(HostNotReady, match="newer taOS"):
        Database(tmp_path / "db")


def test_opening_again_migrates_nothing(tmp_path: Path) -> None:
    Database(tmp_path / "db").close()
    Database(tmp_path / "db").close()


def test_the_typical_time_is_the_median_of_the_latest() -> None:
    timings = TimingTable(Database(":memory:"))
    assert timings.typical_seconds("deploy.build", "openclaw/x64") is None
    for seconds in (500, 40, 42, 44, 41, 90):
        timings.add("deploy.build", "openclaw/x64", seconds, NOW)
    assert timings.typical_seconds("deploy.build", "openclaw/x64") == 42
    assert timings.typical_seconds("deploy.image", "openclaw/x64") is None


def test_the_typical_rate_is_of_all_subjects_and_of_what_was_measured_with_bytes() -> None:
    table = TimingTable(Database(":memory:"))
    assert table.typical_rate("image.fetch") is None
    table.add("image.fetch", "openclaw/x64", 3, NOW)
    for subject, seconds, size in (("a/x64", 2, 1000), ("b/x64", 4, 1000), ("a/x64", 1, 900)):
        table.add("image.fetch", subject, seconds, NOW, size)
    assert table.typical_rate("image.fetch") == 500
    assert table.typical_rate("image.settle") is None


def test_recent_timings_are_the_newest_of_all_that_begin_so() -> None:
    table = TimingTable(Database(":memory:"))
    for number, what in enumerate(("deploy.build", "image.settle", "deploy.image")):
        table.add(what, "openclaw/x64", number, NOW)
    found = table.list_recent("deploy.")
    assert [(one.what, one.seconds) for one in found] == [("deploy.image", 2), ("deploy.build", 0)]
    assert found[0].at == NOW
    assert len(table.list_recent("deploy.", limit=1)) == 1
