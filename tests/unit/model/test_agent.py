"""Agent names: what a person may type."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagentos.model.agent import MAX_NAME, check_agent_name
from tinyagentos.model.errors import InvalidInput


@pytest.mark.parametrize("name", ["a", "hello", "my-agent", "a1", "x" * MAX_NAME])
def test_a_good_name_is_returned(name: str) -> None:
    assert check_agent_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "x" * 200, "../x", "Hello", "a b", "\N{GRINNING FACE}", "-a", "a-", "1a", "a--b", "a\n",
     "a\x00", "ä", "a_b", "x" * (MAX_NAME + 1)],
)  # fmt: skip
def test_a_bad_name_is_refused_with_a_hint(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_agent_name(name)
    assert "lower-case letters" in refused.value.hint


@given(st.text())
def test_what_is_accepted_fits_a_host_name(name: str) -> None:
    try:
        check_agent_name(name)
    except InvalidInput:
        return
    assert re.fullmatch(r"[a-z0-9-]{1,63}", f"{name}-abcdef")
