"""Jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from tinyagentos import wire
from tinyagentos.api.routes.agents import accepted
from tinyagentos.api.services import Use
from tinyagentos.model.job import Job

router = APIRouter(prefix="/api/jobs", tags=["jobs"])
HEARTBEAT = 15.0


@router.get("")
async def list_jobs(services: Use) -> list[wire.Job]:
    """The newest jobs, newest first."""
    return [wire.Job.model_validate(job) for job in services.jobs.list_jobs()]


@router.get("/{job_id}")
async def get_job(job_id: str, services: Use) -> wire.Job:
    """One job with its steps."""
    return wire.Job.model_validate(services.jobs.get_job(job_id))


@router.post("/{job_id}/cancel", status_code=202)
async def cancel(job_id: str, services: Use) -> wire.JobAnswer:
    """Ask the job to stop; what it did is undone."""
    return wire.JobAnswer(job=wire.Job.model_validate(services.jobs.cancel_job(job_id)))


@router.post("/{job_id}/retry", status_code=202)
async def retry(job_id: str, services: Use, response: Response) -> wire.JobAnswer:
    """A new job that does the same as one that failed or was cancelled."""
    return accepted(services.jobs.retry_job(job_id), response)


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def events(job_id: str, services: Use) -> StreamingResponse:
    """The job after each change as server-sent events, until it has ended."""
    services.jobs.get_job(job_id)
    return StreamingResponse(
        _stream(services.jobs.watch_job(job_id)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


async def _stream(changes: AsyncIterator[Job]) -> AsyncIterator[str]:
    """The changes as events, with a comment now and then so that a lost caller is noticed."""
    following = aiter(changes)
    coming = asyncio.ensure_future(anext(following))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=HEARTBEAT)
            if not done:
                yield ": still here\n\n"
                continue
            try:
                job = coming.result()
            except StopAsyncIteration:
                return
            yield f"event: job\ndata: {wire.Job.model_validate(job).model_dump_json()}\n\n"
            coming = asyncio.ensure_future(anext(following))
    finally:
        coming.cancel()
