"""Idempotency keys: the same request gives the same job, on every route that begins one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.unit.api.fake_services import FakeServices
from tests.unit.api.live import LiveServices
from tinyagentos.api.app import create_api
from tinyagentos.model.agent import AgentSpec
from tinyagentos.model.job import Job

EXPORT = {"framework": "openclaw", "path": "/x"}
BODIES: dict[str, dict[str, Any]] = {
    "/api/agents/deploy": {"name": "hello"},
    "/api/agents/{name}": {"title": "Hi"},
    "/api/agents/{name}/network": {"policy": "none"},
    "/api/files/agents/export": {"name": "hello", "path": "/x"},
    "/api/files/agents/import": {"path": "/x.taos"},
    "/api/images/file/import": {"path": "/x"},
    "/api/images/file/export": EXPORT,
}
# It makes none, and is the same however often it is asked for.
NO_JOB = ("post", "/api/jobs/{job_id}/cancel")


class Services(FakeServices):
    """Every framework's image can be imported."""

    def start_import(self, file: Path) -> Job:
        return self.add("download image", "openclaw")


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return Services(tmp_path)


@pytest.fixture
def http(services: Services) -> Iterator[TestClient]:
    headers = {"Authorization": f"Bearer {services.token}"}
    with TestClient(create_api(services), base_url="http://localhost", headers=headers) as client:
        yield client


def routes(folder: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """Every route that answers 202."""
    paths = create_api(FakeServices(folder)).openapi()["paths"]
    return [
        (method, path, operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
        if "202" in operation["responses"] and (method, path) != NO_JOB
    ]


def ask(
    http: TestClient, method: str, path: str, key: str, change: str = "", **more: object
) -> httpx.Response:
    filled = path.format(
        name="hello", action="restart", snapshot="one", framework="openclaw", job_id="j0"
    )
    body = BODIES.get(path) if method != "delete" else None
    if change:
        filled += f"?{change}"
    return http.request(
        method.upper(), filled, headers={"Idempotency-Key": key}, json=body, **more  # type: ignore[arg-type]
    )  # fmt: skip


def test_every_route_that_begins_a_job_takes_a_key(tmp_path: Path) -> None:
    found = routes(tmp_path)
    assert len(found) == 17
    for method, path, operation in found:
        names = [one["name"] for one in operation["parameters"]]
        assert "idempotency-key" in names, (method, path)


def test_the_same_request_gives_the_same_job_and_another_is_refused(
    http: TestClient, services: Services, tmp_path: Path
) -> None:
    services.add("deploy", "failed")
    for number, (method, path, _) in enumerate(routes(tmp_path)):
        key = f"key {number}"
        first = ask(http, method, path, key)
        assert first.status_code == 202, (method, path, first.text)
        made = len(services.kept)
        again = ask(http, method, path, key)
        assert (again.status_code, len(services.kept)) == (202, made), (method, path)
        assert again.json() == first.json()
        assert again.headers["location"] == first.headers["location"]
        other = ask(http, method, path, f"{key} b")
        assert other.json()["job"]["id"] != first.json()["job"]["id"], (method, path)
        made = len(services.kept)
        refused = ask(http, method, path, key, change="x=1")
        assert (refused.status_code, len(services.kept)) == (422, made)
        assert refused.json()["code"] == "invalid_input"
        assert "already used for another request" in refused.json()["detail"]


def test_each_part_of_a_request_counts(http: TestClient, services: Services) -> None:
    headers = {"Idempotency-Key": "k"}
    first = http.post("/api/agents/deploy", json={"name": "a"}, headers=headers)
    assert first.status_code == 202
    for method, path, body in (
        ("POST", "/api/agents/deploy", {"name": "b"}),
        ("POST", "/api/agents/deploy", {"name": "a", "source": "build"}),
        ("POST", "/api/agents/hello/stop", None),
        ("DELETE", "/api/agents/hello", None),
    ):
        answer = http.request(method, path, json=body, headers=headers)
        assert answer.status_code == 422, (method, path, body)
    assert len(services.kept) == 1


def test_without_a_key_each_request_is_its_own(http: TestClient, services: Services) -> None:
    for headers in ({}, {"Idempotency-Key": ""}):
        for _ in range(2):
            http.post("/api/agents/hello/snapshots", headers=headers)
    assert (len(services.kept), services.accepted) == (4, {})


def test_a_request_that_was_refused_may_be_sent_again(http: TestClient) -> None:
    headers = {"Idempotency-Key": "k"}
    assert http.post("/api/agents/nobody/stop", headers=headers).status_code == 404
    assert http.post("/api/agents/hello/stop", headers=headers).status_code == 202
    long = {"Idempotency-Key": "k" * 300}
    answer = http.post("/api/agents/deploy", json={"name": "a"}, headers=long)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


class Slow(LiveServices):
    """Looks at a request for a while, as somebody does who asks Incus."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, {})
        self.looks = 0

    async def start_deploy(self, spec: AgentSpec) -> Job:
        self.looks += 1
        await asyncio.sleep(0.05)
        return await super().start_deploy(spec)


async def test_two_at_once_are_one_and_a_restart_forgets_nothing(tmp_path: Path) -> None:
    services = Slow(tmp_path)
    headers = {"Authorization": f"Bearer {services.token}", "Idempotency-Key": "k"}

    async def deploy(of: LiveServices) -> httpx.Response:
        transport = httpx.ASGITransport(create_api(of))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers
        ) as http:
            return await http.post("/api/agents/deploy", json={"name": "waits"})

    app = httpx.ASGITransport(create_api(services))
    async with httpx.AsyncClient(
        transport=app, base_url="http://localhost", headers=headers
    ) as http:
        answers = await asyncio.gather(
            *(http.post("/api/agents/deploy", json={"name": "waits"}) for _ in range(3))
        )
    assert [one.status_code for one in answers] == [202] * 3
    [job_id] = {one.json()["job"]["id"] for one in answers}
    assert services.looks == 1
    await services.jobs.stop()
    services.database.close()
    second = LiveServices(tmp_path, {})
    second.jobs.start()
    assert (await deploy(second)).json()["job"]["id"] == job_id
    second.go_on.set()
    await second.jobs.wait_job(job_id)
    again = (await deploy(second)).json()["job"]
    assert (again["id"], again["state"]) == (job_id, "succeeded"), "the job as it is now"
    second.database.close()
