"""Recipes: what ships can be read, and what is wrong is said by key."""

from __future__ import annotations

import json

import pytest

from tinyagentos.factory.recipe import list_recipes, load_recipe, parse_recipe
from tinyagentos.model.errors import InvalidInput, NotFound
from tinyagentos.model.recipe import RecipeKind

GOOD = """
name = "x"
kind = "base"
version = "1"
title = "X"
description = "x"
homepage = ""
license = "MIT"
released = 2026-01-01T00:00:00Z
build_seconds = 1.0
"""


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_that_ships_can_be_read(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    if recipe.kind is RecipeKind.agent:
        assert load_recipe(recipe.base).kind is RecipeKind.base
        assert recipe.agent.memory_need_bytes <= recipe.agent.memory_limit_bytes


def test_the_lock_pins_every_package_and_names_no_server() -> None:
    npm = load_recipe("openclaw").npm
    assert npm
    packages = json.loads(npm.package_lock)["packages"]
    unpinned = [
        name
        for name, one in packages.items()
        if name and "integrity" not in one and not one.get("inBundle")
    ]
    assert unpinned == []
    assert b"resolved" not in npm.package_lock


def test_the_lock_is_of_the_recipes_version() -> None:
    recipe = load_recipe("openclaw")
    assert recipe.npm
    assert json.loads(recipe.npm.package_json)["dependencies"] == {"openclaw": recipe.version}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "is not TOML"),
        (GOOD.replace('version = "1"\n', ""), "`version`"),
        (GOOD + "colour = 1\n", "`colour`"),
        (GOOD.replace('"x"', '"y"', 1), "`name` is 'y'"),
        (GOOD.replace('"base"', '"agent"'), "an agent needs"),
        (GOOD + "[npm]\ninto = '/x'\n", "'npm/package.json' is missing"),
    ],
    ids=["no TOML", "a key missing", "a key too many", "another name", "no agent", "no lock"],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        parse_recipe("x", {"recipe.toml": text.encode()})


def test_an_unknown_recipe_is_not_found() -> None:
    with pytest.raises(NotFound):
        load_recipe("../openclaw")


def test_the_digest_depends_on_every_file() -> None:
    one = parse_recipe("x", {"recipe.toml": GOOD.encode(), "files/a": b"1"})
    other = parse_recipe("x", {"recipe.toml": GOOD.encode(), "files/a": b"2"})
    assert one.digest != other.digest
