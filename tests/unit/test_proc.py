"""The door to processes: output, failure, deadline, and nothing left running."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tinyagentos.model.errors import CommandFailed
from tinyagentos.proc import run


async def test_output_comes_back() -> None:
    assert await run("echo", "hello", within=10) == "hello\n"
    assert await run("cat", within=10, stdin=b"x") == "x"


async def test_lines_are_reported_as_they_come() -> None:
    lines: list[str] = []
    await run("sh", "-c", "echo a; echo b >&2", within=10, on_line=lines.append)
    assert lines == ["a", "b"]


async def test_a_failure_says_what_the_command_said() -> None:
    with pytest.raises(CommandFailed, match="sh ended with status 3: no luck"):
        await run("sh", "-c", "echo no luck >&2; exit 3", within=10)


async def test_a_missing_command_is_a_sentence() -> None:
    with pytest.raises(CommandFailed, match="cannot be started"):
        await run("no-such-command-here", within=10)


async def test_a_deadline_ends_the_whole_group() -> None:
    pids: list[str] = []
    with pytest.raises(CommandFailed, match="did not end within"):
        await run("sh", "-c", "sleep 60 & echo $!; wait", within=0.3, on_line=pids.append)
    async with asyncio.timeout(5):
        while _is_alive(int(pids[0])):
            await asyncio.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
