"""What strangers may send, for tests that throw anything at a reader.

The examples are the same in every run: a crash that one run finds is found by all.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

Json = st.SearchStrategy[Any]


def bounded(examples: int) -> settings:
    """So many examples, the same each time; a busy machine is no failure."""
    return settings(
        max_examples=examples, derandomize=True, database=None, deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip


# Lone surrogates, NUL, what is not a number, numbers without end: all of it can stand in JSON.
TEXTS = st.text(max_size=8) | st.sampled_from(["\x00", "\ud800", "a\udfff", "\u2028", "9" * 30])
NUMBERS = (
    st.integers(-3, 3)
    | st.floats()
    | st.sampled_from([10**400, -(10**400), 2**63, float("nan"), float("inf"), True])
)


def json_like(names: list[str], words: list[str], leaves: int = 25) -> Json:
    """JSON in which the names and words of a protocol stand in any place, right and wrong."""
    name = st.sampled_from(names) | TEXTS
    leaf = st.none() | st.booleans() | NUMBERS | TEXTS | st.sampled_from(words)
    return st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(name, inner, max_size=6),
        max_leaves=leaves,
    )


def deep(opening: bytes, times: int, closing: bytes) -> bytes:
    """Nested so often."""
    return opening * times + closing * times
