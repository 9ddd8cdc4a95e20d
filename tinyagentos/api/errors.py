"""Every error as problem+json. The one map from our codes to HTTP statuses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

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
    "host_not_ready": 503,
    "unavailable": 503,
    "untrusted": 502,
    "build_failed": 500,
    "not_ready": 504,
    "command_failed": 500,
    "cancelled": 409,
    "internal": 500,
}
_HTTP_CODES = {401: "unauthorized", 404: "not_found", 405: "not_found"}

Explain = Callable[[BaseException], Problem]


def answer(problem: Problem, status: int = 0) -> JSONResponse:
    """The problem as RFC 9457 has it; its code decides the status unless one is given."""
    status = status or STATUS.get(problem.code, 500)
    body = wire.ProblemDetails(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=problem.message,
        code=problem.code,
        hint=problem.hint,
    )
    # ASCII with backslashes: input that is no valid text may be quoted in the sentence.
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(
        body.model_dump(), status, headers=headers, media_type="application/problem+json"
    )


def install(app: FastAPI, explain: Explain) -> None:
    """Have the app word every error; explain words what is not a TaosError."""

    async def expected(_: Request, error: Exception) -> JSONResponse:
        return answer(explain(error))

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        problem = explain(error)
        if problem.code == "internal":
            _log.error("request failed", exc_info=error, extra={"path": request.url.path})
        return answer(problem)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        return answer(_worded(error), 422)

    async def http(_: Request, error: Exception) -> JSONResponse:
        status = error.status_code if isinstance(error, HTTPException) else 500
        said = str(error.detail) if isinstance(error, HTTPException) else ""
        code = _HTTP_CODES.get(status, "invalid_input" if status < 500 else "internal")
        return answer(Problem(code, f"{said}.", "/api/openapi.json lists the routes."), status)

    app.add_exception_handler(TaosError, expected)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)


def _worded(error: Exception) -> Problem:
    """The first thing that is wrong with a request, as a sentence."""
    hint = "/api/openapi.json describes what each route takes."
    if not isinstance(error, RequestValidationError) or not error.errors():
        return Problem("invalid_input", "The request cannot be read.", hint)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first.get("loc", ()) if part != "body")
    if first.get("type") == "json_invalid" or not where:
        return Problem("invalid_input", "The body is not a JSON object.", hint)
    said = str(first.get("msg", "")).removeprefix("Value error, ")
    return Problem("invalid_input", f"`{where[:100]}` cannot be used: {said[:300]}.", hint)
