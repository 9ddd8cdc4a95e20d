"""taos up: the main job, from a bare machine to an agent that answers."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from tinyagentos import wire
from tinyagentos.cli.common import Json, need_root
from tinyagentos.cli.render import follow_job, print_json, print_line
from tinyagentos.client import Client
from tinyagentos.config import Settings
from tinyagentos.model.agent import AgentState, check_agent_name
from tinyagentos.model.errors import NotFound


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
    ready = ensure_agent_ready(client, agent, framework)
    if as_json:
        print_json(ready)
        return
    print_line("")
    print_line(f"Agent {ready.name} ({ready.framework} {ready.version}) is ready.")
    print_line(
        f"  server     http://{settings.host}:{settings.port}   token in {settings.token_file}"
    )
    print_line(f"  look       taos agent show {agent}   ·   taos agent logs {agent} -f")
    print_line(f"  stop it    taos agent stop {agent}   ·   taos agent delete {agent}")


def ensure_agent_ready(client: Client, name: str, framework: str) -> wire.Agent:
    """The agent, ready: found so, started, or deployed, whichever it takes."""
    try:
        agent = client.agent(name)
    except NotFound:
        job = client.deploy(wire.NewAgent(name=name, framework=framework))
        follow_job(client.watch(job.id), as_json=False)
        return client.agent(name)
    if agent.state is AgentState.ready:
        return agent
    active = [j for j in client.jobs() if j.is_active and j.subject == f"agent:{name}"]
    job = active[0] if active else client.power(name, "start")
    follow_job(client.watch(job.id), as_json=False)
    return client.agent(name)
