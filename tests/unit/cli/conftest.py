"""The command line as a person runs it, in this process, against a real server."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.api.live import LiveServer, live_server
from tinyagentos.cli import main


class Terminal(io.StringIO):
    """Standard input or output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str


Taos = Callable[..., Ended]


@pytest.fixture
def taos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Taos:
    """Runs `taos ARGUMENTS` with settings of the test's own."""
    monkeypatch.setenv("TAOS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TAOS_RUN_DIR", str(tmp_path))

    def run(*argv: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["taos", *argv])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    """The server that the commands find."""
    with live_server(tmp_path) as serving:
        yield serving
