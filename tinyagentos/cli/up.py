"""taos up: the main job, from a bare machine to an agent that answers."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from tinyagentos import wire
from tinyagentos.cli.common import Json, need_root
from tinyagentos.cli.progress import check_succeeded, follow
from tinyagentos.cli.render import print_json, print_line
from tinyagentos.cli.web import web_link
from tinyagentos.client import Client, web_address
from tinyagentos.config import Settings
from tinyagentos.model.agent import AgentState, check_agent_name
from tinyagentos.model.errors import NotFound, NotReady


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(up)


def up(
    agent: Annotated[str, typer.Argument(help="The agent's name.")] = "hello",
    framework: Annotated[str, typer.Option(help="What to deploy.")] = "openclaw",
    as_json: Json = False,
) -> None:
    """Set the host up, start the server, deploy AGENT, wait until it is ready."""
    from tinyagentos.host.server import ensure_server_running
    from tinyagentos.host.setup import set_up_host

    check_agent_name(agent)
    need_root("Setting this host up")
    settings = Settings()
    report = (lambda _: None) if as_json else print_line
    asyncio.run(set_up_host(settings, report=report))
    asyncio.run(ensure_server_running(settings, report=report))
    client = Client.connect(settings)
    ready = ensure_agent_ready(client, agent, framework, quiet=as_json)
    if as_json:
        print_json(ready)
    else:
        print_line("\n".join(summary(ready, settings, web_link(client, settings))))


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


def summary(agent: wire.Agent, settings: Settings, link: str) -> tuple[str, ...]:
    """What a person needs to know next. link: of the web pages, see web_link()."""
    name = agent.name
    return (
        "",
        f"Agent {name} ({agent.framework} {agent.version}) is {agent.state}.",
        f"  web      {link}",
        f"  API      {web_address(settings)}   token in {settings.token_file}",
        f"  look     taos agent show {name}    taos agent logs {name} -f",
        f"  end      taos agent stop {name}    taos agent delete {name}",
    )
