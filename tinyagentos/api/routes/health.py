"""Whether the server serves, and whether it can deploy."""

from __future__ import annotations

from fastapi import APIRouter, Response

from tinyagentos import __version__, wire
from tinyagentos.api.services import Use

router = APIRouter(prefix="/api", tags=["server"])


@router.get("/health")
async def health() -> wire.Health:
    """200 as soon as the process serves; it waits for nothing."""
    return wire.Health(status="ok", version=__version__)


@router.get("/ready", responses={503: {"model": wire.Readiness}})
async def ready(services: Use, response: Response) -> wire.Readiness:
    """200, or 503 with the list of what is missing."""
    missing = await services.missing()
    response.status_code = 503 if missing else 200
    return wire.Readiness(ready=not missing, missing=tuple(wire.Problem.of(one) for one in missing))


@router.get("/frameworks")
async def list_frameworks(services: Use) -> list[wire.Framework]:
    """What can be deployed, and what it takes of bytes and time on this host."""
    return [wire.Framework.of(one) for one in await services.agents.list_frameworks()]
