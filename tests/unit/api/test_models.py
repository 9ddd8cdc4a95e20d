"""Providers, models and chat over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.unit.api.fake_services import FakeServices
from tinyagentos.api.app import create_api

SECRET = "sk-a-secret"
NEW = {"name": "one", "kind": "openai", "url": "http://box/v1", "key": SECRET}


@pytest.fixture
def http(tmp_path: Path) -> Iterator[TestClient]:
    services = FakeServices(tmp_path)
    headers = {"Authorization": f"Bearer {services.token}"}
    with TestClient(create_api(services), base_url="http://localhost", headers=headers) as client:
        yield client


def test_keys_go_in_and_never_come_out(http: TestClient) -> None:
    answers = [http.post("/api/providers", json=NEW)]
    answers += [http.get("/api/providers"), http.post("/api/providers/one/test")]
    assert [one.status_code for one in answers] == [201, 200, 200]
    assert answers[1].json()[0]["has_key"] is True
    wrong = http.post("/api/providers", json=NEW | {"kind": "x"})
    assert wrong.status_code == 422
    for answer in (*answers, wrong):
        assert SECRET not in answer.text
    assert http.delete("/api/providers/one").status_code == 204
    assert http.delete("/api/providers/one").status_code == 404


def test_an_answer_whole_and_in_pieces(http: TestClient) -> None:
    asked = {"message": "hi"}
    assert http.post("/api/agents/hello/chat", json=asked).json() == {"answer": "You said hi"}
    streamed = http.post(
        "/api/agents/hello/chat", json=asked, headers={"Accept": "text/event-stream"}
    )
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text == (
        'event: text\ndata: {"text": "You said "}\n\n'
        'event: text\ndata: {"text": "hi"}\n\n'
        "event: done\ndata: {}\n\n"
    )


def test_an_answer_that_breaks_off(http: TestClient) -> None:
    asked = {"message": "break"}
    whole = http.post("/api/agents/hello/chat", json=asked)
    assert (whole.status_code, whole.json()["code"]) == (503, "unavailable")
    streamed = http.post(
        "/api/agents/hello/chat", json=asked, headers={"Accept": "text/event-stream"}
    )
    assert "event: error" in streamed.text
    assert '"hint": "Ask again."' in streamed.text


@pytest.mark.parametrize(
    "body", [{}, {"message": ""}, {"message": 5}, {"message": "x", "conversation": "../x"},
             {"message": "x", "more": 1}, {"message": "x" * 40_000}],
)  # fmt: skip
def test_what_cannot_be_asked(http: TestClient, body: dict[str, object]) -> None:
    assert http.post("/api/agents/hello/chat", json=body).status_code == 422
    assert http.post("/api/agents/nobody/chat", json={"message": "x"}).status_code == 404


def test_the_models_of_an_agent(http: TestClient) -> None:
    chosen = {"models": ["a/x", "b/y"], "monthly_tokens": 10}
    said = http.put("/api/agents/hello/model", json=chosen).json()
    assert said == chosen | {
        "usage": {"requests": 3, "errors": 1, "input_tokens": 20, "output_tokens": 10},
        "months": [],
    }
    assert http.get("/api/agents/hello/model").json() == said
    for wrong in ({"models": ["x"]}, {"models": "a/x"}, {"monthly_tokens": -1}):
        assert http.put("/api/agents/hello/model", json=wrong).status_code == 422
