"""Images."""

from __future__ import annotations

from fastapi import APIRouter

from tinyagentos import wire
from tinyagentos.api.services import Use

router = APIRouter(prefix="/api/images", tags=["images"])


@router.get("")
async def list_images(services: Use) -> list[wire.Image]:
    """One row per framework, then every other image of the project."""
    return [wire.Image.of(one) for one in await services.images.list_images()]
