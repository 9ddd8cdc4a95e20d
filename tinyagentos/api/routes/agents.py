"""Agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from tinyagentos import wire
from tinyagentos.api.services import Use
from tinyagentos.api.streams import Stopping, paced
from tinyagentos.model.job import Job

router = APIRouter(prefix="/api/agents", tags=["agents"])
MOST_LINES = 10_000


class Power(StrEnum):
    """What can be done to an agent's instance."""

    start = "start"
    stop = "stop"
    restart = "restart"


def accepted(job: Job, response: Response) -> wire.JobAnswer:
    """The answer to a request that began a job, with its address."""
    response.headers["Location"] = f"/api/jobs/{job.id}"
    return wire.JobAnswer(job=wire.Job.of(job))


@router.post("/deploy", status_code=202)
async def deploy(
    body: wire.NewAgent,
    services: Use,
    response: Response,
    idempotency_key: Annotated[str, Header(max_length=200)] = "",
) -> wire.JobAnswer:
    """Check the request, then deploy the agent as a job."""
    job = await services.agents.start_deploy(body.to_spec(), idempotency_key=idempotency_key)
    return accepted(job, response)


@router.get("")
async def list_agents(services: Use) -> list[wire.Agent]:
    """Every agent as it is now."""
    return [wire.Agent.of(one) for one in await services.agents.list_agents()]


@router.get("/{name}")
async def get_agent(name: str, services: Use) -> wire.Agent:
    """One agent as it is now."""
    return wire.Agent.of(await services.agents.get_agent(name))


@router.delete("/{name}", status_code=202)
async def delete_agent(name: str, services: Use, response: Response) -> wire.JobAnswer:
    """Remove the agent and its state, as a job."""
    return accepted(await services.agents.start_delete(name), response)


@router.post("/{name}/{action}", status_code=202)
async def power(name: str, action: Power, services: Use, response: Response) -> wire.JobAnswer:
    """Start, stop or restart the agent, as a job."""
    return accepted(await services.agents.start_power(name, action.value), response)


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
) -> StreamingResponse:
    """The agent's log as text; with follow it goes on."""
    log = await services.agents.open_log(name, follow=follow, lines=lines)
    return StreamingResponse(_text(paced(log, stopping)), media_type="text/plain")


async def _text(lines: AsyncIterator[str | None]) -> AsyncIterator[bytes]:
    async for line in lines:
        if line is not None:
            yield f"{line}\n".encode(errors="replace")
