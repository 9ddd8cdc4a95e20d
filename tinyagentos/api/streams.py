"""Answers that go on: server-sent events and logs. They end when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, TypeVar, cast

from fastapi import Depends, FastAPI, Request

HEARTBEAT = 15.0
T = TypeVar("T")


def allow_streams(app: FastAPI) -> None:
    """Give the app what ends its streams."""
    app.state.stopping = asyncio.Event()


def end_streams(app: FastAPI) -> None:
    """Let every stream of the app end now."""
    app.state.stopping.set()


def _stopping(request: Request) -> asyncio.Event:
    return cast(asyncio.Event, request.app.state.stopping)  # Starlette's state is untyped


Stopping = Annotated[asyncio.Event, Depends(_stopping)]


async def paced(
    source: AsyncIterator[T], stopping: asyncio.Event, every: float = HEARTBEAT
) -> AsyncIterator[T | None]:
    """What the source gives, and None whenever it gave nothing for a while.

    Ends with the source, or when the server stops. The source is closed in either case.
    """
    ended = asyncio.ensure_future(stopping.wait())
    coming = asyncio.ensure_future(anext(source))
    try:
        while True:
            done, _ = await asyncio.wait(
                {coming, ended}, timeout=every, return_when=asyncio.FIRST_COMPLETED
            )
            if coming in done:
                try:
                    yield coming.result()
                except StopAsyncIteration:
                    return
                coming = asyncio.ensure_future(anext(source))
            elif ended in done:
                return
            else:
                yield None
    finally:
        ended.cancel()
        coming.cancel()
        # Cancelling the source's step lets it close what it holds; wait until it has.
        await asyncio.wait({coming})
