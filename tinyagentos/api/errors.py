"""Every error as problem+json. The one map from our codes to HTTP statuses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinyagentos import wire
from tinyagentos.model.errors import TaosError
from tinyagentos.model.job import Problem

_log = logging.getLogger(__name__)

STATUS: Mapping[str, int] = {
    "invalid_input": 422,
    "not_found": 404,
    "conflict": 409,
    "no_space": 507,
    "unauthorized": 401,
    "too_many_tries": 429,
    "host_not_ready": 503,
    "store_failed": 503,
    "incus_failed": 502,
    "unavailable": 503,
    "untrusted": 502,
    "build_failed": 500,
    "smoke_failed": 500,
    "not_ready": 504,
    "command_failed": 500,
    "cancelled": 409,
    "internal": 500,
}
CONTRACT = "/api/openapi.json describes what each route takes."

Explain = Callable[[BaseException], Problem]


def answer(
    problem: Problem, status: int = 0, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The problem as RFC 9457 has it; its code decides the status unless one is given."""
    status = status or STATUS.get(problem.code, 500)
    sentence = _encodable(problem.message)
    body = wire.ProblemDetails(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=sentence,
        message=sentence,
        code=problem.code,
        hint=_encodable(problem.hint),
    )
    more = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(
        body.model_dump(),
        status,
        headers={**more, **(headers or {})},
        media_type="application/problem+json",
    )


def install(app: FastAPI) -> None:
    """Have the app word the errors that it knows; Border words the rest."""
    app.add_exception_handler(TaosError, _expected)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(HTTPException, _refused)


class Border:
    """Answers a request that ended in any other exception, and logs it, once.

    Starlette's own handler for them raises the exception again, and uvicorn would log it too.
    What passes here is, for a browser, only what it says it is (nosniff).
    """

    def __init__(self, app: ASGIApp, explain: Explain) -> None:
        self._app = app
        self._explain = explain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        try:
            await self._app(scope, receive, note)
        except Exception as error:
            # An answer that has begun can only be cut short, which uvicorn does and logs.
            if started or scope["type"] != "http":
                raise
            problem = self._explain(error)
            if problem.code == "internal":
                _log.error("request failed", exc_info=error, extra={"path": scope["path"]})
            await answer(problem)(scope, receive, note)


async def _expected(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, TaosError):
        raise error
    return answer(Problem(error.code, error.message, error.hint))


async def _unreadable(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    first: Mapping[str, Any] = next(iter(error.errors()), {})  # FastAPI's own type
    if first.get("type") == "json_invalid":
        return answer(Problem("invalid_input", "The body is not JSON.", CONTRACT), 400)
    # The first part says where the field was: body, path, query or header.
    where = ".".join(str(part) for part in first.get("loc", ())[1:])
    if not where:
        return answer(
            Problem(
                "invalid_input", "The body is not a JSON object.",
                f"Send one, with `Content-Type: application/json`. {CONTRACT}",
            )
        )  # fmt: skip
    said = str(first.get("msg", "")).removeprefix("Value error, ")
    sentence = f"`{where[:100]}` cannot be used: {said[:300]}."
    return answer(Problem("invalid_input", sentence, CONTRACT))


async def _refused(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    match error.status_code:
        case 404:
            code, said = "not_found", f"There is no route {request.url.path[:100]}."
        case 405:
            code, said = "invalid_input", f"{request.method} is not possible here."
        case status if status < 500:
            code, said = "invalid_input", f"{error.detail.rstrip('.')}."
        case _:
            code, said = "internal", f"{error.detail.rstrip('.')}."
    return answer(Problem(code, said, CONTRACT), error.status_code, error.headers)


def _encodable(text: str) -> str:
    """The text with what is no valid Unicode (it may quote input) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
