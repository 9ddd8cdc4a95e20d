"""Which version is newer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagentos.model.version import is_newer

RISING = (
    "", "0.9", "1.0-alpha", "1.0-beta.2", "1.0-rc1", "1.0-rc2", "1.0", "1.0.post1", "1.0.1",
    "1.0.10", "1.18.18", "2026.9.6", "2026.9.6-1", "2026.10.1", "2099.1.1",
)  # fmt: skip
VERSIONS = st.one_of(
    st.sampled_from(RISING), st.from_regex(r"[0-9]{1,3}([.-]([0-9]{1,3}|rc|post|beta)){0,4}\Z")
)


@pytest.mark.parametrize("at", range(len(RISING)))
def test_versions_rise(at: int) -> None:
    for lower in RISING[:at]:
        assert is_newer(RISING[at], lower), (RISING[at], lower)
        assert not is_newer(lower, RISING[at]), (lower, RISING[at])


@pytest.mark.parametrize(
    ("one", "other"),
    [("1.0", "1.0.0"), ("1.0", "1-0"), ("1.0RC1", "1.0rc1"), ("v1.2", "1.2"), ("", "0")],
)
def test_two_ways_to_write_one_version(one: str, other: str) -> None:
    assert not is_newer(one, other)
    assert not is_newer(other, one)


@given(VERSIONS, VERSIONS, VERSIONS)
def test_it_is_an_order(a: str, b: str, c: str) -> None:
    assert not is_newer(a, a)
    assert not (is_newer(a, b) and is_newer(b, a))
    if is_newer(a, b) and is_newer(b, c):
        assert is_newer(a, c)
    if is_newer(a, b):
        assert is_newer(a, c) or is_newer(c, b), "nothing stands beside the order"
