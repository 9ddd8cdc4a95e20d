"""Images."""

from __future__ import annotations

from fastapi import APIRouter, Response

from tinyagentos import wire
from tinyagentos.api.routes.agents import accepted
from tinyagentos.api.services import Use

router = APIRouter(prefix="/api/images", tags=["images"])


@router.get("")
async def list_images(services: Use) -> list[wire.Image]:
    """One row per framework, then every other image of the project."""
    return [wire.Image.of(one) for one in await services.images.list_images()]


@router.post("/{framework}/download", status_code=202)
async def download(framework: str, services: Use, response: Response) -> wire.JobAnswer:
    """Get the framework's newest released image, as a job; a second call joins the first."""
    return accepted(services.images.start_download(framework), response)


@router.delete("/{framework}", status_code=204)
async def remove(framework: str, services: Use) -> None:
    """Remove the framework's image. Agents made from it stay."""
    await services.images.remove(framework)
