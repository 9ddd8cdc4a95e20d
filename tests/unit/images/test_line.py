"""The line: measured as the bytes come, and held back for a build."""

from __future__ import annotations

import pytest

from tinyagentos.images.line import FLOOR, SHARE, Line

MB = 1_000_000


class Time:
    """A clock that goes only when somebody sleeps or lets it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class World:
    def __init__(self, **more: int) -> None:
        self.time = Time()
        self.needed = False
        self.line = Line(
            is_needed=lambda: self.needed, clock=self.time, sleep=self.time.sleep, **more
        )
        self.line.begin()

    async def bring(self, seconds: float, rate: float) -> float:
        """Bytes come at the rate, as far as the line takes them; those that came in a second."""
        begun, taken = self.time.now, 0
        while self.time.now < begun + seconds:
            size = int(rate / 20)
            self.time.now += 0.05
            await self.line.take(size)
            taken += size
        return taken / (self.time.now - begun)


async def test_nothing_is_said_too_early() -> None:
    world = World()
    await world.bring(0.3, MB)
    assert world.line.rate is None
    await world.bring(0.3, MB)
    assert world.line.rate == pytest.approx(MB, rel=0.1)


async def test_the_rate_is_of_the_last_seconds() -> None:
    world = World()
    await world.bring(10, MB)
    await world.bring(4, MB / 10)
    assert world.line.rate == pytest.approx(MB / 10, rel=0.1)
    world.time.now += 10
    assert world.line.rate == 0
    world.line.begin()
    assert world.line.rate is None


async def test_a_cap_holds() -> None:
    assert await World(limit=MB).bring(10, 5 * MB) == pytest.approx(MB, rel=0.1)


async def test_a_build_gets_the_most_of_the_line_and_gives_it_back() -> None:
    world = World()
    assert await world.bring(3, 8 * MB) == pytest.approx(8 * MB, rel=0.05)
    world.needed = True
    assert await world.bring(10, 8 * MB) == pytest.approx(8 * MB * SHARE, rel=0.1)
    world.needed = False
    assert await world.bring(10, 8 * MB) == pytest.approx(8 * MB, rel=0.05)


async def test_it_goes_on_with_a_little_on_a_slow_line() -> None:
    world = World()
    await world.bring(3, 2 * FLOOR)
    world.needed = True
    assert await world.bring(10, 2 * FLOOR) == pytest.approx(FLOOR, rel=0.1)


async def test_a_build_does_not_lift_the_cap() -> None:
    world = World(limit=MB)
    world.needed = True
    assert await world.bring(10, 100 * MB) <= MB * 1.1
