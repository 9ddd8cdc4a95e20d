"""Jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from tinyagentos import wire
from tinyagentos.api.once import BeginOnce, accepted
from tinyagentos.api.services import Use
from tinyagentos.api.streams import Stopping, paced
from tinyagentos.model.job import Job

router = APIRouter(prefix="/api/jobs", tags=["jobs"])


@router.get("")
async def list_jobs(services: Use) -> list[wire.Job]:
    """The newest jobs, newest first."""
    return [wire.Job.of(job) for job in services.jobs.list_jobs()]


@router.get("/{job_id}")
async def get_job(job_id: str, services: Use) -> wire.Job:
    """One job with its steps."""
    return wire.Job.of(services.jobs.get_job(job_id))


@router.post("/{job_id}/cancel", status_code=202)
async def cancel(job_id: str, services: Use, response: Response) -> wire.JobAnswer:
    """Ask the job to stop; what it did is undone. 409 when that cannot be undone any more."""
    return accepted(services.jobs.cancel_job(job_id), response)


@router.post("/{job_id}/retry", status_code=202)
async def retry(job_id: str, services: Use, once: BeginOnce) -> wire.JobAnswer:
    """A new job that does the same, as things are now; 409 when that cannot be done any more."""
    return await once.job(lambda: services.jobs.retry_job(job_id))


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def events(job_id: str, services: Use, stopping: Stopping) -> StreamingResponse:
    """The job now and after each change, as events named `job`, until it has ended.

    Each event is the whole job, so a caller that lost the connection just asks again.
    """
    services.jobs.get_job(job_id)
    return StreamingResponse(
        _events(paced(services.jobs.watch_job(job_id), stopping)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


async def _events(changes: AsyncIterator[Job | None]) -> AsyncIterator[str]:
    """The changes as events, with a comment now and then so that a lost caller is noticed."""
    async for job in changes:
        if job is None:
            yield ": still here\n\n"
        else:
            yield f"event: job\ndata: {wire.Job.of(job).model_dump_json()}\n\n"
