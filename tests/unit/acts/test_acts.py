"""What needs root: a fixed list of acts, each with the parameters it takes and no others."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tinyagentos.acts.client import Acts
from tinyagentos.acts.table import ACTS, MakeBase, MendCheck, parse_act
from tinyagentos.config import Settings
from tinyagentos.model.errors import HostNotReady, InvalidInput


def nothing(_: str) -> None:
    """Nobody listens."""


def test_the_list_is_short_and_known() -> None:
    assert set(ACTS) == {"make-base", "mend-check"}


def test_a_request_becomes_an_act() -> None:
    asked = {"act": "make-base", "recipe": "debian-13", "arch": "x64", "project": "taos"}
    assert parse_act(asked) == MakeBase("debian-13", "x64", "taos")
    assert parse_act({"act": "mend-check", "check": "pool"}) == MendCheck("pool")


@pytest.mark.parametrize(
    "asked",
    [
        None, [], "make-base", {}, {"act": "run"}, {"act": ["make-base"]},
        {"act": "mend-check"}, {"act": "mend-check", "check": 1},
        {"act": "mend-check", "check": "pool", "more": "x"},
    ],
)  # fmt: skip
def test_anything_else_is_refused(asked: object) -> None:
    with pytest.raises(InvalidInput):
        parse_act(asked)


@pytest.mark.parametrize(
    "act",
    [
        MakeBase("../../etc", "x64", "taos"), MakeBase("openclaw", "x64", "taos"),
        MakeBase("debian-13", "sparc", "taos"), MakeBase("debian-13", "x64", "../x"),
        MendCheck("rm -rf /"),
    ],
)  # fmt: skip
async def test_parameters_are_of_what_taos_ships(act: MakeBase | MendCheck) -> None:
    with pytest.raises(InvalidInput):
        await act.do(Settings(), nothing)


async def test_without_systemd_a_process_of_ours_does_it_and_tells_its_error(
    tmp_path: Path,
) -> None:
    acts = Acts(Settings(data_dir=tmp_path, run_dir=tmp_path))
    with pytest.raises(InvalidInput, match="There is no check 'x'"):
        await acts.do(MendCheck("x"), nothing)


@pytest.mark.parametrize("line", [b"", b"no json\n", b"{}\n", b'{"act": "mend-check"}\n'])
def test_a_helper_answers_nonsense_with_an_error(line: bytes) -> None:
    said = subprocess.run(
        [sys.executable, "-P", "-m", "tinyagentos.acts"],
        input=line, capture_output=True, check=True, timeout=60,
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert json.loads(said.stdout)["error"] == "invalid_input"


class Helper:
    """A listener where systemd would start a helper."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines
        self.asked: list[object] = []
        self.closed = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(json.loads(await reader.readline()))
        for line in self.lines:
            writer.write(line.encode() + b"\n")
        if not self.lines:
            await reader.read()
            self.closed.set()
        writer.close()


async def test_by_its_socket_reports_and_the_result_come_back(tmp_path: Path) -> None:
    helper = Helper('{"report": "half"}', '{"result": "abc"}')
    said: list[str] = []
    async with await asyncio.start_unix_server(helper, tmp_path / "s"):
        acts = Acts(Settings.of_host(), tmp_path / "s")
        assert await acts.do(MendCheck("pool"), said.append) == "abc"
    assert said == ["half"]
    assert helper.asked == [{"act": "mend-check", "check": "pool"}]


async def test_a_helper_that_ends_without_an_answer_is_an_error(tmp_path: Path) -> None:
    async with await asyncio.start_unix_server(Helper("nonsense"), tmp_path / "s"):
        with pytest.raises(HostNotReady, match="without an answer"):
            await Acts(Settings.of_host(), tmp_path / "s").do(MendCheck("pool"), nothing)


async def test_a_cancelled_act_closes_the_connection(tmp_path: Path) -> None:
    helper = Helper()
    async with await asyncio.start_unix_server(helper, tmp_path / "s"):
        act = asyncio.create_task(
            Acts(Settings.of_host(), tmp_path / "s").do(MendCheck("pool"), nothing)
        )
        while not helper.asked:
            await asyncio.sleep(0)
        act.cancel()
        await asyncio.wait_for(helper.closed.wait(), 5)
