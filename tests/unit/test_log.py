"""The log: its lines cannot be forged, and nobody outside decides how much of it there is."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.hostile import EVIL, assert_harmless
from tinyagentos import log
from tinyagentos.log import LAYOUT, LONGEST_LINE, USUAL, WINDOW, Limit, LineFormatter
from tinyagentos.model.agent import check_agent_name


class Written:
    """A logger of the test's own, and what it wrote."""

    def __init__(self) -> None:
        self.now = 0.0
        self._out = io.StringIO()
        self.log = logging.Logger("test")
        handler = logging.StreamHandler(self._out)
        handler.setFormatter(LineFormatter(LAYOUT))
        handler.addFilter(Limit(lambda: self.now))
        self.log.addHandler(handler)

    @property
    def text(self) -> str:
        return self._out.getvalue()


@pytest.fixture
def written() -> Written:
    return Written()


def test_hostile_words_are_one_line_that_steers_nothing(written: Written) -> None:
    written.log.warning("it said %s", EVIL, extra={"why": EVIL})
    assert_harmless(written.text)
    assert written.text.count("\n") == 1
    assert "why=\\x1b]0;owned" in written.text


def test_a_fault_of_ours_has_its_traceback_as_a_quotation(written: Written) -> None:
    try:
        check_agent_name("2026-01-01 INFO forged\n2026-01-01 INFO forged\n")
    except Exception:
        written.log.exception("failed")
    first, *quoted = written.text.splitlines()
    assert first.endswith("failed")
    assert all(line.startswith("  | ") for line in quoted)
    assert "check_agent_name" in written.text


def test_an_error_of_a_library_has_none(written: Written) -> None:
    try:
        int("no\nnumber")
    except ValueError:
        written.log.exception("Error handling request")
    assert written.text.count("\n") == 1
    assert "error=ValueError: invalid literal" in written.text


def test_a_record_has_a_largest_size(written: Written) -> None:
    written.log.warning("%s", "x" * 10_000_000)
    assert len(written.text) < LONGEST_LINE + 100
    assert "left out" in written.text

    def deep(times: int) -> None:
        if times:
            deep(times - 1)
        check_agent_name("y" * 1_000_000)

    try:
        deep(5)
    except Exception:
        written.log.exception("failed")
    assert len(written.text) < 2 * LONGEST_LINE + log.LONGEST_TRACE * 2


def test_a_flood_is_counted_and_not_written(written: Written) -> None:
    def flood(agent: str, times: int) -> None:
        for number in range(times):
            written.log.warning("no answer %s", number, extra={"agent": agent})

    flood("one", 7000)
    assert written.text.count("\n") == USUAL + 2
    assert "like_it=1000" in written.text
    flood("two", 1)
    assert "agent=two" in written.text, "an agent's flood hides no other agent"
    written.now += WINDOW
    flood("one", 1)
    assert "like_it_before=7000" in written.text
    written.log.warning("another event")
    assert "another event" in written.text


WRITES = """
import os, sys, threading, warnings, logging
from pathlib import Path
from tinyagentos import log
file = Path(sys.argv[1])
log.LogFile.__init__.__defaults__ = (20_000,)
log.set_up("INFO", file)
def fault(): raise RuntimeError("x" * 100)
for number in range(3000):
    logging.getLogger("t").info("x" * 50, extra={"agent": number})
    sys.stderr.write(f"raw {number}\\n")
    warnings.warn(f"warned {number}")
    if number % 300 == 0:
        thread = threading.Thread(target=fault); thread.start(); thread.join()
os.write(2, b"the last words\\n")
"""


def test_the_file_has_a_largest_size_and_standard_error_follows_to_the_new_one(
    tmp_path: Path,
) -> None:
    file = tmp_path / "server.log"
    with file.open("ab") as out:
        subprocess.run(
            [sys.executable, "-c", WRITES, str(file)], stdout=out, stderr=out, check=True
        )
    files = sorted(tmp_path.iterdir())
    assert [one.name for one in files] == ["server.log", "server.log.1", "server.log.2"]
    assert all(one.stat().st_size < 25_000 for one in files)
    assert file.read_text().endswith("the last words\n")


def test_a_log_that_is_elsewhere_is_not_rotated(tmp_path: Path) -> None:
    file = tmp_path / "server.log"
    ended = subprocess.run(
        [sys.executable, "-c", WRITES, str(file)], capture_output=True, text=True, check=True
    )
    assert "the last words" in ended.stderr
    assert not file.exists()
