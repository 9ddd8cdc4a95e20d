"""The one door to processes: argument lists only, always a deadline, always cleaned up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Mapping
from pathlib import Path

from tinyagentos.model.errors import CommandFailed

Line = Callable[[str], None]


async def run(
    *argv: str | Path,
    within: float,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    on_line: Line | None = None,
) -> str:
    """Run a command to its end and return what it printed.

    within: seconds it may take. env: added to our own environment. stdin: bytes it reads.
    on_line: called with each line of output as it appears (standard error is then part of it).
    Raises CommandFailed when it cannot be started, takes too long, or ends with a status
    other than 0. The command runs in its own process group, which is killed as a whole when the
    deadline passes or the caller is cancelled.
    """
    name = Path(argv[0]).name
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=PIPE if stdin is not None else DEVNULL,
            stdout=PIPE,
            stderr=STDOUT if on_line else PIPE,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            limit=1024 * 1024,
        )
    except OSError as error:
        raise CommandFailed(f"{name} cannot be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(within):
            if on_line:
                out, err = await _read_lines(process, stdin, on_line), ""
            else:
                raw_out, raw_err = await process.communicate(stdin)
                out, err = raw_out.decode(errors="replace"), raw_err.decode(errors="replace")
            await process.wait()
    except TimeoutError as error:
        raise CommandFailed(f"{name} did not end within {within:.0f} s") from error
    finally:
        await _end(process)
    if process.returncode:
        said = (err or out).strip()[-800:]
        raise CommandFailed(f"{name} ended with status {process.returncode}: {said}")
    return out


def start_detached(
    *argv: str | Path,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> int:
    """Start a daemon that outlives us, its output at the end of the log file; its process id.

    Raises CommandFailed when it cannot be started.
    """
    try:
        with log.open("ab") as out:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **(env or {})},
                cwd=cwd or "/",
                start_new_session=True,
            )
    except OSError as error:
        raise CommandFailed(f"{argv[0]} cannot be started: {error.strerror}") from error
    return process.pid


def has_ended(pid: int) -> bool:
    """Whether the process is gone; one that ended and was not waited for counts as gone."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        return bool(poll.poll(0))
    finally:
        os.close(watched)


async def wait_until_ended(pid: int) -> None:
    """Return when the process has ended, whoever started it."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(watched, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)


async def end(pid: int, *, within: float, sign: signal.Signals = signal.SIGTERM) -> None:
    """Ask the process to end and wait until it did; CommandFailed when it does not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sign)
    try:
        async with asyncio.timeout(within):
            await wait_until_ended(pid)
    except TimeoutError as error:
        raise CommandFailed(f"process {pid} did not end within {within:.0f} s") from error


async def _read_lines(process: Process, stdin: bytes | None, on_line: Line) -> str:
    if stdin is not None and process.stdin:
        process.stdin.write(stdin)
        process.stdin.close()
    if process.stdout is None:
        raise CommandFailed("the process has no output pipe")
    lines = []
    async for raw in process.stdout:
        line = raw.decode(errors="replace")
        lines.append(line)
        on_line(line.rstrip("\n"))
    return "".join(lines)


async def _end(process: Process) -> None:
    """Kill what is left of the command's process group."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
