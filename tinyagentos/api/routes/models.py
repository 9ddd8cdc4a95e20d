"""Model providers, the models of an agent, and talking to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from tinyagentos import wire
from tinyagentos.api.services import Use
from tinyagentos.api.streams import Stopping, paced
from tinyagentos.model.errors import TaosError

router = APIRouter(prefix="/api", tags=["models"])
interface_router = APIRouter(tags=["models"])
EVENTS = "text/event-stream"


@router.get("/providers")
async def list_providers(services: Use) -> list[wire.Provider]:
    """The model providers; their keys are never told."""
    return [wire.Provider.of(one) for one in await services.providers.list_providers()]


@router.post("/providers", status_code=201)
async def add_provider(body: wire.NewProvider, services: Use) -> wire.Provider:
    """Keep the provider, or change the one of that name."""
    return wire.Provider.of(await services.providers.add(body.to_provider()))


@router.post("/providers/{name}/test")
async def test_provider(name: str, services: Use) -> wire.ProviderTest:
    """Ask the provider for its models, which shows that address and key are right."""
    return wire.ProviderTest.of(await services.providers.test(name))


@router.delete("/providers/{name}", status_code=204)
async def remove_provider(name: str, services: Use) -> None:
    """Forget the provider and its key."""
    services.providers.remove(name)


@router.get("/agents/{name}/model")
async def get_models(name: str, services: Use) -> wire.AgentModels:
    """The agent's models, and what it used of them this month."""
    return wire.AgentModels.of(await services.models.get(name))


@router.put("/agents/{name}/model")
async def choose_models(name: str, body: wire.ModelChoice, services: Use) -> wire.AgentModels:
    """Have the agent use these models from its next question on."""
    return wire.AgentModels.of(await services.models.choose(name, body.to_choice()))


@interface_router.get("/agents/{name}/ui/", status_code=303, response_class=RedirectResponse)
async def interface(name: str, request: Request, services: Use) -> RedirectResponse:
    """To the agent's own web interface, which is at an origin of its own."""
    where = await services.interfaces.open(name, request.headers.get("host", ""))
    return RedirectResponse(where, 303, {"Cache-Control": "no-store"})


@router.post(
    "/agents/{name}/chat",
    response_model=wire.Answer,
    responses={200: {"content": {EVENTS: {}}}},
)
async def chat(
    name: str,
    body: wire.Question,
    services: Use,
    stopping: Stopping,
    accept: Annotated[str, Header(max_length=1000)] = "",
) -> Response | wire.Answer:
    """Say something to the agent: its answer whole, or as events when those are accepted."""
    answer = await services.chat.ask(name, body.message, body.conversation)
    pieces = paced(answer, stopping)
    if EVENTS in accept:
        return StreamingResponse(
            _events(pieces), media_type=EVENTS, headers={"Cache-Control": "no-store"}
        )
    return wire.Answer(answer="".join([piece async for piece in pieces if piece]))


async def _events(pieces: AsyncIterator[str | None]) -> AsyncIterator[str]:
    """Events `text` as they come, then `done`, or `error` with a problem."""
    try:
        async for piece in pieces:
            if piece is None:
                yield ": still here\n\n"
            else:
                yield _event("text", {"text": piece})
    except TaosError as error:
        yield _event("error", {"code": error.code, "message": error.message, "hint": error.hint})
    else:
        yield _event("done", {})


def _event(name: str, body: dict[str, str]) -> str:
    return f"event: {name}\ndata: {json.dumps(body)}\n\n"
