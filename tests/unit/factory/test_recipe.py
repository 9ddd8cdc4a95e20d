"""Recipes: what ships can be read, and what is wrong is said by key."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tinyagentos.agents.chat import chat_headers
from tinyagentos.factory.build import plan_build
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


@pytest.mark.parametrize("name", [one for one in list_recipes() if load_recipe(one).npm])
def test_the_lock_pins_every_package_and_names_no_server(name: str) -> None:
    npm = load_recipe(name).npm
    assert npm
    packages = json.loads(npm.package_lock)["packages"]
    unpinned = [
        name
        for name, one in packages.items()
        if name and "integrity" not in one and not one.get("inBundle")
    ]
    assert unpinned == []
    assert b"resolved" not in npm.package_lock


@pytest.mark.parametrize("name", [one for one in list_recipes() if load_recipe(one).pypi])
def test_the_requirements_pin_every_package_and_name_no_server(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.pypi
    text = recipe.pypi.requirements.decode()
    pinned = [line.split()[0] for line in text.splitlines() if not line.startswith((" ", "#"))]
    assert f"{name}=={recipe.version}" in pinned
    assert all(re.fullmatch(r"[a-z0-9._-]+==[^ ;]+", one) for one in pinned)
    assert text.count("\\\n    --hash=sha256:") >= len(pinned)
    assert "://" not in text


@pytest.mark.parametrize("name", [one for one in list_recipes() if load_recipe(one).npm])
def test_the_lock_is_of_the_recipes_version(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.npm
    package = json.loads(recipe.npm.package_json)
    wanted = {**package.get("dependencies", {}), **package.get("optionalDependencies", {})}
    assert set(wanted.values()) == {recipe.version}
    assert all(one.startswith(name) for one in wanted)


@pytest.mark.parametrize(
    "name", [one for one in list_recipes() if load_recipe(one).kind is RecipeKind.agent]
)
def test_an_agent_that_ends_is_started_again_however_it_ended(name: str) -> None:
    recipe = load_recipe(name)
    files = {one.path: one.content.decode() for one in recipe.files}
    unit = files["/etc/systemd/system/agent.service"].splitlines()
    keys = {"StartLimitIntervalSec=0", "Restart=always", "RestartSteps=5", "RestartMaxDelaySec=60"}
    assert keys <= set(unit)


def test_another_framework_is_another_folder_and_no_code(tmp_path: Path) -> None:
    """A made-up one, with all the ways to install at once, is read and planned."""
    recipe = (
        GOOD.replace('"base"', '"agent"').replace('name = "x"', 'name = "parrot"')
        + """
base = "debian-13"
units = ["agent.service"]
[agent]
port = 9000
ready_path = "/up"
ready_within = 60.0
state_dir = "/home/agent"
memory_need_bytes = 1
memory_limit_bytes = 2
processes = 100
disk_bytes = 1
state_bytes = 1
image_disk_bytes = 1
build_disk_bytes = 1
[agent.chat]
path = "/say"
model = "grey"
[agent.chat.headers]
"X-Room" = "room {conversation}"
[pypi]
into = "/opt/parrot"
python = "3.13"
[npm]
into = "/opt/beak"
"""
    )
    files = {
        "recipe.toml": recipe,
        "files/etc/systemd/system/agent.service": "[Service]\n",
        "pypi/requirements.txt": "parrot==1 --hash=sha256:00\n",
        "npm/package.json": "{}",
        "npm/package-lock.json": "{}",
    }
    for path, text in files.items():
        (tmp_path / "parrot" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "parrot" / path).write_text(text)
    assert list_recipes(tmp_path) == ("parrot",)
    made = load_recipe("parrot", tmp_path)
    assert made.agent.chat
    assert chat_headers(made.agent.chat, "secret", "main") == {
        "X-Room": "room main",
        "Authorization": "Bearer secret",
    }
    plan = plan_build(made, load_recipe("debian-13"))
    assert "agent.service" in plan.units
    assert {"/etc/systemd/system/agent.service", "/usr/lib/taos/prepare"} <= {
        one.path for one in plan.files
    }
    assert plan.archives == ("python",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "is not TOML"),
        (GOOD.replace('version = "1"\n', ""), "`version`"),
        (GOOD + "colour = 1\n", "`colour`"),
        (GOOD.replace('"x"', '"y"', 1), "`name` is 'y'"),
        (GOOD.replace('"base"', '"agent"'), "an agent needs"),
        (GOOD + "[npm]\ninto = '/x'\n", "'npm/package.json' is missing"),
        (GOOD + "[pypi]\ninto = '/x'\npython = '3.13'\n", "'pypi/requirements.txt' is missing"),
        (GOOD + "[pypi]\ninto = '/x'\npython = 'new'\n", "`pypi.python`"),
    ],
    ids=[
        "no TOML",
        "a key missing",
        "a key too many",
        "another name",
        "no agent",
        "no lock",
        "no requirements",
        "no version of Python",
    ],
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
