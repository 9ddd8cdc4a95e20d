"""Running commands inside instances, over Incus's WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

import aiohttp

from tinyagentos.incus.errors import IncusError, IncusTimeout, OperationFailed
from tinyagentos.incus.operations import Api, Operation
from tinyagentos.incus.parse import Object, integer, strings

Stream = Literal["stdout", "stderr"]
Feed = bytes | AsyncIterable[bytes] | None
Socket = aiohttp.ClientWebSocketResponse

PIECE = 1 << 17
QUEUE = 16  # messages of up to 128 kB that wait for a slow reader, before Incus is held up
KILL_WITHIN = 5.0
KILL_SETTLE = 0.3
KILLED = 9
# Of each stream, when the caller names no other limit.
MOST_OUTPUT = 64 * 1024 * 1024
CONTROL = "control"
# What a shell would end with; Incus has no exit status for a command that never ran.
NEVER_RAN = {"Command not found": 127, "Command not executable": 126}


@dataclass(frozen=True)
class Command:
    """What to run. user and group are numbers, as Incus knows no names inside."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    user: int = 0
    group: int = 0
    cwd: str = ""
    terminal: tuple[int, int] | None = None

    def body(self) -> Object:
        """The command in Incus's words."""
        body: dict[str, object] = {
            "command": list(self.argv),
            "environment": dict(self.env),
            "user": self.user,
            "group": self.group,
            "cwd": self.cwd,
            "wait-for-websocket": True,
            "interactive": self.terminal is not None,
        }
        if self.terminal:
            body["width"], body["height"] = self.terminal
        return body


@dataclass(frozen=True)
class ExecResult:
    """How a command ended: 127 when it was not found, 126 when it cannot be run.

    137 also when it wrote more than was wanted, and was killed; what it wrote before is here.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes


class Execution:
    """A running command: iterate over its output; exit_code is set when that is over."""

    def __init__(self, api: Api, operation: Operation, sockets: Mapping[str, Socket]) -> None:
        self.exit_code: int | None = None
        self._api = api
        self._operation = operation
        self._sockets = sockets
        self._arrived: asyncio.Queue[tuple[Stream, bytes] | Exception | None]
        self._arrived = asyncio.Queue(QUEUE)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aiter__(self) -> AsyncIterator[tuple[Stream, bytes]]:
        """The output as it arrives."""
        open_streams = 2
        while open_streams:
            item = await self._arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                open_streams -= 1
            else:
                yield item
        self.exit_code, said = await _end(self._api, self._operation)
        if said:
            yield "stderr", said

    async def signal(self, number: int) -> None:
        """Send the command a signal; one that is over does not mind."""
        await _signal(self._sockets[CONTROL], number)

    def _begin(self, stdin: Feed) -> None:
        self._tasks = [
            asyncio.create_task(self._read("1", "stdout")),
            asyncio.create_task(self._read("2", "stderr")),
            asyncio.create_task(self._feed(stdin)),
        ]

    async def _finish(self) -> None:
        """Have the command ended and all of its sockets unused."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.exit_code is None:
            await self.signal(KILLED)
            # Its children may live on and hold its output open: no wait would end them.
            with contextlib.suppress(IncusError):
                await self._api.settle(self._operation, within=KILL_SETTLE)
            await asyncio.gather(*(socket.close() for socket in self._sockets.values()))

    async def _read(self, fd: str, stream: Stream) -> None:
        try:
            async for data in _messages(self._sockets[fd]):
                await self._arrived.put((stream, data))
            await self._arrived.put(None)
        except Exception as error:
            await self._arrived.put(error)

    async def _feed(self, stdin: Feed) -> None:
        socket = self._sockets["0"]
        try:
            async for piece in _pieces(stdin):
                try:
                    await socket.send_bytes(piece)
                except (aiohttp.ClientError, ConnectionError):
                    return  # the command read enough
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                await socket.send_str("")  # an empty text message is the end of the stream
        except Exception as error:
            await self._arrived.put(error)


class Terminal:
    """A command on a terminal of its own, such as a shell."""

    def __init__(self, api: Api, operation: Operation, sockets: Mapping[str, Socket]) -> None:
        self.exit_code: int | None = None
        self._api = api
        self._operation = operation
        self._sockets = sockets

    async def send(self, typed: bytes) -> None:
        """Type; IncusError when the command is over."""
        try:
            await self._sockets["0"].send_bytes(typed)
        except (aiohttp.ClientError, ConnectionError) as error:
            raise IncusError("The command on the terminal is over") from error

    async def recv(self) -> bytes:
        """What the terminal shows next; nothing when the command is over."""
        async for data in _messages(self._sockets["0"]):
            return data
        # Incus counts a terminal's command as over only when this side closes, too.
        await self._sockets["0"].close()
        return b""

    async def resize(self, width: int, height: int) -> None:
        """Change the size of the terminal."""
        arguments = {"width": str(width), "height": str(height)}
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            await self._sockets[CONTROL].send_json({"command": "window-resize", "args": arguments})

    async def wait(self) -> int:
        """The exit code, when the command is over; what it still shows is dropped."""
        while await self.recv():
            pass
        if self.exit_code is None:
            self.exit_code, _ = await _end(self._api, self._operation)
        return self.exit_code


@asynccontextmanager
async def open_execution(
    api: Api, instance: str, command: Command, *, stdin: Feed, within: float
) -> AsyncIterator[Execution]:
    """The running command. It is killed when the block is left before its end.

    IncusTimeout when it runs longer than `within` seconds.
    """
    timer = asyncio.timeout(within)
    try:
        async with timer, _connected(api, instance, command) as (operation, sockets):
            execution = Execution(api, operation, sockets)
            execution._begin(stdin)
            try:
                yield execution
            finally:
                await execution._finish()
    except TimeoutError as error:
        if not timer.expired():
            raise  # one of the caller's own
        raise IncusTimeout(
            f"{command.argv[0]} in {instance} was killed after {within:g} s"
        ) from error


async def run_exec(
    api: Api,
    instance: str,
    command: Command,
    *,
    stdin: Feed,
    within: float,
    most: int = MOST_OUTPUT,
) -> ExecResult:
    """How the command ended, with all it wrote; one that writes more than `most` is killed."""
    written = {"stdout": bytearray(), "stderr": bytearray()}
    async with open_execution(api, instance, command, stdin=stdin, within=within) as execution:
        async for stream, data in execution:
            held = written[stream]
            held += data[: most - len(held)]
            if len(held) == most:
                break  # leaving kills it
    exit_code = 128 + KILLED if execution.exit_code is None else execution.exit_code
    return ExecResult(exit_code, bytes(written["stdout"]), bytes(written["stderr"]))


@asynccontextmanager
async def open_terminal(api: Api, instance: str, command: Command) -> AsyncIterator[Terminal]:
    """The command on a terminal; it is killed when the block is left before its end."""
    async with _connected(api, instance, command) as (operation, sockets):
        terminal = Terminal(api, operation, sockets)
        try:
            yield terminal
        finally:
            if terminal.exit_code is None:
                await _signal(sockets[CONTROL], KILLED)


@asynccontextmanager
async def _connected(
    api: Api, instance: str, command: Command
) -> AsyncIterator[tuple[Operation, Mapping[str, Socket]]]:
    """The submitted command with all of its WebSockets; Incus runs it once they are there."""
    path = f"/1.0/instances/{quote(instance, safe='')}/exec"
    # A command whose sockets are never connected never runs: nothing to wait for.
    operation = await api.submit("POST", path, command.body(), settle=KILL_SETTLE)
    async with AsyncExitStack() as stack:
        # Control first: Incus runs the command once the streams are there, and may be done with it
        # before a late control socket asks for the operation.
        secrets = strings(operation.metadata, "fds")
        sockets = {
            fd: await stack.enter_async_context(
                api.transport.websocket(
                    f"/1.0/operations/{quote(operation.id)}/websocket",
                    query=api.query({"secret": secret}),
                    autoping=False,
                )
            )
            for fd, secret in sorted(secrets.items(), key=lambda held: held[0] != CONTROL)
        }
        yield operation, sockets


async def _end(api: Api, operation: Operation) -> tuple[int, bytes]:
    """The exit code, and what a shell would have said if the command never ran."""
    try:
        over = await api.wait(operation, within=math.inf)
    except OperationFailed as error:
        if error.sentence in NEVER_RAN:
            return NEVER_RAN[error.sentence], error.sentence.encode()
        raise
    return integer(over.metadata, "return"), b""


async def _signal(control: Socket, number: int) -> None:
    with contextlib.suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
        async with asyncio.timeout(KILL_WITHIN):
            await control.send_json({"command": "signal", "signal": number})


async def _messages(socket: Socket) -> AsyncIterator[bytes]:
    """The stream's bytes up to its end: an empty text message, or the socket's close.

    Pings are answered here: aiohttp's own answer fails the read when the peer has closed already,
    although what it sent before is still to be read.
    """
    while True:
        message = await socket.receive()
        match message.type:
            case aiohttp.WSMsgType.BINARY:
                yield message.data
            case aiohttp.WSMsgType.PING:
                with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                    await socket.pong(message.data)
            case _:
                return


async def _pieces(stdin: Feed) -> AsyncIterator[bytes]:
    if stdin is None:
        return
    if isinstance(stdin, bytes):
        for start in range(0, len(stdin), PIECE):
            yield stdin[start : start + PIECE]
        return
    async for chunk in stdin:
        for start in range(0, len(chunk), PIECE):
            yield chunk[start : start + PIECE]


def command_of(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    user: int,
    group: int,
    cwd: str,
    terminal: tuple[int, int] | None = None,
) -> Command:
    """The command as the instance methods are given it."""
    return Command(tuple(argv), dict(env or {}), user, group, cwd, terminal)
