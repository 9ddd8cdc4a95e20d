"""The project about itself: layers, types, lint, and documents that name everything there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import typer
from typer.core import TyperGroup

from tests.unit.api.fake_services import FakeServices
from tinyagentos.agents.host import Host
from tinyagentos.agents.kinds import agent_kinds
from tinyagentos.api.app import create_api
from tinyagentos.cli import app as cli
from tinyagentos.config import Settings
from tinyagentos.factory.recipe import list_recipes
from tinyagentos.model.errors import ALL_ERRORS

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference.md"


def run_tool(*argv: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_ruff_finds_nothing() -> None:
    run_tool("ruff", "check", ".")


def test_the_layout_is_ruffs() -> None:
    run_tool("ruff", "format", "--check", ".")


def test_types_are_strict() -> None:
    run_tool("mypy")


def test_dependencies_point_one_way() -> None:
    lint_imports = Path(sys.executable).parent / "lint-imports"
    ended = subprocess.run([lint_imports], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("script", ["taos", ".ci/run"])
def test_shell_scripts_are_clean(script: str) -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    ended = subprocess.run([shellcheck, ROOT / script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_ci_runs_the_readmes_test_command() -> None:
    assert "./taos test" in (ROOT / "README.md").read_text()
    assert "./taos test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented(name: str) -> None:
    assert f"| `{name}` |" in REFERENCE.read_text()


@pytest.mark.parametrize("code", sorted({error.code for error in ALL_ERRORS}))
def test_every_error_code_is_documented(code: str) -> None:
    assert f"| `{code}` |" in REFERENCE.read_text()


def test_every_route_is_documented(tmp_path: Path) -> None:
    paths = create_api(FakeServices(tmp_path)).openapi()["paths"]
    text = REFERENCE.read_text()
    for path, methods in paths.items():
        shown = path.replace("{job_id}", "{id}").replace("{action}", "start")
        for method in methods:
            assert f"| `{method.upper()} {shown}` |" in text, (method, path)


def test_every_command_is_documented() -> None:
    text = REFERENCE.read_text().partition("## Commands")[2].partition("##")[0]
    group = typer.main.get_command(cli)
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        line = next(one for one in text.splitlines() if one.startswith(f"taos {name}"))
        for noun in getattr(command, "commands", {}):
            lines = [one for one in text.splitlines() if one.startswith(f"taos {name}")]
            assert any(noun in one.split() for one in lines), (name, noun)
        assert line


def test_every_job_kind_and_step_is_documented(tmp_path: Path) -> None:
    text = REFERENCE.read_text().partition("## Job kinds")[2].partition("## Error")[0]
    host = cast(Host, SimpleNamespace(settings=Settings(data_dir=tmp_path)))
    for kind in agent_kinds(host):
        line = next(one for one in text.splitlines() if one.startswith(f"| `{kind.name}` |"))
        assert all(step in line for step in kind.steps), kind.name


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_says_what_it_is(name: str) -> None:
    readme = ROOT / "tinyagentos" / "recipes" / name / "README.md"
    assert f"# {name}" in readme.read_text()
