"""What SQLite cannot do is said in words, and what may be written later is."""

from __future__ import annotations

import logging
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fakes.failing_store import Fault, Faults
from tinyagentos.access import SESSION_LASTS, Access
from tinyagentos.model.errors import HostNotReady, NoSpace, StoreFailed
from tinyagentos.model.image import SupplyRecord
from tinyagentos.model.job import Job
from tinyagentos.model.provider import Usage
from tinyagentos.store.access import AccessTable
from tinyagentos.store.database import KEPT_PAGES, Database
from tinyagentos.store.jobs import JobTable
from tinyagentos.store.providers import UsageTable
from tinyagentos.store.reserve import SIZE_BYTES, Reserve
from tinyagentos.store.supply import SupplyTable
from tinyagentos.store.timings import TimingTable

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = "a long and good password"


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def database(faults: Faults, tmp_path: Path) -> Database:
    return faults.open(tmp_path / "db")


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (Fault.full, NoSpace, "MiB of disk space left"),
        (Fault.locked, StoreFailed, "Another program"),
        (Fault.io_error, StoreFailed, "The disk fails"),
        (Fault.read_only, StoreFailed, "is read-only"),
        (Fault.corrupt, StoreFailed, "is damaged"),
    ],
)
def test_each_failure_is_a_sentence(
    fault: Fault, kind: type[Exception], said: str, faults: Faults, database: Database
) -> None:
    faults.begin(lambda _: True, fault)
    with pytest.raises(kind, match=said) as raised:
        JobTable(database).add(Job("1", "deploy", "agent:a", NOW))
    assert "sqlite" not in str(raised.value).lower()
    assert raised.value.hint  # type: ignore[attr-defined] # both are TaosErrors


def test_a_full_database_of_sqlite_itself(database: Database) -> None:
    pages = database.execute("PRAGMA page_count")[0][0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(NoSpace):
        JobTable(database).add(Job("1", "x" * 40000, "agent:a", NOW))


def test_another_program_holds_the_file(database: Database, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFailed, match="Another program"):
        JobTable(database).add(Job("1", "deploy", "agent:a", NOW))
    other.execute("ROLLBACK")
    JobTable(database).add(Job("1", "deploy", "agent:a", NOW))
    other.close()


def test_a_closed_database_is_a_sentence_as_well(database: Database) -> None:
    database.close()
    with pytest.raises(HostNotReady, match="cannot be used"):
        JobTable(database).list_newest()


def test_all_statements_are_kept_or_none(faults: Faults, database: Database) -> None:
    faults.begin(lambda write: write == 2, Fault.full)
    insert = "INSERT INTO web_sessions (hash, until) VALUES (?, ?)"
    with pytest.raises(NoSpace):
        database.execute_all((insert, ("a", "x")), (insert, ("b", "x")))
    assert database.execute("SELECT * FROM web_sessions") == []
    database.execute_all((insert, ("a", "x")))
    assert len(database.execute("SELECT * FROM web_sessions")) == 1


def test_the_reserve_is_given_up_for_what_is_vital_and_made_again(tmp_path: Path) -> None:
    faults, reserve = Faults(), Reserve(tmp_path / "reserve")
    database = Database(tmp_path / "db", reserve=reserve, connect=faults.connect)
    database.keep_reserve()
    assert (tmp_path / "reserve").stat().st_size == SIZE_BYTES
    faults.begin(lambda _: (tmp_path / "reserve").exists(), Fault.full)
    table = JobTable(database)
    with pytest.raises(NoSpace):
        table.add(Job("1", "deploy", "agent:a", NOW))
    assert (tmp_path / "reserve").exists(), "a deploy does not take it"
    table.add(Job("2", "delete", "agent:a", NOW), vital=True)
    assert not (tmp_path / "reserve").exists()
    table.add(Job("3", "deploy", "agent:b", NOW))
    database.keep_reserve()
    assert (tmp_path / "reserve").stat().st_size == SIZE_BYTES
    assert not list(tmp_path.glob("*.part"))


def test_without_a_folder_to_write_there_is_no_reserve_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reserve = Reserve(tmp_path / "nowhere" / "reserve")
    reserve.ensure()
    assert not reserve.give_up()
    assert "no disk space can be kept" in caplog.text


def test_pages_are_kept_in_the_file_and_its_log(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    database.keep_room()
    size = KEPT_PAGES * 4096
    for name in ("db", "db-wal"):
        assert (tmp_path / name).stat().st_size >= size, name
    database.keep_room()
    assert (tmp_path / "db").stat().st_size < 2 * size, "the same pages are used again"
    database.close()


def test_a_full_disk_keeps_no_room_and_the_server_starts(
    faults: Faults, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    faults.begin(lambda _: True, Fault.full)
    database.keep_room()
    assert "no room can be kept" in caplog.text


def test_what_waits_is_said_once_and_written_with_the_next_that_can_be(
    faults: Faults, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    table = SupplyTable(database)
    faults.begin(lambda _: True, Fault.full)
    for failures in (1, 2, 3):
        table.put("openclaw/x64", SupplyRecord(failures=failures))
    assert table.get("openclaw/x64").failures == 3
    assert database.failure
    assert caplog.text.count("waits to be written") == 1
    faults.end()
    table.put("hermes/x64", SupplyRecord())
    assert database.failure is None
    assert SupplyTable(database).get("openclaw/x64").failures == 3
    assert {one.failures for one in table.list_all()} == {0, 3}


def test_what_still_waits_at_the_end_is_written_then(
    faults: Faults, database: Database, tmp_path: Path
) -> None:
    faults.begin(lambda _: True, Fault.locked)
    SupplyTable(database).put("openclaw/x64", SupplyRecord(failures=7))
    faults.end()
    database.close()
    assert SupplyTable(Database(tmp_path / "db")).get("openclaw/x64").failures == 7


def test_usage_counts_against_the_budget_before_it_is_written(
    faults: Faults, database: Database
) -> None:
    table = UsageTable(database)
    table.add("hello", "2026-01", Usage(1, 0, 10, 1))
    faults.begin(lambda _: True, Fault.full)
    for _ in range(2):
        table.add("hello", "2026-01", Usage(1, 0, 10, 1))
    assert table.get("hello", "2026-01") == Usage(3, 0, 30, 3)
    faults.end()
    database.flush()
    assert table.get("hello", "2026-01") == Usage(3, 0, 30, 3)
    assert UsageTable(database).get("hello", "2026-01") == Usage(3, 0, 30, 3)


def test_a_timing_that_cannot_be_written_is_dropped(faults: Faults, database: Database) -> None:
    table = TimingTable(database)
    faults.begin(lambda _: True, Fault.full)
    table.add("deploy.build", "openclaw/x64", 5, NOW)
    faults.end()
    assert table.typical_seconds("deploy.build", "openclaw/x64") is None
    assert database.failure is None


async def test_people_log_in_and_out_while_nothing_can_be_written(
    faults: Faults, database: Database
) -> None:
    now = NOW
    access = Access(AccessTable(database), lambda: now)
    await access.set_password(GOOD)
    before = await access.log_in(GOOD, "a")
    faults.begin(lambda _: True, Fault.read_only)
    during = await access.log_in(GOOD, "a")
    now += timedelta(days=10)
    assert access.is_session(before), "that it lasts longer is not written"
    assert access.is_session(during)
    access.log_out(before)
    assert not access.is_session(before)
    with pytest.raises(StoreFailed):
        await access.set_password("another good password")
    assert not access.is_session("nonsense")
    faults.end()
    database.flush()
    again = Access(AccessTable(database), lambda: now)
    assert (again.is_session(before), again.is_session(during)) == (False, True)
    now += SESSION_LASTS
    assert not again.is_session(during)


async def test_a_password_that_cannot_be_changed_stays(faults: Faults, database: Database) -> None:
    access = Access(AccessTable(database))
    await access.set_password(GOOD)
    for number in range(1, 4):
        faults.begin(lambda write, number=number: write == number, Fault.io_error)  # type: ignore[misc]
        with pytest.raises(StoreFailed):
            await access.set_password("another good password")
        faults.end()
        assert await access.log_in(GOOD, "")
