"""The API for the browser that is logged in, and for pages of others that use its cookie."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.deploy.test_shell import FakeShells
from tests.unit.api.fake_services import FakeServices
from tests.unit.api.live import live_server
from tinyagentos.access import COOKIE
from tinyagentos.api.app import create_api

PASSWORD = "correct horse"
OURS = {"Origin": "http://localhost"}


async def pages(scope, receive, send) -> None:
    """Pages that answer everything."""
    if scope["type"] == "websocket":
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        await socket.close()
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a page"})


@pytest.fixture
def services(tmp_path: Path) -> FakeServices:
    return FakeServices(tmp_path)


@pytest.fixture
def http(services: FakeServices) -> Iterator[TestClient]:
    """A browser with a session."""
    client = TestClient(
        create_api(services, pages), base_url="http://localhost", follow_redirects=False
    )

    async def log_in() -> str:
        await services.access.set_password(PASSWORD)
        return await services.access.log_in(PASSWORD, "a")

    client.headers["Cookie"] = f"{COOKIE}={asyncio.run(log_in())}"
    with client:
        yield client


def test_a_session_reads_and_changes_like_the_token(http: TestClient) -> None:
    assert http.get("/api/agents").status_code == 200
    assert http.post("/api/agents/hello/stop", headers=OURS).status_code == 202
    assert http.get("/").text == "a page"


FOREIGN = [
    {},
    {"Origin": "http://evil.test"},
    {"Origin": "null"},
    {"Origin": "http://localhost:9999"},
    {"Origin": "http://localhost.evil.test"},
    {"Origin": "http://localhost", "Sec-Fetch-Site": "same-site"},
    {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "none"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("path", ["/api/agents/hello/stop", "/login", "/logout"])
def test_pages_of_others_change_nothing(
    http: TestClient, headers: dict[str, str], path: str
) -> None:
    assert http.post(path, headers=headers).status_code == 403


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_nor_do_they_get_a_websocket(http: TestClient, headers: dict[str, str]) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        http.websocket_connect("ws://localhost/x", headers=headers),
    ):
        pass
    with http.websocket_connect("ws://localhost/x", headers=OURS):
        pass
    del http.headers["Cookie"]
    with (
        pytest.raises(WebSocketDisconnect),
        http.websocket_connect("ws://localhost/x", headers=OURS),
    ):
        pass


def test_a_session_cannot_set_the_password(http: TestClient, services: FakeServices) -> None:
    body = {"password": "mine mine mine"}
    assert http.put("/api/web/password", json=body, headers=OURS).status_code == 401
    assert http.post("/api/web/setup-code", headers=OURS).status_code == 401
    token = {"Authorization": f"Bearer {services.token}"}
    assert http.post("/api/web/setup-code", headers=token).status_code == 409
    assert http.put("/api/web/password", json=body, headers=token).status_code == 204
    assert http.get("/api/agents").status_code == 401


def test_without_a_session_people_are_led_to_the_login_and_programs_told(http: TestClient) -> None:
    http.headers["Cookie"] = f"{COOKIE}=made-up"
    page = http.get("/agents/hello", headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["location"]) == (303, "/login?next=/agents/hello")
    assert http.get("/agents/hello").status_code == 401
    assert http.get("/api/agents", headers={"Accept": "text/html"}).status_code == 401
    assert http.get("/login").text == "a page"


@pytest.mark.parametrize("path", ["/login/../api/agents", "/_taos/../api/agents", "/_nicegui/../x"])
def test_open_folders_lead_nowhere_else(http: TestClient, path: str) -> None:
    del http.headers["Cookie"]
    answer = http.get(path)
    assert answer.status_code == 401 or answer.text == "a page"


def test_a_shell_ends_with_the_session_that_opened_it(
    http: TestClient, services: FakeServices
) -> None:
    shells = FakeShells()
    services.shells = shells
    [session] = [part.partition("=")[2] for part in http.headers["Cookie"].split("; ")]
    path = "ws://localhost/api/agents/hello/shell"
    with http.websocket_connect(path, headers=OURS) as socket:
        socket.send_bytes(b"hello")
        assert socket.receive_bytes() == b"HELLO"
        assert http.portal
        http.portal.call(services.access.log_out, session)
        with pytest.raises(WebSocketDisconnect):
            socket.receive_bytes()
    assert shells.closed == 1


def test_a_stream_ends_with_the_session_that_opened_it(tmp_path: Path) -> None:
    async def log_in() -> str:
        await server.services.access.set_password(PASSWORD)
        return await server.services.access.log_in(PASSWORD, "a")

    with live_server(tmp_path) as server:
        session = asyncio.run(log_in())
        with httpx.Client(base_url=server.address, trust_env=False, timeout=20) as http:
            token = {"Authorization": f"Bearer {server.services.token}"}
            job = http.post("/api/agents/deploy", json={"name": "waits"}, headers=token).json()
            path = f"/api/jobs/{job['job']['id']}/events"
            cookie = {"Cookie": f"{COOKIE}={session}"}
            with http.stream("GET", path, headers=cookie) as stream:
                lines = stream.iter_lines()
                assert next(lines) == "event: job"
                server.call(lambda: server.services.access.log_out(session))
                list(lines)  # it ends like one that is complete
            assert http.get(path, headers=cookie).status_code == 401
            server.call(server.services.go_on.set)


@pytest.mark.parametrize("path", ["/api/health", "/api/agents", "/api/nothing", "/", "/login"])
def test_answers_are_only_what_they_say(http: TestClient, path: str) -> None:
    assert http.get(path).headers["x-content-type-options"] == "nosniff"
    assert http.post(path).headers["x-content-type-options"] == "nosniff"
