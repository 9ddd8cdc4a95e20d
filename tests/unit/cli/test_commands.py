"""Every command against a real server: what it prints, as what, and how it ends."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.unit.api.live import LiveServer
from tests.unit.cli.conftest import Taos, Terminal
from tinyagentos import __version__
from tinyagentos.cli.errors import CANCELLED, DONE, FAILED, USAGE


def test_the_life_of_an_agent_in_words(server: LiveServer, taos: Taos) -> None:
    assert "No agents yet" in taos("agent", "list").out
    ended = taos("agent", "deploy", "hello", "--memory", "2GiB", "--cpu", "2")
    assert (ended.status, ended.err) == (DONE, "")
    assert ended.out.startswith("by build: no image is here\n✓ install")
    heading, row = taos("agent", "list").out.splitlines()
    assert heading.split() == ["NAME", "FRAMEWORK", "VERSION", "STATE", "REASON"]
    assert row.split() == ["hello", "openclaw", "1.2", "ready"]
    assert re.search(r"^state +ready$", taos("agent", "show", "hello").out, re.MULTILINE)
    assert taos("agent", "logs", "hello", "--lines", "1").out == "two\n"
    for action in ("stop", "start", "restart", "delete"):
        assert taos("agent", action, "hello").status == DONE
    kinds = [row.split()[1] for row in taos("job", "list").out.splitlines()[1:]]
    assert kinds == ["delete", "restart", "start", "stop", "deploy"]


def test_the_life_of_an_agent_in_json(server: LiveServer, taos: Taos) -> None:
    assert json.loads(taos("agent", "list", "--json").out) == []
    job = json.loads(taos("agent", "deploy", "hello", "--json").out)
    assert (job["state"], job["source"]) == ("succeeded", "build")
    assert json.loads(taos("agent", "show", "hello", "--json").out)["state"] == "ready"
    assert json.loads(taos("agent", "list", "--json").out)[0]["name"] == "hello"
    lines = taos("agent", "logs", "hello", "--json").out.splitlines()
    assert [json.loads(line) for line in lines] == ["one", "two"]
    assert json.loads(taos("image", "list", "--json").out)[0]["framework"] == "openclaw"
    assert json.loads(taos("job", "list", "--json").out)[0]["id"] == job["id"]
    assert json.loads(taos("job", "show", job["id"], "--json").out)["id"] == job["id"]
    assert json.loads(taos("job", "watch", job["id"], "--json").out)["state"] == "succeeded"
    assert json.loads(taos("agent", "stop", "hello", "--json").out)["kind"] == "stop"


def test_what_came_of_an_image_is_discarded(server: LiveServer, taos: Taos) -> None:
    said = taos("image", "cancel", "--discard")
    assert (said.status, said.out) == (DONE, "what had come of the image of openclaw goes\n")
    as_json = taos("image", "cancel", "openclaw", "--discard", "--json")
    assert json.loads(as_json.out) == {"discarded": "openclaw"}
    assert "no such framework" in taos("image", "cancel", "none", "--discard").err
    assert "UNPACKED" in taos("image", "list").out


def test_not_waiting_gives_the_id_to_go_on_with(server: LiveServer, taos: Taos) -> None:
    ended = taos("agent", "deploy", "waits", "--no-wait")
    assert ended.status == DONE
    found = re.search(r"taos job watch (\w+)", ended.out)
    assert found
    job_id = found[1]
    assert "running" in taos("job", "show", job_id).out
    assert "is being cancelled" in taos("job", "cancel", job_id).out
    watched = taos("job", "watch", job_id)
    assert watched.status == CANCELLED
    assert f"taos job retry {job_id}" in watched.err
    again = taos("job", "retry", job_id, "--no-wait", "--json")
    assert json.loads(again.out)["kind"] == "deploy"
    taos("job", "cancel", json.loads(again.out)["id"])


def test_a_failed_job_says_why_and_what_to_do(server: LiveServer, taos: Taos) -> None:
    ended = taos("agent", "deploy", "fails")
    assert ended.status == FAILED
    assert "✗ wait until ready" in ended.out
    assert ended.err == (
        "taos: Job failed: deploy fails: The agent did not answer.\n  hint: Read its log.\n"
    )
    machine = taos("agent", "deploy", "fails", "--json")
    assert machine.status == FAILED
    assert json.loads(machine.out)["error"]["code"] == "not_ready"
    job_id = json.loads(machine.out)["id"]
    shown = taos("job", "show", job_id).out
    assert "The agent did not answer.\n  hint: Read its log.\n" in shown
    assert taos("job", "retry", job_id).status == FAILED


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (("agent", "deploy", "Bad Name"), USAGE),
        (("agent", "deploy", ""), USAGE),
        (("agent", "deploy", "../x"), USAGE),
        (("agent", "deploy", "a", "--framework", "nothing"), USAGE),
        (("agent", "deploy", "a", "--memory", "lots"), USAGE),
        (("agent", "deploy", "a", "--memory", "-1"), USAGE),
        (("agent", "deploy", "a", "--source", "magic"), USAGE),
        (("agent", "deploy", "a", "--cpu", "0"), USAGE),
        (("agent", "deploy", "full"), FAILED),
        (("agent", "show", "nobody"), FAILED),
        (("agent", "logs", "nobody"), FAILED),
        (("agent", "delete", "nobody"), FAILED),
        (("job", "watch", "nothing"), FAILED),
        (("job", "cancel", "nothing"), FAILED),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_a_hint(
    server: LiveServer, taos: Taos, argv: tuple[str, ...], status: int
) -> None:
    ended = taos(*argv)
    assert (ended.status, ended.out) == (status, "")
    sentence, hint = ended.err.splitlines()
    assert sentence.startswith("taos: ")
    assert hint.startswith("  hint: ")


@pytest.mark.parametrize(
    "argv",
    [
        ("agent", "deploy"),
        ("agent", "dance"),
        ("agent", "deploy", "a", "--cpu", "two"),
        ("agent", "logs", "a", "--lines", "0"),
        ("fly",),
        ("agent", "list", "--colour"),
    ],
)
def test_wrong_usage_is_told_before_any_server_is_asked(taos: Taos, argv: tuple[str, ...]) -> None:
    ended = taos(*argv)
    assert ended.status == USAGE
    assert "Usage: taos" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    "argv", [("agent", "list"), ("job", "list", "--json"), ("image", "list"), ("job", "show", "j1")]
)
def test_without_a_server_it_says_what_to_start(taos: Taos, argv: tuple[str, ...]) -> None:
    ended = taos(*argv)
    assert (ended.status, ended.out) == (FAILED, "")
    assert ended.err == (
        "taos: The taOS server does not run.\n  hint: Start it with `taos up`, or `taos serve`.\n"
    )


@pytest.mark.parametrize(
    ("typed", "options", "status", "left"),
    [
        ("hello\n", (), DONE, []),
        ("hello\n", ("--keep-state",), DONE, []),
        ("helo\n", (), CANCELLED, ["hello"]),
        ("\n", (), CANCELLED, ["hello"]),
        ("", (), CANCELLED, ["hello"]),
        ("", ("--yes",), DONE, []),
        ("", ("--json",), DONE, []),
    ],
)
def test_a_person_types_the_name_of_what_is_deleted(
    server: LiveServer,
    taos: Taos,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    options: tuple[str, ...],
    status: int,
    left: list[str],
) -> None:
    taos("agent", "deploy", "hello")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    monkeypatch.setattr(sys, "stdout", terminal)
    ended = taos("agent", "delete", "hello", *options)
    assert ended.status == status
    assert ("Type its name" in terminal.getvalue()) == (not {"--yes", "--json"} & set(options))
    assert ("Nothing was deleted." in ended.err) == bool(left)
    assert list(server.agents) == left


def test_what_is_not_there_is_said_before_anybody_types(
    server: LiveServer, taos: Taos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("nobody\n"))
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert "There is no agent 'nobody'" in taos("agent", "delete", "nobody").err


def test_hints_name_commands_as_the_person_typed_them(
    taos: Taos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAOS_PROGRAM", "./taos")
    assert "Start it with `./taos up`, or `./taos serve`." in taos("agent", "list").err


def test_a_log_is_shown_as_its_writer_wrote_it(
    server: LiveServer, taos: Taos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAOS_PROGRAM", "./taos")
    taos("agent", "deploy", "hello")
    server.services.log = ["see `taos help`"]
    assert taos("agent", "logs", "hello").out == "see `taos help`\n"
    waiting = taos("agent", "stop", "hello", "--no-wait").out
    assert "`./taos job watch " in waiting


def test_a_wrong_setting_is_named(taos: Taos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAOS_PORT", "many")
    ended = taos("agent", "list")
    assert ended.status == USAGE
    assert "`port`" in ended.err
    assert "Traceback" not in ended.err


def test_the_version_is_told(taos: Taos) -> None:
    assert taos("--version").out == f"taos {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("agent",), ("image",), ("job",),
        ("up",), ("serve",), ("setup",), ("doctor",), ("test",),
        *(("agent", c) for c in ["deploy", "list", "show", "logs"]),
        *(("agent", c) for c in ["start", "stop", "restart", "delete"]),
        *(("image", c) for c in ["list", "build", "import"]),
        *(("job", c) for c in ["list", "show", "watch", "cancel", "retry"]),
    ],
)  # fmt: skip
def test_every_command_has_help(taos: Taos, argv: tuple[str, ...]) -> None:
    ended = taos(*argv, "--help")
    assert ended.status == DONE
    assert "Usage" in ended.out
    if len(argv) == 2:
        assert "--json" in ended.out


def test_an_image_that_is_not_there_cannot_be_imported(taos: Taos, tmp_path: Path) -> None:
    ended = taos("image", "import", str(tmp_path / "none.tar.zst"))
    assert ended.status in (FAILED, USAGE)
    assert ended.err.startswith("taos: ")


def test_an_unknown_recipe_cannot_be_built(taos: Taos, tmp_path: Path) -> None:
    ended = taos("image", "build", "nothing", "--out", str(tmp_path))
    assert ended.status in (FAILED, USAGE)
    assert ended.err.startswith("taos: ")
