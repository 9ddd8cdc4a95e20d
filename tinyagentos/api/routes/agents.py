"""Agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from tinyagentos import wire
from tinyagentos.api.once import BeginOnce
from tinyagentos.api.services import Use
from tinyagentos.api.streams import Stopping, paced

router = APIRouter(prefix="/api/agents", tags=["agents"])
files_router = APIRouter(prefix="/api/files/agents", tags=["agents"])
kept_router = APIRouter(prefix="/api/kept", tags=["agents"])
MOST_LINES = 10_000


class Power(StrEnum):
    """What can be done to an agent's instance."""

    start = "start"
    stop = "stop"
    restart = "restart"


@router.post("/deploy", status_code=202)
async def deploy(body: wire.NewAgent, services: Use, once: BeginOnce) -> wire.JobAnswer:
    """Check the request, then deploy the agent as a job."""
    return await once.job(lambda: services.agents.start_deploy(body.to_spec()))


@router.get("")
async def list_agents(services: Use) -> list[wire.Agent]:
    """Every agent as it is now."""
    return [wire.Agent.of(one) for one in await services.agents.list_agents()]


@router.get("/{name}")
async def get_agent(name: str, services: Use) -> wire.Agent:
    """One agent as it is now."""
    return wire.Agent.of(await services.agents.get_agent(name))


@router.patch("/{name}", status_code=202)
async def change_agent(
    name: str, body: wire.AgentChange, services: Use, once: BeginOnce
) -> wire.JobAnswer:
    """Change limits, title, when it runs and its backups, as a job; the agent goes on running."""
    return await once.job(lambda: services.agents.start_change(name, body.to_change()))


@router.get("/{name}/schedule")
async def get_schedule(name: str, services: Use) -> wire.Schedule:
    """How the agent's state is kept: how often by itself, and how large it may grow."""
    return wire.Schedule(
        snapshots=await services.agents.get_schedule(name),
        state_bytes=await services.agents.get_state_bytes(name),
    )


@router.delete("/{name}", status_code=202)
async def delete_agent(
    name: str, services: Use, once: BeginOnce, keep_state: bool = False
) -> wire.JobAnswer:
    """Remove the agent and, unless it is to be kept, its state, as a job."""
    return await once.job(lambda: services.agents.start_delete(name, keep_state=keep_state))


@router.put("/{name}/network", status_code=202)
async def change_network(
    name: str, body: wire.Network, services: Use, once: BeginOnce
) -> wire.JobAnswer:
    """Have the agent reach what the policy opens, as a job; it goes on running."""
    return await once.job(lambda: services.agents.start_network(name, body.policy))


@router.get("/{name}/snapshots")
async def list_snapshots(name: str, services: Use) -> list[wire.Snapshot]:
    """The snapshots of the agent's state, oldest first."""
    return [wire.Snapshot.of(one) for one in await services.agents.list_snapshots(name)]


@router.post("/{name}/snapshots", status_code=202)
async def snapshot(
    name: str, services: Use, once: BeginOnce, body: wire.NewSnapshot | None = None
) -> wire.JobAnswer:
    """Keep the agent's state as it is now, as a job."""
    called = body.name if body else ""
    return await once.job(lambda: services.agents.start_snapshot(name, called))


@router.post("/{name}/snapshots/{snapshot}/restore", status_code=202)
async def restore(name: str, snapshot: str, services: Use, once: BeginOnce) -> wire.JobAnswer:
    """Bring the agent's state back to the snapshot, as a job."""
    return await once.job(lambda: services.agents.start_restore(name, snapshot))


@router.delete("/{name}/snapshots/{snapshot}", status_code=202)
async def drop_snapshot(name: str, snapshot: str, services: Use, once: BeginOnce) -> wire.JobAnswer:
    """Remove the snapshot, as a job."""
    return await once.job(lambda: services.agents.start_drop(name, snapshot))


@router.post("/upgrade", status_code=202)
async def upgrade_all(services: Use, once: BeginOnce) -> wire.JobAnswer:
    """Give every agent that can have one the newest version, one after the other, as one job.

    A version that one agent does not take is given to no other; 409 when there is nothing newer.
    """
    return await once.job(lambda: services.agents.start_upgrade_all())


@router.post("/{name}/upgrade", status_code=202)
async def upgrade(name: str, services: Use, once: BeginOnce) -> wire.JobAnswer:
    """Give the agent the newest version, as a job that returns to the old one if that fails."""
    return await once.job(lambda: services.agents.start_upgrade(name))


@router.post("/{name}/undo", status_code=202)
async def undo(name: str, services: Use, once: BeginOnce) -> wire.JobAnswer:
    """Return to root and state from before the last upgrade, as a job."""
    return await once.job(lambda: services.agents.start_undo(name))


@router.post("/{name}/{action}", status_code=202)
async def power(name: str, action: Power, services: Use, once: BeginOnce) -> wire.JobAnswer:
    """Start, stop or restart the agent, as a job."""
    return await once.job(lambda: services.agents.start_power(name, action.value))


@router.get(
    "/{name}/logs",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/plain": {}}}},
)
async def logs(
    name: str,
    services: Use,
    stopping: Stopping,
    follow: bool = False,
    lines: Annotated[int, Query(ge=1, le=MOST_LINES)] = 200,
    since: Annotated[str, Query(max_length=40)] = "",
) -> StreamingResponse:
    """The agent's log as text; with follow it goes on. since: such as 10m, 2h or an ISO time."""
    log = await services.agents.open_log(name, follow=follow, lines=lines, since=since)
    return StreamingResponse(_text(paced(log, stopping)), media_type="text/plain")


@files_router.post("/export", status_code=202)
async def export_agent(body: wire.ExportAgent, services: Use, once: BeginOnce) -> wire.JobAnswer:
    """Write the agent, with all it knows, into a new file of this machine."""
    return await once.job(lambda: services.agents.start_export_agent(body.name, Path(body.path)))


@files_router.post("/import", status_code=202)
async def import_agent(body: wire.ImportAgent, services: Use, once: BeginOnce) -> wire.ImportAnswer:
    """Keep the state in an exported file; the answer has what to deploy with it after that.

    422 when the file asks for containers of its own or for networks at home and the request does
    not say whether it gets them; 507 when it asks for more memory than this host has.
    """

    async def answer() -> wire.ImportAnswer:
        job, spec = await services.agents.start_import_agent(Path(body.path), body.to_choice())
        return wire.ImportAnswer(job=wire.Job.of(job), deploy=wire.NewAgent.of_spec(spec))

    return await once.answer(answer, wire.ImportAnswer)


@kept_router.get("")
async def list_kept(services: Use) -> list[wire.KeptState]:
    """The states that outlived their agents, the newest first."""
    return [wire.KeptState.of(one) for one in await services.agents.list_kept()]


@kept_router.delete("/{name}", status_code=204)
async def drop_kept(name: str, services: Use) -> None:
    """Remove a kept state for good."""
    await services.agents.drop_kept(name)


async def _text(lines: AsyncIterator[str | None]) -> AsyncIterator[bytes]:
    async for line in lines:
        if line is not None:
            yield f"{line}\n".encode(errors="replace")
