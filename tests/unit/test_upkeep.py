"""Upkeep goes on whatever happens to one piece of it."""

from __future__ import annotations

import asyncio

import pytest

from tinyagentos.app import attempt, keep_up
from tinyagentos.incus import IncusUnreachable
from tinyagentos.model.errors import NoSpace

ERRORS = [
    NoSpace("3 MiB are free.", hint="Wait."),
    IncusUnreachable("no such file"),
    ValueError("Invalid isoformat string: ''"),
    ExceptionGroup("unhandled errors in a TaskGroup", [KeyError("x")]),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_what_goes_wrong_is_logged_and_ends_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise error

    await attempt("tidying", fail)
    [record] = caplog.records
    assert record.getMessage().startswith("tidying did not succeed")
    # What nobody expects is told with where it happened.
    assert bool(record.exc_info) == (not isinstance(error, NoSpace | IncusUnreachable))


async def test_work_that_ended_is_begun_again_until_it_is_cancelled() -> None:
    begun = 0
    thrice = asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 3:
            thrice.set()
            await asyncio.Event().wait()
        if begun == 2:
            raise ValueError("nobody thought of that")

    task = asyncio.create_task(keep_up("watching", work, pause=0))
    async with asyncio.timeout(5):
        await thrice.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert begun == 3
