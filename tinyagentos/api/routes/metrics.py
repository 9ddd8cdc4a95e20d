"""Numbers for Prometheus."""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from tinyagentos.api.services import Use
from tinyagentos.model.job import JobState

router = APIRouter(tags=["server"])


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(services: Use) -> str:
    """Jobs by state, of those the server remembers."""
    counted = Counter(job.state for job in services.jobs.list_jobs())
    lines = ["# HELP taos_jobs Jobs by state.", "# TYPE taos_jobs gauge"]
    lines += [f'taos_jobs{{state="{state}"}} {counted[state]}' for state in JobState]
    return "\n".join(lines) + "\n"
