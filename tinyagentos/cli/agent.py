"""taos agent: deploy agents, look at them, start, stop and delete them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from tinyagentos import wire
from tinyagentos.cli.common import Json, complete_agents, complete_frameworks, connect
from tinyagentos.cli.progress import check_succeeded, follow
from tinyagentos.cli.render import (
    ask_line,
    ask_once,
    is_attended,
    print_json,
    print_line,
    print_pieces,
    print_table,
    print_text,
)
from tinyagentos.cli.shell import shell
from tinyagentos.client import Client
from tinyagentos.model.agent import DEFAULT_FRAMEWORK
from tinyagentos.model.errors import Cancelled, HostNotReady, InvalidInput, TaosError

app = typer.Typer(
    no_args_is_help=True, help="Agents: deploy, list, show, logs, start, stop, delete."
)

T = TypeVar("T", bound=BaseModel)
Name = Annotated[str, typer.Argument(help="The agent's name.", autocompletion=complete_agents)]
NewName = Annotated[str, typer.Argument(help="The new agent's name.")]
app.command()(shell)
Wait = Annotated[bool, typer.Option(help="Wait until the job has ended.")]


@app.command()
def deploy(
    name: NewName,
    framework: Annotated[
        str,
        typer.Option(
            help="Its framework; `taos image list` names all.", autocompletion=complete_frameworks
        ),
    ] = DEFAULT_FRAMEWORK,
    source: Annotated[str, typer.Option(help="fastest, image or build.")] = "fastest",
    model: Annotated[str, typer.Option(help="PROVIDER/MODEL the agent uses.")] = "",
    memory: Annotated[str, typer.Option(help="Most memory, such as 2GiB.")] = "",
    cpu: Annotated[int | None, typer.Option(help="Most processor cores.")] = None,
    disk: Annotated[str, typer.Option(help="Most disk of its root, such as 8GiB.")] = "",
    state_disk: Annotated[str, typer.Option(help="Most disk of what it keeps.")] = "",
    state_of: Annotated[
        str, typer.Option(help="Begin with the state that was kept of this agent.")
    ] = "",
    network: Annotated[
        str, typer.Option(help="What it may reach: internet, none or lan:CIDR,...")
    ] = "internet",
    nesting: Annotated[
        bool, typer.Option("--nesting", help="Let it run containers of its own; weakens its walls.")
    ] = False,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Deploy an agent and wait until it answers."""
    values = {
        "name": name, "framework": framework, "source": source, "model": model, "cpu": cpu,
        "memory": memory or None, "disk": disk or None, "network": network, "state_of": state_of,
        "state_disk": state_disk or None, "nesting": nesting,
    }  # fmt: skip
    request = _request(wire.NewAgent, values, "taos agent deploy --help")
    begin(lambda client: client.deploy(request), wait=wait, as_json=as_json)


@app.command("list")
def list_agents(as_json: Json = False) -> None:
    """Every agent as it is now."""
    agents = connect().agents()
    if as_json:
        print_json(agents)
        return
    print_table(
        ("NAME", "FRAMEWORK", "VERSION", "STATE", "REASON"),
        ((a.name, a.framework, a.version, a.state, a.reason) for a in agents),
        "No agents yet. Deploy one with `taos agent deploy NAME`.",
    )


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """One agent."""
    agent = connect().agent(name)
    if as_json:
        print_json(agent)
        return
    for key, value in agent.model_dump(mode="json").items():
        if value not in (None, ""):
            print_line(f"{key.replace('_', ' '):14} {value}")


@app.command()
def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on.")] = False,
    lines: Annotated[int, typer.Option(min=1, max=10_000, help="How many lines back.")] = 200,
    since: Annotated[str, typer.Option(help="Such as 10m, 2h, 3d or an ISO time.")] = "",
    as_json: Json = False,
) -> None:
    """The agent's log; with --json each line is a JSON string."""
    for line in connect().logs(name, follow=follow, lines=lines, since=since):
        print_text(json.dumps(line) if as_json else line)


@app.command()
def start(name: Name, wait: Wait = True, as_json: Json = False) -> None:
    """Start the agent and wait until it answers."""
    begin(lambda client: client.power(name, "start"), wait=wait, as_json=as_json)


@app.command()
def stop(name: Name, wait: Wait = True, as_json: Json = False) -> None:
    """Stop the agent."""
    begin(lambda client: client.power(name, "stop"), wait=wait, as_json=as_json)


@app.command()
def restart(name: Name, wait: Wait = True, as_json: Json = False) -> None:
    """Restart the agent and wait until it answers."""
    begin(lambda client: client.power(name, "restart"), wait=wait, as_json=as_json)


@app.command()
def upgrade(
    names: Annotated[list[str] | None, typer.Argument(help="The agents' names.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every agent that can be.")] = False,
    undo: Annotated[bool, typer.Option(help="Return to root and state from before.")] = False,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Give agents the newest version, one after the other, and say at the end which failed.

    One that does not become ready returns to its old version by itself. With --all the server does
    it as one job, and gives a version that one agent does not take to no other.
    """
    if everyone and names:
        raise InvalidInput("Name agents, or give --all.", hint="`taos agent list` shows them.")
    chosen = names or []
    if everyone:
        agents = connect().agents()
        if not undo and any(agent.newest for agent in agents):
            begin(Client.upgrade_all, wait=wait, as_json=as_json)
            return
        chosen = [agent.name for agent in agents if undo and agent.undo_version]
        if not chosen:
            said = "No upgrade can be undone." if undo else "Every agent has the newest version."
            print_json([]) if as_json else print_line(said)
    elif not chosen:
        raise InvalidInput("Name an agent, or give --all.", hint="`taos agent list` shows them.")
    act, failed = "undo" if undo else "upgrade", []
    for name in chosen:
        try:
            begin(partial(Client.power, name=name, action=act), wait=wait, as_json=as_json)
        except TaosError as error:
            # Who stops it, or a server that is away, ends it for all.
            if len(chosen) == 1 or isinstance(error, Cancelled | HostNotReady):
                raise
            failed.append(f"{name} ({error.message.rstrip('.')})")
    if failed:
        raise TaosError(
            f"{len(failed)} of {len(chosen)} were not changed: {'; '.join(failed)}.",
            hint="Each goes on with the version it had.",
        )


@app.command()
def snapshot(
    name: Name,
    called: Annotated[str, typer.Option("--name", help="What to call it.")] = "",
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Keep the agent's state as it is now; the agent works on."""
    begin(lambda client: client.snapshot(name, called), wait=wait, as_json=as_json)


@app.command()
def snapshots(name: Name, as_json: Json = False) -> None:
    """The snapshots of the agent's state."""
    found = connect().snapshots(name)
    if as_json:
        print_json(found)
        return
    print_table(
        ("NAME", "MADE"),
        (
            (one.name, f"{one.created_at:%Y-%m-%d %H:%M:%S}" if one.created_at else "")
            for one in found
        ),
        f"No snapshots yet. Make one with `taos agent snapshot {name}`.",
    )


@app.command()
def restore(
    name: Name,
    snapshot: Annotated[str, typer.Argument(help="The snapshot's name.")],
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Bring the agent's state back; the state as it is now is kept as a snapshot."""
    begin(lambda client: client.restore(name, snapshot), wait=wait, as_json=as_json)


@app.command("drop-snapshot")
def drop_snapshot(
    name: Name,
    snapshot: Annotated[str, typer.Argument(help="The snapshot's name.")],
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Remove a snapshot."""
    begin(lambda client: client.drop_snapshot(name, snapshot), wait=wait, as_json=as_json)


@app.command()
def chat(
    name: Name,
    message: Annotated[str, typer.Argument(help="What to say; asked for when left out.")] = "",
    conversation: Annotated[str, typer.Option(help="Which conversation goes on.")] = "main",
    as_json: Json = False,
) -> None:
    """Talk to the agent; without a message, line by line until Ctrl-D."""
    client = connect()
    if message or as_json or not sys.stdin.isatty():
        said = client.chat(name, message or sys.stdin.read(), conversation)
        print_json({"answer": "".join(said)}) if as_json else print_pieces(said)
        return
    while line := ask_line("you> "):
        print_pieces(client.chat(name, line, conversation))


@app.command()
def model(
    name: Name,
    models: Annotated[
        list[str] | None,
        typer.Argument(help="PROVIDER/MODEL, then those to fall back to; `default`: the host's."),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=0, help="Most tokens a month; 0: no limit.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show or change which models the agent uses; nothing is restarted."""
    client = connect()
    now = client.models(name)
    if models or budget is not None:
        chosen = now.models if not models else () if models == ["default"] else tuple(models)
        tokens = now.monthly_tokens if budget is None else budget
        now = client.choose_models(name, wire.ModelChoice(models=chosen, monthly_tokens=tokens))
    if as_json:
        print_json(now)
        return
    used = now.usage
    print_line(f"models         {', '.join(now.models) or 'the default of this host'}")
    print_line(f"budget         {now.monthly_tokens or 'no limit'}")
    print_line(
        f"this month     {used.requests} requests, {used.errors} failed,"
        f" {used.input_tokens} tokens in, {used.output_tokens} out"
    )


@app.command("set")
def change_agent(
    name: Name,
    memory: Annotated[str, typer.Option(help="Most memory, such as 2GiB.")] = "",
    cpu: Annotated[int | None, typer.Option(help="Most processor cores; 0: all.")] = None,
    disk: Annotated[str, typer.Option(help="Most disk of its root, such as 8GiB.")] = "",
    state_disk: Annotated[str, typer.Option(help="Most disk of what it keeps.")] = "",
    title: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    autostart: Annotated[
        bool | None, typer.Option(help="Whether it may start when the host does.")
    ] = None,
    idle_stop: Annotated[
        int | None, typer.Option(help="Stop it after so many minutes without a question; 0: never.")
    ] = None,
    snapshots: Annotated[
        str, typer.Option(help="Keep its state by itself: off, hourly, daily or weekly.")
    ] = "",
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Change the agent's limits, title, backups and when it runs, as it runs."""
    values = {
        "memory": memory or None, "cpu": cpu, "disk": disk or None, "title": title,
        "state_disk": state_disk or None,
        "autostart": autostart, "idle_stop_minutes": idle_stop, "snapshots": snapshots or None,
    }  # fmt: skip
    request = _request(wire.AgentChange, values, "taos agent set --help")
    begin(lambda client: client.change(name, request), wait=wait, as_json=as_json)


@app.command("network")
def change_network(
    name: Name,
    policy: Annotated[str, typer.Argument(help="internet, none or lan:CIDR,...")],
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Change what the agent may reach, as it runs."""
    begin(lambda client: client.change_network(name, policy), wait=wait, as_json=as_json)


@app.command()
def delete(
    name: Name,
    keep_state: Annotated[
        bool, typer.Option("--keep-state", help="Keep what it knows, for a new agent.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for the name again.")] = False,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Remove the agent with its state. Without --keep-state there is no way back.

    On a terminal you are asked to type its name; a script is not.
    """
    if is_attended() and not (yes or as_json):
        confirm_delete(connect().agent(name).name, keep_state=keep_state)
    begin(lambda client: client.delete(name, keep_state=keep_state), wait=wait, as_json=as_json)


def confirm_delete(name: str, *, keep_state: bool) -> None:
    """Have the person type the agent's name; Cancelled when they type anything else."""
    lost = "what it knows is kept" if keep_state else "all it knows goes with it, for good"
    print_line(f"Deleting agent {name}: {lost}.")
    if ask_once("Type its name to go on: ") != name:
        raise Cancelled("Nothing was deleted.", hint="With `--yes` nobody is asked.")


@app.command("export")
def export_agent(
    name: Name,
    to: Annotated[Path, typer.Option(help="A file that is not there yet.")],
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Write the agent, with all it knows, into one file; it rests while its state is copied."""
    path = str(to.absolute())
    begin(lambda client: client.export_agent(name, path), wait=wait, as_json=as_json)


@app.command("import")
def import_agent(
    file: Annotated[Path, typer.Argument(help="A file that `taos agent export` wrote.")],
    name: Annotated[str, typer.Option(help="Another name for the agent.")] = "",
    memory: Annotated[str, typer.Option(help="Most memory, if not what the file says.")] = "",
    nesting: Annotated[
        bool | None,
        typer.Option(help="Whether it may run containers of its own, if the file asks for it."),
    ] = None,
    lan: Annotated[
        bool | None,
        typer.Option(help="Whether it may reach the networks at home that the file asks for."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Deploy the agent in the file: as it was set, knowing what it knew.

    A file that asks for containers of its own or for networks at home is refused until you decide.
    """
    client = connect()
    values = {
        "path": str(file.absolute()),
        "memory": memory or None,
        "nesting": nesting,
        "lan": lan,
    }
    answer = client.import_agent(_request(wire.ImportAgent, values, "taos agent import --help"))
    if not as_json:
        print_line(_describe(answer.deploy))
    check_succeeded(follow(client, answer.job, quiet=as_json))
    request = answer.deploy.model_copy(update={"name": name or answer.deploy.name})
    begin(lambda client: client.deploy(request), wait=True, as_json=as_json)


def _describe(agent: wire.NewAgent) -> str:
    """What the file asks for and gets, in one line."""
    memory = f"{agent.memory // 2**20} MiB" if isinstance(agent.memory, int) else "as usual"
    nesting = "yes" if agent.nesting else "no"
    return (
        f"{agent.name}: {agent.framework}, network {agent.network}, memory {memory}, "
        f"containers of its own: {nesting}"
    )


@app.command()
def kept(as_json: Json = False) -> None:
    """The states that outlived their agents; `taos agent deploy --state-of` takes one up."""
    found = connect().kept()
    if as_json:
        print_json(found)
        return
    print_table(
        ("NAME", "OF AGENT", "FRAMEWORK", "KEPT"),
        ((one.name, one.agent, one.framework, f"{one.kept_at:%Y-%m-%d %H:%M:%S}") for one in found),
        "No state is kept. `taos agent delete NAME --keep-state` keeps one.",
    )


@app.command("drop-kept")
def drop_kept(
    name: Annotated[str, typer.Argument(help="The state's name, as `kept` lists it.")],
    as_json: Json = False,
) -> None:
    """Remove a kept state for good."""
    connect().drop_kept(name)
    print_json({"removed": name}) if as_json else print_line(f"the state {name} is gone")


def _request(kind: type[T], values: Mapping[str, object], help_command: str) -> T:
    """What was given, as the contract has it; InvalidInput names what cannot be used."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(
            f"{first['loc'][0]} cannot be used: {said}.",
            hint=f"`{help_command}` shows what can be given.",
        ) from error


def begin(ask: Callable[[Client], wire.Job], *, wait: bool, as_json: bool) -> None:
    """Ask the server for a job and show it: to its end, or just its id."""
    client = connect()
    job = ask(client)
    if wait:
        job = follow(client, job, quiet=as_json)
    if as_json:
        print_json(job)
    elif not wait:
        print_line(f"job {job.id} begun; watch it with `taos job watch {job.id}`")
    if wait:
        check_succeeded(job)
