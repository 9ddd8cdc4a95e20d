"""The choice of path and the room for an agent, as tables."""

from __future__ import annotations

import pytest

from tinyagentos.agents.plan import FALLBACK_BASE, check_disk, check_memory, plan_launch
from tinyagentos.model.agent import Source
from tinyagentos.model.errors import NoSpace, Unavailable

MIB = 1024 * 1024


@pytest.mark.parametrize("wanted", [Source.auto, Source.build, Source.fastest])
def test_the_launch_image_is_the_fallback_when_is_image_present_returns_false(
    wanted: Source,
) -> None:
    plan = plan_launch("openclaw", "x64", wanted=wanted, image_present=False)
    assert plan.image == f"{FALLBACK_BASE}/x64"
    assert plan.source == "build"


@pytest.mark.parametrize("wanted", [Source.auto, Source.image, Source.fastest])
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
        "openclaw", "x64", wanted=Source.auto, image_present=False, build_seconds=41.2
    )
    assert plan.reason == "no image on this host; it took 41 s here last time"


def test_memory_that_suffices_is_accepted() -> None:
    check_memory(700 * MIB, available_bytes=1500 * MIB, promised_bytes=800 * MIB)


def test_memory_is_refused_with_numbers() -> None:
    with pytest.raises(NoSpace, match=r"needs 700 MiB .* 100 MiB are free \(1400 MiB go"):
        check_memory(700 * MIB, available_bytes=1500 * MIB, promised_bytes=1400 * MIB)


def test_disk_is_refused_with_numbers() -> None:
    check_disk(900 * MIB, free_bytes=900 * MIB, pool="taos")
    with pytest.raises(NoSpace, match="taos has 899 MiB free; the deploy needs 900 MiB"):
        check_disk(900 * MIB, free_bytes=899 * MIB, pool="taos")
