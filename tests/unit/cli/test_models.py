"""taos provider, taos agent chat and taos agent model."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace

import pytest

from tests.unit.api.live import LiveServer
from tests.unit.cli.conftest import Taos
from tinyagentos.cli.errors import DONE, FAILED, USAGE

SECRET = "sk-typed-by-a-person"


def test_a_provider_is_added_tried_listed_and_removed(
    server: LiveServer, taos: Taos, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No providers yet" in taos("provider", "list").out
    monkeypatch.setenv("TAOS_PROVIDER_KEY", SECRET)
    added = taos("provider", "add", "anthropic")
    assert (added.status, added.err) == (DONE, "")
    assert "has 2 models; agents that chose none use one" in added.out
    listed = taos("provider", "list")
    assert listed.out.splitlines()[1].split()[-1] == "kept"
    assert "anthropic/two" in taos("provider", "test", "anthropic").out
    shown = json.loads(taos("provider", "list", "--json").out)
    assert shown[0]["has_key"] is True
    for said in (added.out, listed.out, json.dumps(shown)):
        assert SECRET not in said
    assert server.services.providers.keys["anthropic"] == SECRET
    assert taos("provider", "remove", "anthropic").status == DONE
    assert taos("provider", "remove", "anthropic").status == FAILED


def test_the_key_may_come_by_the_input(
    server: LiveServer, taos: Taos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{SECRET}\nmore\n"))
    assert taos("provider", "add", "mine", "--url", "http://box/v1", "--stdin").status == DONE
    assert server.services.providers.keys["mine"] == SECRET
    assert server.services.providers.kept["mine"].kind == "openai"


def test_a_wrong_key_is_told_and_the_provider_stays_to_be_mended(
    server: LiveServer, taos: Taos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAOS_PROVIDER_KEY", "wrong")
    ended = taos("provider", "add", "openai")
    assert ended.status == FAILED
    assert "does not take the key" in ended.err
    assert "openai" in taos("provider", "list").out


@pytest.mark.parametrize("argv", [("x", "--kind", "aol"), ("a/b",), ("x", "--url", "ftp://x/")])
def test_what_cannot_be_added(server: LiveServer, taos: Taos, argv: tuple[str, ...]) -> None:
    ended = taos("provider", "add", *argv)
    assert ended.status == USAGE
    assert "hint" in ended.err


def test_a_question_and_its_answer(server: LiveServer, taos: Taos) -> None:
    said = taos("agent", "chat", "hello", "good \x1b[31mmorning")
    assert (said.status, said.out) == (DONE, "You said good \\x1b[31mmorning\n")
    told = taos("agent", "chat", "hello", "again", "--conversation", "two", "--json")
    assert json.loads(told.out) == {"answer": "You said again"}
    assert server.services.chat.heard[-1] == ("again", "two")
    broken = taos("agent", "chat", "hello", "break")
    assert broken.status == FAILED
    assert "broke off" in broken.err
    assert taos("agent", "chat", "nobody", "x").status == FAILED


def test_a_conversation_goes_on_until_the_input_ends(
    server: LiveServer, taos: Taos, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter(["one", "", "two"])

    def line(_: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr("builtins.input", line)
    ended = taos("agent", "chat", "hello")
    assert ended.out == "You said one\nYou said two\n\n"


def test_the_models_of_an_agent_are_chosen_and_shown(server: LiveServer, taos: Taos) -> None:
    assert "the default of this host" in taos("agent", "model", "hello").out
    chosen = taos("agent", "model", "hello", "a/x", "b/y", "--budget", "1000")
    assert re_line(chosen.out, "models") == "a/x, b/y"
    assert re_line(chosen.out, "budget") == "1000"
    assert "3 requests, 1 failed" in chosen.out
    only = json.loads(taos("agent", "model", "hello", "--budget", "0", "--json").out)
    assert (only["models"], only["monthly_tokens"]) == (["a/x", "b/y"], 0)
    assert re_line(taos("agent", "model", "hello", "default").out, "models").startswith("the def")
    assert taos("agent", "model", "hello", "nonsense").status == USAGE


def re_line(out: str, key: str) -> str:
    """What stands after the key."""
    return next(line for line in out.splitlines() if line.startswith(key))[len(key) :].strip()


def test_upgrading_many_goes_on_after_a_failure_and_names_it(
    server: LiveServer, taos: Taos
) -> None:
    taos("agent", "deploy", "hello")
    ended = taos("agent", "upgrade", "hello", "nobody", "hello", "--no-wait")
    assert ended.status == FAILED
    assert ended.out.count("begun") == 2
    assert "1 of 3 were not changed: nobody" in ended.err
    assert taos("agent", "upgrade", "hello", "--no-wait").status == DONE


def test_all_agents_are_upgraded_by_the_server(server: LiveServer, taos: Taos) -> None:
    assert taos("agent", "upgrade", "--all").out == "Every agent has the newest version.\n"
    assert taos("agent", "upgrade", "--all", "--undo").out == "No upgrade can be undone.\n"
    assert json.loads(taos("agent", "upgrade", "--all", "--json").out) == []
    taos("agent", "deploy", "new")
    taos("agent", "deploy", "old")
    server.agents["new"] = replace(server.agents["new"], undo_version="1.1")
    server.agents["old"] = replace(server.agents["old"], newest="1.3")
    begun = json.loads(taos("agent", "upgrade", "--all", "--no-wait", "--json").out)
    assert begun["kind"] == "upgrade all"
    undone = json.loads(taos("agent", "upgrade", "--all", "--undo", "--no-wait", "--json").out)
    assert (undone["kind"], undone["subject"]) == ("undo upgrade", "agent:new")
    assert taos("agent", "upgrade", "old", "--all").status == USAGE
    assert taos("agent", "upgrade").status == USAGE
