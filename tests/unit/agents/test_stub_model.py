"""The stub of a model answers questions, and an image that is tried cannot harm who tries it."""

from __future__ import annotations

import aiohttp
import pytest

from tinyagentos.agents.stub_model import stub_model


@pytest.mark.parametrize("streams", [True, False])
async def test_it_says_its_word_and_who_asked(streams: bool) -> None:
    async with stub_model("hello") as stub, aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{stub.port}/v1/chat/completions"
        headers = {"Authorization": "Bearer me"}
        async with http.post(url, json={"stream": streams}, headers=headers) as response:
            assert response.status == 200
            assert "hello" in await response.text()
        assert stub.callers == ["me"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"[" * 100_000, b"[" + b"{}," * 200_000 + b"{}]", b"\xff", b"5"]
)
async def test_nonsense_is_no_question(body: bytes) -> None:
    async with stub_model("hello") as stub, aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{stub.port}/v1/chat/completions"
        async with http.post(url, data=body) as response:
            assert response.status == 400
