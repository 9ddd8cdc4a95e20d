"""What an agent's page offers, and what of it stays when the agent changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tinyagentos.model.agent import Agent, AgentState
from tinyagentos.web import words
from tinyagentos.web.feed import Sight
from tinyagentos.web.pages.agent import advice, tab_names
from tinyagentos.web.settings import as_typed
from tinyagentos.web.tabs import next_tab

LIVING = ("Chat", "Log", "Terminal", "Snapshots", "About")
HELLO = Agent("hello", "openclaw", "1", AgentState.failed, "hello-1", reason="incus says no")


@pytest.mark.parametrize(
    ("state", "runs", "tabs"),
    [
        (AgentState.ready, True, LIVING),
        (AgentState.unhealthy, True, LIVING),
        (AgentState.starting, False, LIVING),
        (AgentState.stopped, False, ("Snapshots", "About")),
        (AgentState.deploying, True, ("About",)),
        (AgentState.failed, False, ("About",)),
        (AgentState.failed, True, ("Log", "About")),
    ],
)
def test_tabs_of_an_agent(state: AgentState, runs: bool, tabs: tuple[str, ...]) -> None:
    assert tab_names(state, chats=True, runs=runs) == tabs
    assert tab_names(state, chats=False, runs=runs) == tuple(t for t in tabs if t != "Chat")


A, B = {"Chat": "1", "Log": "1", "About": "1"}, {"Snapshots": "1", "About": "1"}


@pytest.mark.parametrize(
    ("chosen", "before", "now", "is_picked", "built"),
    [
        ("", {}, A, False, "Chat"),
        ("Log", A, A, True, ""),
        ("About", A, B, True, ""),
        ("About", A, B, False, ""),
        ("Log", A, B, True, "Snapshots"),
        ("Log", A, A | {"Log": "2"}, True, "Log"),
        ("About", {"About": "brief"}, A, True, "About"),
        ("About", {"About": "brief"}, A, False, "Chat"),
    ],
    ids=[
        "the first one at first", "nothing changes", "the picked one is still there",
        "the shown one is still there", "the picked one is gone", "another agent of that name",
        "the picked one has more to show", "nobody picked the one that has more to show",
    ],
)  # fmt: skip
def test_what_is_looked_at_stays(
    chosen: str, before: dict[str, str], now: dict[str, str], is_picked: bool, built: str
) -> None:
    assert next_tab(chosen, before, now, is_picked=is_picked) == built


def test_a_failed_agent_is_told_what_helps() -> None:
    assert words.reason(HELLO) == "Incus says no."
    assert "Restart it" in advice(HELLO, Sight())
    assert "delete it" in advice(HELLO, Sight(unfinished=frozenset({"hello"})))
    unwell = replace(HELLO, state=AgentState.unhealthy, reason="503 busy")
    assert "503 busy" in words.reason(unwell)
    assert "log" in advice(unwell, Sight())


def test_settings_as_they_are_typed() -> None:
    given = replace(HELLO, title="Tea", memory_bytes=3 << 30, cpus=2, idle_stop_minutes=5)
    assert list(as_typed(given, 1 << 30).values()) == ["Tea", "3.0 GiB", "2", "", "1.0 GiB", "5"]
    assert list(as_typed(HELLO, None).values()) == [""] * 6
