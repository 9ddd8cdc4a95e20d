"""The project about itself: layers, types, lint, and documents that name everything there is."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from typer._click.exceptions import UsageError  # Typer has no public name for it

from tests.documents import (
    EVERYWHERE,
    all_commands,
    commands_in,
    find_command,
    is_group,
    mentions_in,
    option_names,
    options_of,
    read_command,
    says,
    sentences_of,
    summary_in,
    unknown_in,
    words_after_taos,
)
from tests.unit.api.fake_services import FakeServices
from tinyagentos.agents.host import Host
from tinyagentos.agents.kinds import agent_kinds
from tinyagentos.api.app import create_api
from tinyagentos.api.auth import OPEN_FOLDERS, OPEN_PATHS
from tinyagentos.api.document import render_api
from tinyagentos.config import Settings
from tinyagentos.factory.recipe import list_recipes, load_recipe
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
    tests = [one for one in commands_in((ROOT / "README.md").read_text()) if one[0] == "test"]
    assert tests == [("test",)]
    last = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    assert words_after_taos(last.removeprefix("exec ").partition(" <")[0]) == tests[0]
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert re.search(r"run: sudo .*\.ci/run$", workflow, re.MULTILINE)


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


@pytest.mark.parametrize("name", [one for one in list_recipes() if load_recipe(one).defaults])
@pytest.mark.parametrize("page", ["README.md", "docs/first-agent.md", "docs/images.md"])
def test_every_framework_is_where_people_choose_one(name: str, page: str) -> None:
    assert f"`{name}`" in (ROOT / page).read_text()
    assert f"recipes/{name}/README.md" in (ROOT / "docs" / "maintainer.md").read_text()


def test_what_is_open_to_everybody_is_documented() -> None:
    for page in (REFERENCE, ROOT / "ARCHITECTURE.md"):
        text = page.read_text()
        assert [one for one in (*OPEN_PATHS, *OPEN_FOLDERS) if f"`{one}`" not in text] == []


def test_the_api_reference_is_what_the_contract_says(tmp_path: Path) -> None:
    """Set TAOS_WRITE_DOCS=1 to write it anew."""
    said = render_api(create_api(FakeServices(tmp_path)).openapi())
    page = ROOT / "docs" / "api.md"
    if os.environ.get("TAOS_WRITE_DOCS"):
        page.write_text(said)
    assert page.read_text() == said, "run TAOS_WRITE_DOCS=1 pytest tests/test_project.py"


DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "adr").glob("*.md")),
    *sorted((ROOT / "tinyagentos" / "recipes").glob("*/README.md")),
]


def name_of(page: Path) -> str:
    """A page or source as tests are told apart by."""
    return str(page.relative_to(ROOT))


LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
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


COMMANDS = [one for one in DOCUMENTS if one != REFERENCE]
SOURCES = sorted((ROOT / "tinyagentos").rglob("*.py"))


@pytest.mark.parametrize("page", COMMANDS, ids=name_of)
def test_every_command_in_the_documents_is_one_that_the_command_line_takes(page: Path) -> None:
    for words in commands_in(page.read_text()):
        read_command(words)


@pytest.mark.parametrize("page", [*DOCUMENTS, *SOURCES], ids=name_of)
def test_every_command_that_a_sentence_or_a_hint_names_is_there(page: Path) -> None:
    for words in mentions_in(page.read_text()):
        assert not unknown_in(words), f"{page.name}: taos {' '.join(words)}"


def test_the_readmes_commands_are_seen_as_a_person_types_them() -> None:
    page = (ROOT / "README.md").read_text()
    assert commands_in(page)[:2] == [("up", "hello"), ("test",)]
    assert ("agent", "export", "hello", "--to", "/tmp/hello.taos") in commands_in(page)


@pytest.mark.parametrize(
    "line",
    [
        "./taos agent dance hello",
        "sudo ./taos up hello --quickly     # a comment",
        "taos agent export hello",
        "taos agent model hello --budget much",
        "taos agent",
    ],
)
def test_a_command_that_the_command_line_would_refuse_is_noticed(line: str) -> None:
    (words,) = commands_in(f"1. A step:\n\n   ```sh\n   {line}\n   ```\n")
    with pytest.raises((UsageError, AssertionError)):
        read_command(words)


def test_a_command_that_is_not_there_is_noticed_in_a_sentence() -> None:
    text = (
        "Run `sudo ./taos agent dance`, then `taos up --quickly NAME`, then `taos image policy P`."
    )
    assert [unknown_in(words) for words in mentions_in(text)] == [["dance"], ["--quickly"], []]


def test_the_summary_of_the_commands_has_every_command_and_every_option() -> None:
    said = summary_in(REFERENCE.read_text())
    assert set(said) == {path for path in all_commands() if not is_group(path)}
    for path, text in said.items():
        named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))
        options = options_of(find_command(path)[0])
        assert named <= options, f"taos {' '.join(path)}"
        for names in option_names(path):
            assert named & names or names & EVERYWHERE, f"taos {' '.join(path)}: {names}"


def test_commands_without_json_are_the_ones_that_the_documents_name() -> None:
    leaves = (path for path in all_commands() if not is_group(path))
    without = {path for path in leaves if "--json" not in options_of(find_command(path)[0])}
    assert without == {("serve",), ("test",), ("agent", "shell")}
    for page in (ROOT / "README.md", REFERENCE):
        text = " ".join(page.read_text().split())
        assert "`--json` but for `serve`, `test` and `agent shell`" in text, page.name


TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text()


@pytest.fixture(scope="module")
def sentences() -> tuple[str, ...]:
    """All that the code can say."""
    said = (one for path in SOURCES for one in sentences_of(path.read_text()))
    return (*said, (ROOT / "taos").read_text())


@pytest.mark.parametrize("quoted", re.findall(r'"([^"\n]+)"', TROUBLES))
def test_what_the_troubleshooting_quotes_is_what_the_code_says(
    sentences: tuple[str, ...], quoted: str
) -> None:
    assert any(says(sentence, quoted) for sentence in sentences)


def test_a_quotation_is_found_whatever_was_filled_in() -> None:
    source = (
        '''"""Module that is away."""\nsay(f"The {a} is {b!r} of " f"{c} MiB.")\nsay("Gone.")'''
    )
    (sentence, gone) = sentences_of(source)
    assert (sentence, gone) == ("The ... is ... of ... MiB.", "Gone.")
    assert says(sentence, "The ... of ... MiB.")
    assert says(sentence, "MiB.")
    assert not says(sentence, "The ... was")


def test_every_error_has_its_place_in_the_troubleshooting() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    for error in ALL_ERRORS:
        assert f"`{error.code}`" in text, error.code


def promises() -> list[tuple[str, str]]:
    """What SECURITY.md promises, and each test that it names for it."""
    table = (ROOT / "SECURITY.md").read_text().partition("| Promise | Test |")[2]
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:] if line]
    found = [(said.strip(), test) for said, tests in rows for test in re.findall("`(.+?)`", tests)]
    assert {said.strip() for said, _ in rows} == {said for said, _ in found}, "a promise untested"
    return found


@pytest.mark.parametrize(("promise", "test"), promises(), ids=lambda one: one.rpartition("::")[2])
def test_every_promise_names_a_test_that_is_there(promise: str, test: str) -> None:
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    there = {
        one.name for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name.startswith("test_")
    assert name in there, promise


@pytest.mark.parametrize("kind", ["Agent", "File", "Web page", "Neighbour", "Mirror"])
def test_each_attacker_has_promises(kind: str) -> None:
    assert any(promise.startswith(f"**{kind}.**") for promise, _ in promises())
