"""The web's password, codes and sessions."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tinyagentos import access
from tinyagentos.access import Access, digest
from tinyagentos.model.errors import Conflict, InvalidInput, TooManyTries, Unauthorized
from tinyagentos.store.access import AccessTable
from tinyagentos.store.database import Database

GOOD = "correct horse"


class World:
    """An Access and its clock."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.database = Database(":memory:")
        self.access = Access(AccessTable(self.database), lambda: self.now)


@pytest.fixture
def world() -> World:
    return World()


async def test_the_first_password_needs_the_machines_code_and_takes_it_once(world: World) -> None:
    with pytest.raises(Unauthorized):
        await world.access.set_first_password("", GOOD, "a")
    code = world.access.new_code().code
    with pytest.raises(Unauthorized):
        await world.access.set_first_password("wrong-wrong", GOOD, "a")
    with pytest.raises(InvalidInput):
        await world.access.set_first_password(code, "short", "a")
    session = await world.access.set_first_password(f" {code.upper()} ", GOOD, "a")
    assert world.access.is_session(session)
    with pytest.raises(Conflict):
        await world.access.set_first_password(code, "another one", "a")
    with pytest.raises(Conflict):
        world.access.new_code()


async def test_a_code_is_for_a_day_and_a_new_one_ends_it(world: World) -> None:
    first = world.access.new_code().code
    second = world.access.new_code()
    assert second.path == f"/setup?code={second.code}"
    with pytest.raises(Unauthorized):
        await world.access.set_first_password(first, GOOD, "a")
    world.now += timedelta(hours=25)
    with pytest.raises(Unauthorized):
        await world.access.set_first_password(second.code, GOOD, "a")


async def test_log_in_and_out(world: World) -> None:
    with pytest.raises(Unauthorized):
        await world.access.log_in(GOOD, "a")  # none is set: nobody gets in
    await world.access.set_password(GOOD)
    with pytest.raises(Unauthorized):
        await world.access.log_in(GOOD + " ", "a")
    one, two = await world.access.log_in(GOOD, "a"), await world.access.log_in(GOOD, "b")
    ended: list[str] = []
    world.access.on_end = ended.append
    world.access.log_out(one)
    assert (world.access.is_session(one), world.access.is_session(two)) == (False, True)
    assert ended == [digest(one)]
    await world.access.set_password("another password")
    assert not world.access.is_session(two)
    assert ended == [digest(one), ""]


async def test_guessing_is_stopped_for_the_guesser_only(world: World) -> None:
    await world.access.set_password(GOOD)
    for _ in range(5):
        with pytest.raises(Unauthorized):
            await world.access.log_in("guess", "guesser")
    with pytest.raises(TooManyTries):
        await world.access.log_in(GOOD, "guesser")
    assert await world.access.log_in(GOOD, "owner")
    world.now += timedelta(minutes=11)
    assert await world.access.log_in(GOOD, "guesser")


async def test_guessing_codes_is_stopped_too(world: World) -> None:
    code = world.access.new_code().code
    for _ in range(5):
        with pytest.raises(Unauthorized):
            await world.access.set_first_password("aaaaa-aaaaa", GOOD, "guesser")
    with pytest.raises(TooManyTries):
        await world.access.set_first_password(code, GOOD, "guesser")


async def test_a_session_lasts_while_it_is_used(world: World) -> None:
    await world.access.set_password(GOOD)
    used, left = await world.access.log_in(GOOD, "a"), await world.access.log_in(GOOD, "a")
    for _ in range(3):
        world.now += timedelta(days=20)
        assert world.access.is_session(used)
    assert not world.access.is_session(left)
    for nonsense in ("", "x", "x" * 10_000):
        assert not world.access.is_session(nonsense)


async def test_only_hashes_are_kept(world: World) -> None:
    await world.access.set_password(GOOD)
    session = await world.access.log_in(GOOD, "a")
    kept = "\n".join(
        str(tuple(row))
        for table in ("web_secrets", "web_sessions")
        for row in world.database.execute(f"SELECT * FROM {table}")
    )
    assert GOOD not in kept
    assert session not in kept
    assert digest(session) in kept


async def test_guesses_from_everywhere_are_looked_at_slowly(world: World) -> None:
    await world.access.set_password(GOOD)

    async def guess(caller: str) -> None:
        with pytest.raises(Unauthorized):
            await world.access.log_in("guess", caller)

    for number in range(access.ALL_TRIES):
        await guess(f"10.0.0.{number}")
    await guess("10.0.1.1")
    with pytest.raises(TooManyTries) as slow:
        await world.access.log_in(GOOD, "owner")
    assert "10 s" in slow.value.hint
    await guess("")  # the Unix socket is the owner's: it neither waits nor counts
    assert await world.access.log_in(GOOD, "")
    world.now += access.PACE
    assert await world.access.log_in(GOOD, "owner")
    with pytest.raises(TooManyTries):
        await world.access.log_in(GOOD, "owner")
    world.now += access.TRIES_WITHIN
    for _ in range(2):
        assert await world.access.log_in(GOOD, "owner")


@pytest.mark.parametrize(
    ("caller", "network"),
    [
        ("192.168.1.20", "192.168.1.20"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.9", "10.0.0.9"),
        ("guesser", "guesser"),
    ],
)
def test_what_tries_are_counted_by(caller: str, network: str) -> None:
    assert access.network_of(caller) == network


async def test_one_network_of_many_addresses_is_one_guesser(world: World) -> None:
    await world.access.set_password(GOOD)
    for number in range(5):
        with pytest.raises(Unauthorized):
            await world.access.log_in("guess", f"2001:db8::{number}")
    with pytest.raises(TooManyTries):
        await world.access.log_in(GOOD, "2001:db8::9")
    assert await world.access.log_in(GOOD, "2001:db8:0:1::9")


async def test_who_waits_for_a_sessions_end_is_told(world: World) -> None:
    await world.access.set_password(GOOD)
    one, two = [await world.access.log_in(GOOD, "a") for _ in range(2)]
    waiting = [asyncio.ensure_future(world.access.wait_end(digest(each))) for each in (one, two)]
    await asyncio.sleep(0)
    world.access.log_out(one)
    await asyncio.wait_for(waiting[0], 5)
    assert not waiting[1].done()
    await world.access.set_password("another password")
    await asyncio.wait_for(waiting[1], 5)
    await asyncio.wait_for(world.access.wait_end(digest(two)), 5)  # it has ended already
    assert world.access._waiting == {}


def test_many_callers_do_not_fill_the_memory(world: World) -> None:
    tries = access.Tries()
    for number in range(3 * access.MOST_CALLERS):
        tries.note(str(number), world.now)
    assert len(tries._wrong) == access.MOST_CALLERS


async def flood(world: World) -> None:
    """Guesses from so many addresses that all are looked at slowly."""
    for number in range(access.ALL_TRIES):
        with pytest.raises(Unauthorized):
            await world.access.log_in("guess", f"10.0.0.{number}")
    with pytest.raises(Unauthorized):
        await world.access.log_in("guess", "10.0.1.1")  # the one of this moment


async def test_a_browser_that_was_in_before_is_not_kept_out_by_guesses(world: World) -> None:
    await world.access.set_password(GOOD)
    device = world.access.new_device()
    await flood(world)
    with pytest.raises(TooManyTries):
        await world.access.log_in(GOOD, "owner")
    assert await world.access.log_in(GOOD, "owner", device)
    for _ in range(access.TRIES):  # nor by those from its own address, such as a proxy's
        with pytest.raises((Unauthorized, TooManyTries)):
            await world.access.log_in("guess", "10.0.0.1")
    assert await world.access.log_in(GOOD, "10.0.0.1", device)


async def test_such_a_browser_has_a_limit_too(world: World) -> None:
    await world.access.set_password(GOOD)
    device, other = world.access.new_device(), world.access.new_device()
    await flood(world)
    for _ in range(access.TRIES):
        with pytest.raises(Unauthorized):
            await world.access.log_in("guess", "thief", device)
    with pytest.raises(TooManyTries):
        await world.access.log_in(GOOD, "thief", device)
    assert await world.access.log_in(GOOD, "owner", other)
    world.now += access.TRIES_WITHIN
    assert await world.access.log_in(GOOD, "thief", device)


async def test_a_browser_is_known_until_the_password_changes_and_no_other_is(world: World) -> None:
    await world.access.set_password(GOOD)
    old = world.access.new_device()
    await world.access.set_password(GOOD)  # even when it is the same again
    name, _, signature = world.access.new_device().partition(".")
    await flood(world)
    for made_up in (
        old,
        name,
        f"{name}.",
        f".{signature}",
        f"x{name}.{signature}",
        "é.é",
        "." * 999,
    ):
        with pytest.raises(TooManyTries):
            await world.access.log_in(GOOD, "owner", made_up)
    assert await world.access.log_in(GOOD, "owner", f"{name}.{signature}")


def test_without_a_password_no_browser_is_known(world: World) -> None:
    assert world.access._known_device(world.access.new_device()) == ""
