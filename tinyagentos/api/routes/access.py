"""The web pages' password. Not for sessions: only with the token, or on the machine itself."""

from __future__ import annotations

from fastapi import APIRouter

from tinyagentos import wire
from tinyagentos.api.services import Use

router = APIRouter(prefix="/api/web", tags=["web"])


@router.post("/setup-code")
async def new_setup_code(services: Use) -> wire.SetupCode:
    """A code that lets a first visitor set the password; 409 when it is set already."""
    return wire.SetupCode.of(services.access.new_code())


@router.put("/password", status_code=204)
async def set_password(body: wire.NewPassword, services: Use) -> None:
    """Set the password; every session ends."""
    await services.access.set_password(body.password)
