"""The project about itself: layers, types, lint, and documents that name everything there is."""

from __future__ import annotations

import os
import re
import shlex
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
from tinyagentos.api.document import render_api
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


def test_the_api_reference_is_what_the_contract_says(tmp_path: Path) -> None:
    """Set TAOS_WRITE_DOCS=1 to write it anew."""
    said = render_api(create_api(FakeServices(tmp_path)).openapi())
    page = ROOT / "docs" / "api.md"
    if os.environ.get("TAOS_WRITE_DOCS"):
        page.write_text(said)
    assert page.read_text() == said, "run TAOS_WRITE_DOCS=1 pytest tests/test_project.py"


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        if path.startswith(("http:", "https:")):
            continue
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name}: {path}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name}: {path}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def commands_in(page: Path) -> list[str]:
    """The lines of a page's code blocks that begin with `taos`; `...` and `|` mean a summary."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [one for one in lines if one.startswith(("taos ", "./taos ")) and " | " not in one]


@pytest.mark.parametrize(
    "page", [one for one in DOCUMENTS if one.name != "reference.md"], ids=lambda page: page.name
)
def test_every_command_in_the_documents_exists(page: Path) -> None:
    group = typer.main.get_command(cli)
    for line in commands_in(page):
        found, words = group, shlex.split(line.partition("  #")[0])[1:]
        while isinstance(found, TyperGroup) and words and not words[0].startswith("-"):
            assert words[0] in found.commands, f"{page.name}: {line}"
            found = found.commands[words.pop(0)]
        options = {name for one in found.params for name in (*one.opts, *one.secondary_opts)}
        options |= {"--help"}
        given = [word.partition("=")[0] for word in words if word.startswith("-") and word != "--"]
        assert set(given) <= options, f"{page.name}: {line}"


def test_every_error_has_its_place_in_the_troubleshooting() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    for error in ALL_ERRORS:
        assert f"`{error.code}`" in text, error.code
