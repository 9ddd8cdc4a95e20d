"""taos help, and what shells complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text

from tests.documents import FENCE, all_commands
from tests.unit.api.live import LiveServer
from tests.unit.cli.conftest import Taos
from tinyagentos.cli.errors import DONE, USAGE
from tinyagentos.cli.guide import FOLDERS, TOPICS, draw, for_terminal

SHELLS = {"bash": "COMP_WORDS", "zsh": "_TYPER_COMPLETE_ARGS", "fish": "_TYPER_COMPLETE_ARGS"}


def test_topics_are_listed_with_their_titles(taos: Taos) -> None:
    listed = taos("help").out
    assert [line.split()[0] for line in listed.splitlines()[1:]] == list(TOPICS)
    assert json.loads(taos("help", "--json").out)["models"] == "Models"


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_is_its_page(taos: Taos, topic: str) -> None:
    assert taos("help", topic).out == (FOLDERS[1] / f"{topic}.md").read_text()


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_reads_well_in_80_columns(topic: str) -> None:
    text = (FOLDERS[1] / f"{topic}.md").read_text()
    for block in FENCE.findall(text):
        for line in block.splitlines():
            assert len(line) <= 78, f"it would be broken, and not be a command any more: {line}"
    rows = Text.from_ansi(draw(text, 80)).plain.splitlines()
    assert all(len(row) <= 80 for row in rows)
    shown = "\n".join(rows)
    assert ".md)" not in shown
    assert "agents.png" not in shown


def test_links_are_commands_where_they_can_be() -> None:
    page = (
        "![Agents](agents.png)\n\nSee [models](models.md#add), [why](adr/0001.md), [it](http://x/)."
    )
    assert for_terminal(page) == "See models (`taos help models`), why, [it](http://x/)."


def test_every_page_of_the_guide_is_a_topic() -> None:
    assert {page.stem for page in FOLDERS[1].glob("*.md")} == set(TOPICS)


@pytest.mark.parametrize("words", list(all_commands()), ids=" ".join)
def test_every_command_has_help_that_says_something(taos: Taos, words: tuple[str, ...]) -> None:
    if words in (("help",), *((topic,) for topic in TOPICS)):
        return
    ended = taos("help", *words)
    assert (ended.status, ended.err) == (DONE, "")
    assert f"taos {' '.join(words)}" in ended.out
    assert "--help" in ended.out


def test_no_such_topic(taos: Taos) -> None:
    for words in (("nothing",), ("agent", "nothing"), ("serve", "more")):
        ended = taos("help", *words)
        assert ended.status == USAGE
        assert "taos help" in ended.err


def complete(folder: Path, shell: str, line: str) -> list[str]:
    """What the shell would offer after the line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    if shell != "bash":
        words = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    ended = subprocess.run(
        [sys.executable, "-m", "tinyagentos.cli"], capture_output=True, text=True, check=False,
        env={**os.environ, "TAOS_DATA_DIR": str(folder), "TAOS_RUN_DIR": str(folder),
             "_TAOS_COMPLETE": f"complete_{shell}", **words},
    )  # fmt: skip
    assert "Traceback" not in ended.stderr
    return ended.stdout.replace('"', " ").split()


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_complete_commands_and_what_the_server_has(
    server: LiveServer, taos: Taos, tmp_path: Path, shell: str
) -> None:
    taos("agent", "deploy", "hello")
    assert "agent" in " ".join(complete(tmp_path, shell, "taos ag"))
    assert "deploy" in " ".join(complete(tmp_path, shell, "taos agent dep"))
    assert "hello" in " ".join(complete(tmp_path, shell, "taos agent show he"))


def test_without_a_server_nothing_is_offered_and_nothing_said(tmp_path: Path) -> None:
    assert complete(tmp_path, "bash", "taos agent show he") == []


def test_bash_completes_the_launcher_in_a_checkout_too(tmp_path: Path) -> None:
    """By the script that --show-completion prints; bash looks `./taos` up by its last part."""
    launcher = tmp_path / "taos"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m tinyagentos.cli "$@"\n')
    launcher.chmod(0o755)
    script = """
    eval "$(./taos --show-completion bash)"
    complete -p taos
    COMP_WORDS=(./taos agent dep) COMP_CWORD=2
    _taos_completion ./taos && echo "${COMPREPLY[@]}"
    """
    root = Path(__file__).parents[3]
    ended = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(root), "TAOS_PROGRAM": "./taos",
             "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )  # fmt: skip
    registered, offered = ended.stdout.splitlines()
    assert registered == "complete -o default -F _taos_completion taos"
    assert offered.split() == ["deploy"]
