"""taos up: the main job, from a bare machine to an agent that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from tinyagentos import wire
from tinyagentos.cli.common import Json, complete_frameworks, need_root
from tinyagentos.cli.progress import check_succeeded, follow, usual_deploy
from tinyagentos.cli.render import print_json, print_line
from tinyagentos.cli.web import web_link
from tinyagentos.client import Client, web_address
from tinyagentos.config import Settings, read_program
from tinyagentos.model.agent import AgentState, check_agent_name
from tinyagentos.model.errors import NotFound, NotReady

LOOPBACK = ("127.0.0.1", "::1", "localhost")
FIRST_DEPLOY = "A first deploy usually takes about a minute; the next ones take seconds."


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(up)


def up(
    agent: Annotated[str, typer.Argument(help="The agent's name.")] = "hello",
    framework: Annotated[
        str, typer.Option(help="Its framework.", autocompletion=complete_frameworks)
    ] = "openclaw",
    as_json: Json = False,
) -> None:
    """Set the host up, start the server, deploy AGENT, wait until it is ready."""
    from tinyagentos.host.server import ensure_server_running
    from tinyagentos.host.setup import set_up_host

    check_agent_name(agent)
    need_root("Setting this host up")
    settings = Settings()
    report = (lambda _: None) if as_json else print_line
    plans = asyncio.run(set_up_host(settings, report=lambda _: None, dry_run=True))
    for line in outlook(plans):
        report(line)
    asyncio.run(set_up_host(settings, report=report))
    asyncio.run(ensure_server_running(settings, report=report))
    client = Client.connect(settings)
    ready = ensure_agent_ready(client, agent, framework, quiet=as_json)
    if as_json:
        print_json(ready)
        return
    link, talk = web_link(client, settings), ways_to_talk(ready.name, has_model(client, ready.name))
    for line in summary(ready, settings, link, talk):
        print_line(line)


def outlook(plans: Sequence[str]) -> tuple[str, ...]:
    """What a person is told before this host is set up; nothing where little is missing."""
    if not any(plan.startswith("install ") for plan in plans):
        return ()
    return (
        "This machine is not set up for agents yet. What is missing is installed now, then the",
        "agent is deployed: usually one to three minutes in all, by the speed of your line.",
        "You may stop it at any time; run the same command again and it goes on from there.",
        "",
    )


def ensure_agent_ready(
    client: Client, name: str, framework: str, *, quiet: bool = False
) -> wire.Agent:
    """The agent, ready: found so, waited for, started, or deployed, whichever it takes.

    Raises the error its job failed with, or NotReady when it stopped answering meanwhile.
    """
    try:
        agent = client.agent(name)
    except NotFound:
        job = client.deploy(wire.NewAgent(name=name, framework=framework))
        if not quiet and not any(usual_deploy(client, framework).values()):
            print_line(FIRST_DEPLOY)
    else:
        if agent.state is AgentState.ready:
            return agent
        active = [j for j in client.jobs() if j.is_active and j.subject == f"agent:{name}"]
        job = active[0] if active else client.power(name, "start")
    check_succeeded(follow(client, job, quiet=quiet))
    agent = client.agent(name)
    if agent.state is not AgentState.ready:
        raise NotReady(
            f"Agent {name} is {agent.state}{': ' if agent.reason else ''}{agent.reason}.",
            hint=f"`taos agent logs {name}` has its log.",
        )
    return agent


def has_model(client: Client, name: str) -> bool:
    """Whether the agent could answer a question: it chose a model, or this host has a provider."""
    return bool(client.providers() or client.models(name).models)


def ways_to_talk(name: str, has_model: bool, program: str = "") -> tuple[str, ...]:
    """The commands that lead to the agent's first answer. program: else what the person typed."""
    taos = program or read_program()
    chat = f"{taos} agent chat {name}"
    if has_model:
        return (chat,)
    return (f"first give it a model: {taos} provider add anthropic", f"then: {chat}")


def summary(
    agent: wire.Agent, settings: Settings, link: str, talk: Sequence[str], program: str = ""
) -> tuple[str, ...]:
    """What a person needs to know next. link: see web_link(); talk: see ways_to_talk()."""
    name, taos = agent.name, program or read_program()
    elsewhere = (f"from a phone or another machine: {taos} help install",)
    rows = (
        ("talk", *talk),
        ("web", link, *(elsewhere if settings.host in LOOPBACK else ())),
        ("look", f"{taos} agent show {name}", f"{taos} agent logs {name} -f"),
        ("end", f"{taos} agent stop {name}", f"{taos} agent delete {name}"),
        ("API", f"{web_address(settings)}, with the token in {settings.token_file}"),
    )
    lines = [f"Agent {name} ({agent.framework} {agent.version}) is {agent.state}."]
    for word, first, *more in rows:
        lines += [f"  {word:6} {first}", *(f"  {'':6} {one}" for one in more)]
    return ("", *lines)
