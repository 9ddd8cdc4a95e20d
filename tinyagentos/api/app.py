"""The API as one FastAPI application."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

from fastapi import FastAPI
from starlette.types import ASGIApp

from tinyagentos import __version__, wire
from tinyagentos.api import errors, streams
from tinyagentos.api.auth import Guard
from tinyagentos.api.hosts import HostNames
from tinyagentos.api.limits import BodyLimit
from tinyagentos.api.pages import BesidePages
from tinyagentos.api.routes import access, agents, health, images, jobs, metrics, models, shell
from tinyagentos.api.services import Services

PROBLEMS: dict[int | str, dict[str, Any]] = {  # FastAPI's own type
    code: {"model": wire.ProblemDetails, "content": {"application/problem+json": {}}}
    for code in ("4XX", "5XX")
}


def create_api(services: Services, pages: ASGIApp | None = None, *, hostname: str = "") -> FastAPI:
    """The application over the services; nothing is asked of them yet.

    pages: what answers where the API has no say; behind the same guard. hostname: what the machine
    calls itself.
    """
    app = FastAPI(
        title="taOS",
        version=__version__,
        description="Deploys AI agents into Incus containers.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=PROBLEMS,
    )
    app.state.services = services
    app.state.idempotency_locks = WeakValueDictionary()
    streams.allow_streams(app)
    errors.install(app)
    for noun in (health, models, agents, images, jobs, access, metrics, shell):
        app.include_router(noun.router)
    app.include_router(agents.kept_router)
    app.include_router(agents.files_router)
    app.include_router(models.interface_router)
    if pages:
        app.add_middleware(BesidePages, pages=pages)
    app.add_middleware(BodyLimit)
    app.add_middleware(
        Guard,
        token=services.token,
        names=HostNames.of(services.settings, hostname),
        sessions=services.access,
    )
    app.add_middleware(errors.Border, explain=services.explain)
    return app
