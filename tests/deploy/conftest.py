"""A taOS on the fake Incus."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.deploy.cases import Channel, channel_of
from tests.deploy.world import Taos
from tests.fakes.fake_incus import FakeIncus


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    # A thread that looks at a channel may write for a moment after its server has stopped.
    with tempfile.TemporaryDirectory(prefix="taos-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
async def fake(folder: Path) -> AsyncIterator[FakeIncus]:
    """An Incus with a pool and a bridge."""
    async with FakeIncus(folder / "incus.sock") as running:
        yield running


@pytest.fixture
async def taos(folder: Path, fake: FakeIncus) -> AsyncIterator[Taos]:
    """A server on it."""
    made = Taos(folder, fake).start()
    yield made
    await made.close()


@pytest.fixture(scope="session")
def channel() -> Iterator[Channel]:
    """Settings that have a channel of images in a folder."""
    with tempfile.TemporaryDirectory(prefix="taos-") as name:
        yield channel_of(Path(name))
