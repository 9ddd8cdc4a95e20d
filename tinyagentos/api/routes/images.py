"""Images."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter

from tinyagentos import wire
from tinyagentos.api.once import BeginOnce
from tinyagentos.api.services import Use

router = APIRouter(prefix="/api/images", tags=["images"])


@router.get("")
async def list_images(services: Use) -> list[wire.Image]:
    """One row per framework, then every other image of the project."""
    return [wire.Image.of(one) for one in await services.images.list_images()]


@router.get("/policy")
async def get_policy(services: Use) -> wire.Policy:
    """When images are fetched."""
    return wire.Policy(policy=services.images.policy)


@router.put("/policy")
async def choose_policy(body: wire.Policy, services: Use) -> wire.Policy:
    """Fetch images by this policy from now on."""
    services.images.choose_policy(body.policy)
    return wire.Policy(policy=services.images.policy)


@router.post("/file/import", status_code=202)
async def import_file(body: wire.ImportFile, services: Use, once: BeginOnce) -> wire.JobAnswer:
    """Get an image out of an exported file of this machine, verified as a download is."""
    return await once.job(lambda: services.images.start_import(Path(body.path)))


@router.post("/file/export", status_code=202)
async def export_file(body: wire.ExportFile, services: Use, once: BeginOnce) -> wire.JobAnswer:
    """Write a released image, with all that proves it, into a new file of this machine."""
    return await once.job(lambda: services.images.start_export(body.framework, Path(body.path)))


@router.post("/{framework}/download", status_code=202)
async def download(framework: str, services: Use, once: BeginOnce) -> wire.JobAnswer:
    """Get the framework's newest released image, as a job; a second call joins the first."""
    return await once.job(lambda: services.images.start_download(framework))


@router.delete("/{framework}/download", status_code=204)
async def discard(framework: str, services: Use) -> None:
    """Stop getting the framework's image and remove what has come of it.

    Cancelling the job alone keeps what has come for the next time.
    """
    services.images.discard(framework)


@router.delete("/{framework}", status_code=204)
async def remove(framework: str, services: Use) -> None:
    """Remove the framework's image. Agents made from it stay."""
    await services.images.remove(framework)
