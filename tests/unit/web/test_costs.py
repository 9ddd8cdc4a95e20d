"""What a framework costs, in words: known, estimated or said to be unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tinyagentos.model.agent import Framework
from tinyagentos.model.image import POLICIES, ImagePolicy
from tinyagentos.web.costs import compare, describe, source_options

SOON = {"download": 25.0, "image": 15.0, "build": 45.0}
KNOWN = Framework("openclaw", "9", "OpenClaw", 700 << 20, 117_000_000, SOON, 120_000_000)
HERE = replace(KNOWN, expected_seconds=SOON | {"download": 0.0})
UNTIMED = replace(KNOWN, image_size_bytes=None, expected_seconds=SOON | {"download": None})
UNKNOWN = replace(
    UNTIMED, image_budget_bytes=None, expected_seconds=dict.fromkeys(("download", "image", "build"))
)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (KNOWN, "117 MB image; about 15 s by image, about 45 s built."),
        (HERE, "117 MB image, here already; about 15 s by image, about 45 s built."),
        (UNTIMED, "Image of at most 120 MB; about 15 s by image, about 45 s built."),
        (UNKNOWN, "Image of unknown size."),
    ],
)
def test_a_framework_tells_its_size_and_time_by_each_way(one: Framework, said: str) -> None:
    assert describe(one) == f"Version 9, needs 700 MiB of memory. {said}"


FASTEST = [
    (HERE, ImagePolicy.lazy, "By its image, which is here: about 15 s."),
    (KNOWN, ImagePolicy.lazy,
     "Whichever is sooner: its image (about 40 s) or a build (about 45 s)."),
    (UNTIMED, ImagePolicy.background,
     "Whichever is sooner: its image (timed when its download begins) or a build (about 45 s)."),
    (KNOWN, ImagePolicy.manual,
     "A build, about 45 s: no image is here, and images are fetched only when you ask."),
    (KNOWN, ImagePolicy.off,
     "A build, about 45 s: no image is here, and images are never fetched here."),
    (KNOWN, None,
     "A build, about 45 s: no image is here, and no channel of images is configured."),
]  # fmt: skip


@pytest.mark.parametrize(("one", "policy", "said"), FASTEST)
def test_the_quickest_way_says_which_that_will_be(
    one: Framework, policy: ImagePolicy | None, said: str
) -> None:
    assert source_options(one, policy)["fastest"][1] == said


BY_IMAGE = [
    (HERE, None, "About 15 s; its image is here."),
    (KNOWN, ImagePolicy.manual, "About 40 s, with the download of its 117 MB image."),
    (UNTIMED, ImagePolicy.lazy, "Waits for its image of at most 120 MB, then about 15 s."),
    (KNOWN, None,
     "Not possible now: no image is here, and no channel of images is configured."),
    (KNOWN, ImagePolicy.off,
     "Not possible now: no image is here, and images are never fetched here."),
]  # fmt: skip


@pytest.mark.parametrize(("one", "policy", "said"), BY_IMAGE)
def test_the_way_by_image_says_what_it_waits_for(
    one: Framework, policy: ImagePolicy | None, said: str
) -> None:
    assert source_options(one, policy)["image"][1] == said
    assert source_options(one, policy)["build"][1].startswith("About 45 s; fetches")


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (KNOWN, "117 MB image; download about 25 s, then a deploy about 15 s; build about 45 s."),
        (HERE, "117 MB image, here already; by it about 15 s, built about 45 s."),
        (UNTIMED, "image of at most 120 MB; how long its download takes is not known yet, then a "
         "deploy about 15 s; build about 45 s."),
        (UNKNOWN, "image of unknown size; how long its download takes is not known yet, then a "
         "deploy some seconds; build for an unknown time."),
    ],
)  # fmt: skip
def test_what_a_policy_decides_about(one: Framework, said: str) -> None:
    assert compare(one) == f"OpenClaw: {said}"


def test_without_a_channel_there_is_no_download_to_speak_of() -> None:
    said = compare(UNTIMED, has_channel=False)
    assert said == "OpenClaw: build about 45 s; by the image that it leaves about 15 s."
    assert compare(HERE, has_channel=False) == compare(HERE)


def test_every_policy_has_its_price_in_one_sentence() -> None:
    assert set(POLICIES) == set(ImagePolicy)
    for said in POLICIES.values():
        assert said.count(".") == 1
        assert ":" in said
