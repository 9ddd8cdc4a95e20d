"""Why a question gets no answer."""

from __future__ import annotations

import aiohttp
from aiohttp import web

from tinyagentos.gateway.dialects import Dialect, problem
from tinyagentos.gateway.reading import read_json
from tinyagentos.gateway.upstream import Upstream
from tinyagentos.model.provider import ModelRef

LARGEST_REFUSAL = 64 * 1024
LONGEST_SENTENCE = 2000


class Refusal(Exception):
    """What the agent is told; final: no other model would have an answer either."""

    def __init__(self, status: int, kind: str, sentence: str, *, is_final: bool = False) -> None:
        super().__init__(sentence)
        self.status = status
        self.kind = kind
        self.sentence = sentence
        self.is_final = is_final

    def worded(self, dialect: Dialect) -> web.Response:
        """The refusal as the agent's dialect has it."""
        body = problem(dialect, self.status, self.sentence, self.kind)
        return web.Response(status=self.status, body=body, content_type="application/json")


async def read_refusal(
    response: aiohttp.ClientResponse, model: ModelRef, upstream: Upstream
) -> Refusal:
    """Why the provider gives no answer, in its own words where those are about the question."""
    status = response.status
    if status in (401, 403):
        # Such an answer may quote the key.
        said = f"{model.provider} does not take this host's key ({status})."
        return Refusal(502, "provider_error", said)
    if status == 429:
        return Refusal(429, "rate_limit_error", f"{model.provider} has had too many requests.")
    if not 400 <= status < 500:
        return Refusal(502, "provider_error", f"{model} answered {status}.")
    # The key is taken out before anything is cut off, or half of it could be left.
    body = upstream.without_key(await _read_some(response, LARGEST_REFUSAL))
    said = _words_of(body) or f"{model} answered {status}."
    # A model that is not there may be at the next provider; a bad question is bad everywhere.
    return Refusal(status, "invalid_request_error", said, is_final=status != 404)


async def _read_some(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) >= most:
            break
    return bytes(body)


def _words_of(body: bytes) -> str:
    """The sentence in an error of either dialect."""
    try:
        match read_json(body):
            case {"error": {"message": str(said)}} | {"error": str(said)} | {"message": str(said)}:
                return said[:LONGEST_SENTENCE]
    except ValueError:
        pass
    return ""
