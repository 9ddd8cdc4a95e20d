"""Which targets a channel has next, as a property of any history of publications."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.signing.channels import image_of
from tinyagentos.factory.candidate import Candidate, upload_of
from tinyagentos.factory.publish import next_version, plan_targets
from tinyagentos.model.release import (
    ImageTarget,
    channel_file_name,
    image_history,
    is_image,
    parse_image_target,
)
from tinyagentos.signing.repository import Published

# A few contents, so that some are published again; clocks that jump; both architectures.
publications = st.lists(
    st.tuples(
        st.lists(st.integers(0, 5), min_size=0, max_size=2, unique=True),
        st.integers(1, 2**31),
    ),
    max_size=12,
)


def candidate(number: int, at: int) -> Candidate:
    content = f"image {number}".encode()
    image = image_of(
        content, arch=("x64", "arm64")[number % 2], lock=f"{number}.lock.json",
        released=datetime.fromtimestamp(at, UTC),
    )  # fmt: skip
    return Candidate(
        image, upload_of(image.name, content), (upload_of(image.lock, f"lock {number}".encode()),)
    )


@given(publications, st.integers(1, 3))
def test_the_last_that_was_published_is_the_newest_and_only_so_many_stay(
    history: list[tuple[list[int], int]], keep: int
) -> None:
    published, there = Published(), dict[str, int]()
    order: dict[str, list[str]] = {"x64": [], "arm64": []}
    for numbers, at in history:
        numbers = [one for index, one in enumerate(numbers) if one % 2 == index % 2]
        candidates = [candidate(number, at) for number in numbers]
        targets = plan_targets(published, there, candidates, keep=keep)
        for one in candidates:
            line = order[one.image.arch]
            line[:] = [one.image.fingerprint, *(x for x in line if x != one.image.fingerprint)]
            del line[keep:]
        images: list[ImageTarget] = [
            parse_image_target(one.custom) for one in targets if is_image(one.custom)
        ]
        for arch, line in order.items():
            found = image_history(images, "openclaw", arch)
            assert [one.fingerprint for one in found] == line
            assert len({one.sequence for one in found}) == len(found)
        assert {one.name for one in targets} == {
            name for one in images for name in (one.name, one.lock)
        }
        version = next_version(published, there)
        assert version > published.version
        there = {channel_file_name(one.name, one.sha256): one.size_bytes for one in targets}
        there |= {f"{version}.targets.json": 1, f"{version}.snapshot.json": 1}
        published = replace(published, version=version, targets=targets)
