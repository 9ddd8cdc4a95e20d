"""Whatever stands in a recipe's folder ends in a recipe, or in a sentence on what is wrong."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.factory.test_recipe import GOOD
from tests.unit.fuzz import bounded, deep
from tinyagentos.factory.recipe import RECIPES, parse_recipe
from tinyagentos.model.errors import InvalidInput

SHIPPED = (RECIPES / "openclaw" / "recipe.toml").read_bytes()
PIECES = [
    b"\x00", b"\xff", b"\n", b'"', b"'''", b"[", b"]", b"[[", b"{", b"=", b"nan", b"inf", b"-1",
    b"1e999", b"9" * 30, b"9" * 5000, b"0001-01-01", b"9999-12-31T23:59:59Z", b"\\ud800", b'""',
    b"true", b"[agent]\n", b"name = 1\n", b"\xed\xa0\x80",
]  # fmt: skip


def read(text: bytes, **more: bytes) -> None:
    """Read it; InvalidInput is the one way to refuse it."""
    begun = time.process_time()
    with contextlib.suppress(InvalidInput):
        recipe = parse_recipe("x", {"recipe.toml": text, **more})
        assert recipe.epoch < 2**63
        assert recipe.digest
    assert time.process_time() - begun < 3


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\xff", b"a = " + deep(b"[", 50_000, b"]"), b"a = " + deep(b"{a=", 5000, b"}"),
        b"x = " + b"9" * 5000, b"a." * 5000 + b"a = 1",
        b"[" + b"a." * 30_000 + b"a]", b"[" + b"a." * 40_000 + b"a]",
        b"a = 1\na = 2", b'a = "\\ud800"', b"a = nan", b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.encode() + b"base = 1979-05-27",
        GOOD.encode().replace(b"2026-01-01T00:00:00Z", b"0001-01-01"),
        GOOD.encode().replace(b"2026-01-01T00:00:00Z", b"0001-01-01T00:00:00+23:59"),
        GOOD.encode().replace(b"2026-01-01T00:00:00Z", b"9999-12-31T23:59:59-23:59"),
        GOOD.encode().replace(b"1.0", b"inf"), GOOD.encode().replace(b"1.0", b"nan"),
        GOOD.encode().replace(b"2026-01-01T00:00:00Z", b"1e300"),
    ],
    ids=range(19),
)  # fmt: skip
def test_hostile_files(text: bytes) -> None:
    read(text)


def test_a_folder_without_a_recipe_and_with_odd_names() -> None:
    for content in ({}, {"recipe.toml": GOOD.encode(), "files/\udcff": b""}):
        with pytest.raises(InvalidInput):
            parse_recipe("x", content)


@given(st.binary(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
@bounded(150)
def test_any_bytes(text: bytes) -> None:
    read(text)
    read(GOOD.encode() + text)


@given(st.data())
@bounded(60)
def test_a_recipe_that_is_nearly_right(data: st.DataObject) -> None:
    text = bytearray(SHIPPED.replace(b'name = "openclaw"', b'name = "x"', 1))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 40))
        text[at : at + cut] = data.draw(st.sampled_from(PIECES))
    npm: dict[str, Any] = {"npm/package.json": b"{}", "npm/package-lock.json": b"{}"}
    read(bytes(text), **npm)
