"""The choice of path and the room for an agent, as tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagentos.agents.plan import (
    FALLBACK_BASE,
    Outlook,
    check_disk,
    check_memory,
    expect_image,
    is_too_slow,
    plan_launch,
)
from tinyagentos.host.room import Room
from tinyagentos.model.agent import Source
from tinyagentos.model.errors import NoSpace, Unavailable

MIB = 1024 * 1024


@pytest.mark.parametrize("wanted", [Source.build, Source.fastest])
def test_the_launch_image_is_the_fallback_when_is_image_present_returns_false(
    wanted: Source,
) -> None:
    plan = plan_launch("openclaw", "x64", wanted=wanted, image_present=False)
    assert plan.image == f"{FALLBACK_BASE}/x64"
    assert plan.source == "build"


@pytest.mark.parametrize("wanted", [Source.image, Source.fastest])
def test_the_image_is_taken_when_it_is_present(wanted: Source) -> None:
    plan = plan_launch("openclaw", "arm64", wanted=wanted, image_present=True)
    assert (plan.source, plan.image) == ("image", "openclaw/arm64")


def test_a_build_that_was_asked_for_ignores_the_image() -> None:
    plan = plan_launch("openclaw", "x64", wanted=Source.build, image_present=True)
    assert (plan.source, plan.reason) == ("build", "the build path was asked for")


def test_the_image_alone_is_refused_when_it_is_absent() -> None:
    with pytest.raises(Unavailable, match="no image of openclaw for x64"):
        plan_launch("openclaw", "x64", wanted=Source.image, image_present=False)


def test_the_reason_tells_what_a_build_took_before() -> None:
    plan = plan_launch(
        "openclaw", "x64", wanted=Source.fastest, image_present=False, build_seconds=41.2
    )
    assert plan.reason == "no image on this host; it took 41 s here last time"


def test_memory_that_suffices_is_accepted() -> None:
    check_memory(700 * MIB, available_bytes=1500 * MIB, promised_bytes=800 * MIB)


def test_memory_is_refused_with_numbers() -> None:
    with pytest.raises(NoSpace, match=r"needs 700 MiB .* 100 MiB are free \(1400 MiB go"):
        check_memory(700 * MIB, available_bytes=1500 * MIB, promised_bytes=1400 * MIB)


def test_disk_is_refused_with_numbers() -> None:
    check_disk(900 * MIB, Room("taos", 0, 900 * MIB))
    with pytest.raises(NoSpace, match="taos has 899 MiB free; the deploy needs 900 MiB"):
        check_disk(900 * MIB, Room("taos", 0, 899 * MIB))


def test_a_full_disk_under_the_pool_refuses_a_deploy_with_its_numbers() -> None:
    room = Room("taos", 0, 20_000 * MIB, Path("/disks"), 700 * MIB)
    check_disk(188 * MIB, room)
    with pytest.raises(NoSpace, match=r"under storage pool taos \(/disks\) has 700 MiB .* 189 MiB"):
        check_disk(189 * MIB, room)


MBIT = 1e6 / 8


def outlook(left_mb: float, mbit: float | None, build: float, settle: float = 5) -> Outlook:
    """What a person sees: megabytes still to come, the line, and what a build would take."""
    rate = None if mbit is None else mbit * MBIT
    return Outlook(expect_image(int(left_mb * 1e6), rate, settle), build, rate)


WAYS = [
    pytest.param(outlook(117, 200, 35), "image", id="fast line"),
    pytest.param(outlook(117, 50, 35), "image", id="middling line"),
    pytest.param(outlook(117, 20, 35), "build", id="slow line"),
    pytest.param(outlook(117, 5, 35), "build", id="very slow line"),
    pytest.param(outlook(117, 5, 300), "image", id="very slow line, slower processor"),
    pytest.param(outlook(10, 5, 35), "image", id="slow line, nearly here"),
    pytest.param(outlook(117, 200, 9), "build", id="fast line, base here already"),
    pytest.param(outlook(117, None, 35), "build", id="nothing known of the line"),
    pytest.param(outlook(117, 0, 35), "build", id="stalled"),
    pytest.param(outlook(0, None, 35), "image", id="fetched, not unpacked"),
]


@pytest.mark.parametrize(("seen", "way"), WAYS)
def test_the_quicker_way_is_taken(seen: Outlook, way: str) -> None:
    plan = plan_launch("openclaw", "x64", wanted=Source.fastest, image_present=False, outlook=seen)
    assert (plan.source, plan.wait) == (way, way == "image")
    assert plan.reason == seen.words


def test_the_reason_is_in_words() -> None:
    said = outlook(117, 12, 40).words
    assert said == "the download takes about 83 s at 12 Mbit/s, the build about 40 s"
    assert "very long" in outlook(117, 0, 40).words
    assert "has not begun" in outlook(117, None, 40).words


def test_what_was_refused_is_built_with_the_reason() -> None:
    plan = plan_launch(
        "openclaw", "x64", wanted=Source.fastest, image_present=False,
        outlook=outlook(1, 200, 35), refused="the channel does not answer",
    )  # fmt: skip
    assert (plan.source, plan.reason) == ("build", "the channel does not answer")


def test_the_image_alone_is_waited_for_however_long_it_takes() -> None:
    seen = outlook(117, 1, 10)
    plan = plan_launch("openclaw", "x64", wanted=Source.image, image_present=False, outlook=seen)
    assert plan.wait
    with pytest.raises(Unavailable, match="the disk is full"):
        plan_launch("openclaw", "x64", wanted=Source.image, image_present=False,
                    outlook=seen, refused="the disk is full")  # fmt: skip


def test_a_short_look_suffices_when_the_ways_differ_much() -> None:
    assert outlook(117, 200, 35).is_clear
    assert outlook(117, 5, 35).is_clear
    assert not outlook(117, 30, 35).is_clear
    assert not outlook(117, None, 35).is_clear


@given(
    left=st.integers(1, 10**9), rate=st.floats(1e3, 1e9), build=st.floats(1, 1000),
    settle=st.floats(0.1, 100),
)  # fmt: skip
def test_no_choice_is_slower_than_the_better_way(
    left: int, rate: float, build: float, settle: float
) -> None:
    seen = Outlook(expect_image(left, rate, settle), build, rate)
    plan = plan_launch("openclaw", "x64", wanted=Source.fastest, image_present=False, outlook=seen)
    image = left / rate + settle
    taken = image if plan.source == "image" else build
    assert taken <= min(image, build) * 1.001
    if plan.wait:
        assert not is_too_slow(seen)  # what is chosen is not left at once
