"""taos up, its part with the agent: whatever it finds, it ends with an agent that answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import read_command
from tests.unit.api.live import LiveServer, make_agent
from tests.unit.cli.conftest import Taos
from tinyagentos import wire
from tinyagentos.cli.common import need_root
from tinyagentos.cli.errors import USAGE
from tinyagentos.cli.up import (
    FIRST_DEPLOY,
    ensure_agent_ready,
    has_model,
    outlook,
    summary,
    ways_to_talk,
)
from tinyagentos.client import Client
from tinyagentos.config import Settings
from tinyagentos.model.agent import AgentState, Framework
from tinyagentos.model.errors import InvalidInput, NotReady, TaosError, Unauthorized
from tinyagentos.model.provider import ProviderKind


@pytest.fixture
def client(server: LiveServer) -> Client:
    return Client.connect(server.settings)


def kinds(client: Client) -> list[str]:
    return [job.kind for job in client.jobs()]


def test_absent_it_is_deployed_and_ready_it_is_left_alone(client: Client) -> None:
    assert ensure_agent_ready(client, "hello", "openclaw").state is AgentState.ready
    assert ensure_agent_ready(client, "hello", "openclaw").state is AgentState.ready
    assert kinds(client) == ["deploy"]


@pytest.mark.parametrize("state", [AgentState.stopped, AgentState.unhealthy])
def test_stopped_or_unwell_it_is_started(
    server: LiveServer, client: Client, state: AgentState
) -> None:
    server.agents["hello"] = make_agent("hello", state)
    assert ensure_agent_ready(client, "hello", "openclaw").state is AgentState.ready
    assert kinds(client) == ["start"]


def test_a_deploy_that_is_under_way_is_waited_for(server: LiveServer, client: Client) -> None:
    job = client.deploy(wire.NewAgent(name="waits"))
    server.agents["waits"] = make_agent("waits", AgentState.deploying)
    server.call(server.services.go_on.set)
    assert ensure_agent_ready(client, "waits", "openclaw", quiet=True).state is AgentState.ready
    assert [job.id for job in client.jobs()] == [job.id]


def test_a_failed_deploy_is_raised(client: Client) -> None:
    with pytest.raises(TaosError, match="did not answer"):
        ensure_agent_ready(client, "fails", "openclaw")


def test_an_agent_that_stopped_answering_meanwhile_is_not_called_ready(
    server: LiveServer, client: Client
) -> None:
    server.agents["unwell"] = make_agent("unwell", AgentState.stopped)
    with pytest.raises(NotReady, match="unhealthy") as caught:
        ensure_agent_ready(client, "unwell", "openclaw")
    assert "taos agent logs unwell" in caught.value.hint


def test_an_unknown_framework_is_the_callers_mistake(client: Client) -> None:
    with pytest.raises(InvalidInput):
        ensure_agent_ready(client, "hello", "nothing")


def test_the_summary_has_the_address_and_what_to_do_next(client: Client, tmp_path: Path) -> None:
    agent = ensure_agent_ready(client, "hello", "openclaw")
    settings = Settings(data_dir=tmp_path, host="0.0.0.0", port=8420)
    link, talk = "http://127.0.0.1:8420/setup?code=abc", ways_to_talk("hello", True, "./taos")
    assert summary(agent, settings, link, talk, "./taos") == (
        "",
        "Agent hello (openclaw 1.2) is ready.",
        "  talk   ./taos agent chat hello",
        "  web    http://127.0.0.1:8420/setup?code=abc",
        "  look   ./taos agent show hello",
        "         ./taos agent logs hello -f",
        "  end    ./taos agent stop hello",
        "         ./taos agent delete hello",
        f"  API    http://127.0.0.1:8420, with the token in {tmp_path}/token",
    )
    usual = summary(agent, settings.model_copy(update={"host": "127.0.0.1"}), link, talk, "./taos")
    assert usual[4] == "         from a phone or another machine: ./taos help install"


def test_an_agent_without_a_model_needs_one_first(client: Client) -> None:
    ensure_agent_ready(client, "hello", "openclaw")
    assert not has_model(client, "hello")
    assert ways_to_talk("hello", False, "sudo ./taos") == (
        "first give it a model: sudo ./taos provider add anthropic",
        "then: sudo ./taos agent chat hello",
    )
    client.choose_models("hello", wire.ModelChoice(models=("stub/one",)))
    assert has_model(client, "hello")
    client.choose_models("hello", wire.ModelChoice())
    client.add_provider(wire.NewProvider(name="anthropic", kind=ProviderKind.anthropic, key="k"))
    assert has_model(client, "hello")
    for line in (*ways_to_talk("hello", False), *ways_to_talk("hello", True)):
        read_command(line[line.index("taos ") :].split()[1:])


def test_a_long_way_is_told_of_beforehand_and_a_short_one_is_not() -> None:
    assert outlook(()) == ()
    assert outlook(("make the project taos",)) == ()
    assert "usually one to three minutes" in "\n".join(outlook(("install incus, mmdebstrap",)))


def test_a_first_deploy_says_how_long_it_usually_takes(
    server: LiveServer, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    ensure_agent_ready(client, "known", "openclaw")
    assert FIRST_DEPLOY not in capsys.readouterr().out
    unmeasured = Framework("openclaw", "1", "OpenClaw", 7, None, {"image": None, "build": None})

    async def list_frameworks() -> tuple[Framework, ...]:
        return (unmeasured,)

    server.services.list_frameworks = list_frameworks  # type: ignore[method-assign] # a fake
    ensure_agent_ready(client, "first", "openclaw")
    assert capsys.readouterr().out.startswith(f"{FIRST_DEPLOY}\n")
    ensure_agent_ready(client, "first", "openclaw")
    ensure_agent_ready(client, "quiet", "openclaw", quiet=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["Bad", "../x", "", "a" * 200])
def test_a_bad_name_is_refused_before_anything_is_set_up(taos: Taos, name: str) -> None:
    ended = taos("up", name)
    assert ended.status == USAGE
    assert "hint" in ended.err


def test_it_needs_root() -> None:
    with pytest.raises(Unauthorized, match="Setting this host up needs root") as refused:
        need_root("Setting this host up", user=1000)
    assert "sudo" in refused.value.hint
    need_root("Setting this host up", user=0)
