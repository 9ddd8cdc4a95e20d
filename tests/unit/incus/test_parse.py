"""Whatever Incus sends, parsing gives values of the right type."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from tinyagentos.incus import Event, Image, Instance, ServerInfo, Volume
from tinyagentos.incus.operations import Operation
from tinyagentos.incus.parse import decode, moment

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
NAMES = (
    "name type config devices status_code created_at state environment profiles aliases metadata "
    "resources timestamp api_extensions used_by"
)
KEYS = st.sampled_from(NAMES.split())


@given(st.dictionaries(KEYS, JSON))
def test_no_answer_breaks_the_parsers(seen: dict[str, object]) -> None:
    for kind in (Instance, Image, Volume, Event, Operation, ServerInfo):
        kind.parse(seen)  # type: ignore[attr-defined]


@given(st.binary())
def test_bytes_that_are_no_json_object_are_an_empty_one(raw: bytes) -> None:
    assert isinstance(decode(raw), dict) or not decode(raw)


def test_incuss_times() -> None:
    stamp = {"at": "2026-11-23T19:01:28.347269399Z", "never": "0001-01-01T00:00:00Z", "no": 7}
    assert moment(stamp, "at") == datetime(2026, 11, 23, 19, 1, 28, 347269, tzinfo=UTC)
    assert moment(stamp, "never") is None
    assert moment(stamp, "no") is None
