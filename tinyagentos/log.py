"""Logging: one line per event, a step and its facts; job and agent come from the context."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

job_id: ContextVar[str] = ContextVar("job_id", default="")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """`time level logger message key=value ...`"""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, its extra facts as key=value."""
        line = super().format(record)
        facts = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if job := job_id.get():
            facts["job"] = job
        return line + "".join(f" {key}={value}" for key, value in facts.items())


def set_up(level: str = "INFO") -> None:
    """Send our log lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
