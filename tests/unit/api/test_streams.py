"""Streams: heartbeats while nothing happens, and an end when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tinyagentos.api.streams import paced


class Source:
    """Gives one value, waits for a word, gives another; notes when it is closed."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.closed = False

    async def read(self) -> AsyncIterator[int]:
        try:
            yield 1
            await self.go_on.wait()
            yield 2
        finally:
            self.closed = True


async def test_silence_is_filled_and_the_end_is_the_sources() -> None:
    source, seen = Source(), []
    async for value in paced(source.read(), asyncio.Event(), every=0.01):
        seen.append(value)
        if seen.count(None) == 2:
            source.go_on.set()
    assert [value for value in seen if value] == [1, 2]
    assert source.closed


async def test_a_stopping_server_ends_the_stream_and_closes_the_source() -> None:
    source, stopping = Source(), asyncio.Event()
    seen = []
    async with asyncio.timeout(5):
        async for value in paced(source.read(), stopping):
            seen.append(value)
            stopping.set()
    assert seen == [1]
    assert source.closed


async def test_a_caller_that_leaves_closes_the_source() -> None:
    source = Source()
    stream = paced(source.read(), asyncio.Event(), every=0.01)
    assert await anext(stream) == 1
    assert await anext(stream) is None
    await stream.aclose()  # type: ignore[attr-defined] # it is a generator
    assert source.closed


async def test_an_error_of_the_source_is_the_callers() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ConnectionError("gone")

    stream = paced(broken(), asyncio.Event())
    assert await anext(stream) == 1
    with pytest.raises(ConnectionError):
        await anext(stream)
