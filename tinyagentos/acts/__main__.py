"""`python -m tinyagentos.acts`: one act, asked for on standard input.

A line of JSON comes in. Out go lines of JSON: reports, then a result or an error.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys

from tinyagentos import log
from tinyagentos.acts.table import parse_act
from tinyagentos.config import Settings
from tinyagentos.incus import IncusError
from tinyagentos.model.errors import IncusFailed, InvalidInput, TaosError

REQUEST_BYTES = 64 * 1024
# A caller that connects and says nothing.
REQUEST_WITHIN = 10.0


async def serve_one() -> None:
    """Do what standard input asks for; it is given up when the caller goes away."""
    reader = asyncio.StreamReader(limit=REQUEST_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    try:
        async with asyncio.timeout(REQUEST_WITHIN):
            line = await reader.readline()
        say({"result": await _do(line, reader)})
    except TaosError as error:
        say({"error": error.code, "message": error.message, "hint": error.hint})
    except IncusError as error:
        failed = IncusFailed(f"Incus says: {error}", hint="`taos doctor` checks the host.")
        say({"error": failed.code, "message": failed.message, "hint": failed.hint})
    except TimeoutError:
        say({"error": TaosError.code, "message": "It took too long.", "hint": "Try again."})


async def _do(line: bytes, reader: asyncio.StreamReader) -> str:
    try:
        act = parse_act(json.loads(line))
    except ValueError as error:
        raise InvalidInput("That is no request for an act.") from error
    work = asyncio.create_task(act.do(Settings(), lambda text: say({"report": text})))
    if is_socket():
        watch = asyncio.create_task(_cancel_at_end(reader, work))
        work.add_done_callback(lambda _: watch.cancel())
    async with asyncio.timeout(act.within):
        return await work


async def _cancel_at_end(reader: asyncio.StreamReader, work: asyncio.Task[str]) -> None:
    """Give the work up when the caller has closed the connection."""
    while await reader.read(REQUEST_BYTES):
        pass  # one request is all that it may send
    work.cancel()


def is_socket() -> bool:
    """Whether standard input is a connection, which ends when the caller does."""
    return stat.S_ISSOCK(os.fstat(sys.stdin.fileno()).st_mode)


def say(told: dict[str, str]) -> None:
    """Send one line to the caller; one that has gone away needs none."""
    try:
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Do one act and end."""
    os.umask(0o022)  # what is made belongs to the host's packages and images
    log.set_up()
    try:
        asyncio.run(serve_one())
    except asyncio.CancelledError:
        sys.exit(1)


if __name__ == "__main__":
    main()
