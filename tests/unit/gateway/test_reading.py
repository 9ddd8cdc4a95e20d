"""JSON of strangers: what is read of it, what it weighs, how many tokens it is thought to have."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagentos.gateway.events import data_of
from tinyagentos.gateway.reading import (
    MOST_VALUES,
    TOKENS_A_PICTURE,
    USUAL_MOST_TOKENS,
    TooMany,
    answer_tokens,
    count_values,
    question_tokens,
    read_json,
    weigh,
)

MIB = 1024 * 1024
DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "text",
    [b'{"m":[' + b"{}," * 200_000 + b"0]}", b"[" + b"[]," * 200_000 + b"0]",
     b"[" + b'"a",' * 200_000 + b"0]", b'{"' + b'":{},"' * 200_000 + b'":0}',
     b"[" + b"1.5," * 200_000 + b"0]", b'["\\"", ' + b"{}," * 200_000 + b"0]"],
    ids=["objects", "lists", "strings", "names", "numbers", "after an escaped quote"],
)  # fmt: skip
def test_too_many_values_are_not_read(text: bytes) -> None:
    json.loads(text)
    with pytest.raises(TooMany):
        read_json(text)
    with pytest.raises(ValueError):
        read_json(text.decode().encode("utf-16"))
    assert data_of(b"data: " + text) is None


@pytest.mark.parametrize("words", ["a, b, [c], {d} ", '\\", ', "x\\\\", '{\\"a\\": [1, 2]},'])
def test_a_long_text_is_read_whatever_stands_in_it(words: str) -> None:
    text = json.dumps({"content": words * (3 * MOST_VALUES)}).encode()
    assert read_json(text) == json.loads(text)
    assert weigh(text) < 4 * len(text)


@given(st.recursive(
    st.none() | st.integers() | st.text(max_size=6) | st.sampled_from(['"', "\\", '\\"', "{,["]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner), max_leaves=40,
))  # fmt: skip
def test_no_value_is_overlooked(value: object) -> None:
    def count(one: Any) -> int:
        inner = list(one.values()) if isinstance(one, dict) else one
        return 1 + sum(map(count, inner)) if isinstance(one, (dict, list)) else 1

    for dumped in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert count_values(dumped.encode()) + 1 >= count(value)


@pytest.mark.parametrize("text", [DEEP, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"[" * 90_000])
def test_deep_json_is_as_none(text: bytes) -> None:
    with pytest.raises(ValueError):
        read_json(text)
    assert data_of(b"data: " + text) is None


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b'"\xff"', b"nothing", b"1" * 5000])
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(ValueError):
        read_json(text)


def picture(size: int) -> list[dict[str, Any]]:
    """A picture of so many bytes, as each dialect has it."""
    return [
        {"type": "image_url", "image_url": {"url": "x" * size}},
        {"type": "image", "source": {"type": "base64", "data": "x" * size}},
        {"type": "tool_result", "content": [{"type": "image", "source": {"data": "x" * size}}]},
    ]


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_picture_counts_as_one_however_large_it_is(kind: int) -> None:
    question = {"messages": [{"role": "user", "content": [picture(5 * MIB)[kind]]}]}
    tokens = question_tokens(len(json.dumps(question)), question)
    assert TOKENS_A_PICTURE < tokens < TOKENS_A_PICTURE + 100


@pytest.mark.parametrize(
    "body",
    [{}, {"messages": 5}, {"messages": [5, {"content": 5}, {"content": ["x", {"content": None}]}]}],
)
def test_anything_else_counts_by_its_bytes(body: dict[str, Any]) -> None:
    assert question_tokens(4001, body) == 1001


@pytest.mark.parametrize(
    ("body", "tokens"),
    [({}, USUAL_MOST_TOKENS), ({"max_tokens": 5}, 5), ({"max_completion_tokens": 7}, 7),
     ({"max_tokens": -1}, USUAL_MOST_TOKENS), ({"max_tokens": "x", "n": "y"}, USUAL_MOST_TOKENS),
     ({"max_tokens": 5, "n": 4}, 20)],
)  # fmt: skip
def test_how_long_an_answer_may_be(body: dict[str, Any], tokens: int) -> None:
    assert answer_tokens(body) == tokens
