"""The project about itself: layers, types, lint, and documents that name everything there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tinyagentos.config import Settings
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
