"""Logging: one line per event, a step and its facts; job and agent come from the context.

Others decide how often some events come about, and what is quoted in them. So a record has a
largest size, one that comes about too often is counted and not written, and the file is rotated.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType

from tinyagentos.visible import visible, visible_line

job_id: ContextVar[str] = ContextVar("job_id", default="")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PACKAGE = str(Path(__file__).parent)
LAYOUT = "%(asctime)s %(levelname)s %(name)s %(message)s"
LONGEST_LINE = 2000
LONGEST_TRACE = 6000
# So many records of one kind about one agent a minute; then those whose number is a power of ten.
USUAL = 20
WINDOW = 60.0
MOST_KINDS = 2000
# The facts that say whom a record is about.
CALLERS = ("agent", "instance", "subject")
LARGEST_FILE = 5_000_000
OLD_FILES = 2


class LineFormatter(logging.Formatter):
    """`time level logger message key=value ...`; a traceback follows as a quotation."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, its extra facts as key=value."""
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        facts = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if job := job_id.get():
            facts["job"] = job
        line = self.formatMessage(record)
        line += "".join(f" {key}={value}" for key, value in facts.items())
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return shortened(visible_line(line), LONGEST_LINE)
        if not is_ours(error.__traceback__):
            # What a stranger sent was no HTTP, or a connection went: the library's frames say
            # nothing about that.
            line += f" error={type(error).__name__}: {error}"
            return shortened(visible_line(line), LONGEST_LINE)
        trace = shortened("".join(traceback.format_exception(error)), LONGEST_TRACE)
        quoted = visible(trace.rstrip("\n")).replace("\n", "\n  | ")
        return f"{shortened(visible_line(line), LONGEST_LINE)}\n  | {quoted}"


def shortened(text: str, most: int) -> str:
    """The text, its middle left out when it is longer than that."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} ... {len(text) - 2 * half} left out ... {text[-half:]}"


def is_ours(trace: TracebackType | None) -> bool:
    """Whether the exception passed through our own code, and may be a fault of it."""
    while trace:
        if trace.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            return True
        trace = trace.tb_next
    return False


@dataclass
class _Count:
    since: float
    records: int = 0


class Limit(logging.Filter):
    """Lets the first records of a kind in a minute pass, then those that say how many there are."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._counts: OrderedDict[tuple[str, int, str], _Count] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written; its kind is a place in the code and a caller."""
        caller = next((str(vars(record)[one]) for one in CALLERS if one in vars(record)), "")
        kind, now = (record.pathname, record.lineno, caller[:100]), self._clock()
        count = self._counts.pop(kind, None)
        before = 0
        if count is None or now - count.since >= WINDOW:
            before = count.records if count else 0
            count = _Count(now)
        self._counts[kind] = count
        while len(self._counts) > MOST_KINDS:
            self._counts.popitem(last=False)
        count.records += 1
        if before > USUAL:
            record.__dict__["like_it_before"] = before
        if count.records <= USUAL:
            return True
        if str(count.records).strip("0") == "1":
            record.__dict__["like_it"] = count.records
            return True
        return False


class LogFile(RotatingFileHandler):
    """The file that standard error of this process goes to, with a largest size.

    Whatever is written to standard error by itself follows to the new file.
    """

    def __init__(self, path: Path, largest: int = LARGEST_FILE) -> None:
        super().__init__(
            path, maxBytes=largest, backupCount=OLD_FILES, encoding="utf-8",
            errors="backslashreplace",
        )  # fmt: skip

    def doRollover(self) -> None:  # noqa: N802 - the library's name
        """Begin a new file."""
        super().doRollover()
        if self.stream:
            for descriptor in (1, 2):
                os.dup2(self.stream.fileno(), descriptor)


class _Stream(io.TextIOBase):
    """Standard error of a program whose libraries write there by themselves: lines of the log."""

    def __init__(self) -> None:
        super().__init__()
        self._log = logging.getLogger("stderr")

    def write(self, text: str, /) -> int:
        for line in text.splitlines():
            if line.strip():
                self._log.warning("%s", line)
        return len(text)


def set_up(level: str = "INFO", file: Path | None = None) -> None:
    """Send our log lines to standard error, bounded.

    file: rotated when standard error is that file, as it is of a server that was started without
    systemd.
    """
    logging.raiseExceptions = False  # a full disk is no reason to write more
    logging.captureWarnings(capture=True)
    to_file = file is not None and _is_standard_error(file)
    handler = LogFile(file) if file and to_file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(LAYOUT))
    handler.addFilter(Limit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    if to_file:
        sys.stderr = _Stream()


def _is_standard_error(file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(2), file.stat())
    except OSError:
        return False
