"""What the composition root does by itself."""

from __future__ import annotations

import asyncio

import pytest

from tinyagentos.app import surviving
from tinyagentos.incus import IncusUnreachable
from tinyagentos.model.errors import HostNotReady


@pytest.mark.parametrize(
    "error", [KeyError("ipv4.address"), IncusUnreachable("gone"), HostNotReady("no", hint="x")]
)
def test_upkeep_goes_on_after_whatever_went_wrong_and_says_so(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with surviving("this did not end"):
        raise error
    assert "this did not end" in caplog.text


def test_upkeep_can_be_ended() -> None:
    with pytest.raises(asyncio.CancelledError), surviving("this did not end"):
        raise asyncio.CancelledError
