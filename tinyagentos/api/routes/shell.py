"""A shell over a WebSocket.

Bytes either way are the terminal's; a text message from the caller is JSON: `{"width", "height"}`
for a new size. When the command is over the server says `{"exit": CODE}` and closes; what is wrong
before that is `{"code", "message", "hint"}`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, cast

from fastapi import APIRouter, Query, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from tinyagentos.api.services import Services
from tinyagentos.api.streams import Ends, ending_of
from tinyagentos.incus import IncusError, Terminal

router = APIRouter(prefix="/api/agents")
WIDEST = 1000
MOST_WORDS = 100


@router.websocket("/{name}/shell")
async def shell(
    socket: WebSocket,
    name: str,
    command: Annotated[list[str] | None, Query()] = None,
    width: Annotated[int, Query(ge=1, le=WIDEST)] = 80,
    height: Annotated[int, Query(ge=1, le=WIDEST)] = 24,
    root: bool = False,
) -> None:
    """A terminal in the agent; without a command a login shell, as the agent's user unless root."""
    services = cast(Services, socket.app.state.services)  # Starlette's state is untyped
    stopping = ending_of(socket)
    await socket.accept()
    words = (command or [])[:MOST_WORDS]
    try:
        async with services.shells.open(
            name, words, width=width, height=height, as_root=root
        ) as terminal:
            await _carry(socket, terminal, stopping)
    except Exception as error:
        problem = services.explain(error)
        await _say(socket, {"code": problem.code, "message": problem.message, "hint": problem.hint})
        if problem.code == "internal":
            raise
    if socket.client_state is WebSocketState.CONNECTED:
        await socket.close()


async def _carry(socket: WebSocket, terminal: Terminal, stopping: Ends) -> None:
    """Carry bytes both ways until the command is over, the caller has gone or it is to stop."""
    typing = asyncio.ensure_future(_type(socket, terminal))
    showing = asyncio.ensure_future(_show(socket, terminal))
    ending = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({typing, showing, ending}, return_when=asyncio.FIRST_COMPLETED)
        if showing.done():
            showing.result()
            await _say(socket, {"exit": await terminal.wait()})
        elif typing.done() and (error := typing.exception()):
            raise error
    finally:
        for task in (typing, showing, ending):
            task.cancel()
        await asyncio.gather(typing, showing, ending, return_exceptions=True)


async def _type(socket: WebSocket, terminal: Terminal) -> None:
    """Type what the caller sends, until the caller has gone."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        if typed := message.get("bytes"):
            await terminal.send(typed)
        elif text := message.get("text"):
            match _size(text):
                case (width, height):
                    await terminal.resize(width, height)


async def _show(socket: WebSocket, terminal: Terminal) -> None:
    """Show what the terminal shows, until its command is over."""
    while data := await terminal.recv():
        await socket.send_bytes(data)


def _size(text: str) -> tuple[int, int] | None:
    try:
        match json.loads(text):
            case {"width": int(width), "height": int(height)}:
                return min(max(1, width), WIDEST), min(max(1, height), WIDEST)
    except ValueError:
        pass
    return None


async def _say(socket: WebSocket, what: dict[str, object]) -> None:
    try:
        await socket.send_text(json.dumps(what))
    except (WebSocketDisconnect, RuntimeError, IncusError):
        return  # nobody hears it
