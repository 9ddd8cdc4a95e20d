"""Trimming a real tree: what the rules name goes, and nothing else is ever lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagentos.factory.recipe import load_recipe
from tinyagentos.factory.trim import apply_trim, list_files, plan_trim, sum_up
from tinyagentos.model.recipe import TrimRule

MAPS = TrimRule("maps", paths=("/opt/**/*.map",), why="why", optional=True)
DOCS = TrimRule(
    "docs", paths=("/usr/share/doc/**",), why="why", keep=("/usr/share/doc/*/copyright",),
    optional=True,
)  # fmt: skip
PARTS = ["opt", "usr", "share", "doc", "a.map", "b", "copyright"]
names = st.lists(st.sampled_from(PARTS), min_size=1, max_size=5)


@given(st.sets(names.map(lambda parts: "/".join(parts)), max_size=30))
def test_no_path_outside_the_rules_is_ever_lost(
    tmp_path_factory: pytest.TempPathFactory, paths: set[str]
) -> None:
    root = tmp_path_factory.mktemp("root")
    for path in sorted(paths, key=len):
        file = root / path
        if not any(parent.is_file() for parent in file.parents) and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("x")
    before = dict(list_files(root))
    removals = plan_trim(before.items(), [MAPS, DOCS])
    apply_trim(root, removals)
    gone = {removal.path for removal in removals}
    assert dict(list_files(root)).keys() == before.keys() - gone
    for path in gone:
        assert path.endswith(".map") or path.startswith("/usr/share/doc/")


def test_a_folder_that_is_empty_goes_and_one_that_waits_for_files_stays(tmp_path: Path) -> None:
    for path in ("opt/a/b/x.map", "opt/keep/y", "var/log/apt/x"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("x")
    logs = TrimRule("logs", paths=("/var/log/**",), why="why")
    apply_trim(tmp_path, plan_trim(list_files(tmp_path), [MAPS, logs]))
    left = {folder[len(str(tmp_path)) :] for folder, _, _ in os.walk(tmp_path)}
    assert "/opt/a" not in left
    assert {"/opt", "/opt/keep", "/var/log/apt"} <= left


def test_what_each_rule_saves_is_summed() -> None:
    files = [("/opt/a.map", 3), ("/opt/b.map", 5), ("/usr/share/doc/x", 7), ("/etc/c", 9)]
    saved = sum_up(plan_trim(files, [MAPS, DOCS]))
    assert [(one.rule, one.files, one.before_bytes, one.after_bytes) for one in saved] == [
        ("maps", 2, 8, 0), ("docs", 1, 7, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["debian-13", "openclaw"])
def test_every_rule_of_a_recipe_says_why(name: str) -> None:
    rules = load_recipe(name).trim
    assert all(rule.why and rule.paths for rule in rules)
    assert len({rule.name for rule in rules}) == len(rules)
