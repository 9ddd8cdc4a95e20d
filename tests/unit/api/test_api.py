"""The API over services in memory: the contract, errors, and who may call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.unit.api.fake_services import FakeServices
from tinyagentos.api.app import create_api
from tinyagentos.api.errors import STATUS
from tinyagentos.api.hosts import LOCAL, HostNames
from tinyagentos.config import Settings
from tinyagentos.incus import IncusUnreachable
from tinyagentos.model.agent import Agent
from tinyagentos.model.errors import ALL_ERRORS
from tinyagentos.model.job import JobState, Problem


@pytest.fixture
def services(tmp_path: Path) -> FakeServices:
    return FakeServices(tmp_path)


@pytest.fixture
def http(services: FakeServices) -> Iterator[TestClient]:
    headers = {"Authorization": f"Bearer {services.token}"}
    client = TestClient(
        create_api(services),
        base_url="http://localhost",
        headers=headers,
        raise_server_exceptions=False,
    )
    with client:
        yield client


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["detail"]
    assert problem["hint"]


def test_health_needs_no_token_and_the_rest_does(http: TestClient) -> None:
    del http.headers["Authorization"]
    assert http.get("/api/health").json()["status"] == "ok"
    for path in ("/api/ready", "/api/agents", "/api/openapi.json", "/metrics", "/nothing"):
        assert_problem(http.get(path), 401, "unauthorized")
    assert http.get("/api/agents").headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("token", ["", "wrong", "secret-toke", "secret-token2", "ä"])
def test_a_wrong_token_is_refused(http: TestClient, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}".encode()}
    assert_problem(http.get("/api/agents", headers=headers), 401, "unauthorized")


@pytest.mark.parametrize("host", ["evil.test", "localhost.evil.test", "", "127.0.0.1.evil.test"])
def test_another_host_name_is_refused(http: TestClient, host: str) -> None:
    assert_problem(http.get("/api/health", headers={"Host": host}), 401, "unauthorized")


@pytest.mark.parametrize("host", ["localhost:8420", "127.0.0.1", "[::1]:8420"])
def test_our_own_host_names_are_fine(http: TestClient, host: str) -> None:
    assert http.get("/api/health", headers={"Host": host}).status_code == 200


def test_ready_lists_what_is_missing(http: TestClient, services: FakeServices) -> None:
    assert http.get("/api/ready").status_code == 200
    services.problems = (Problem("host_not_ready", "No pool.", "Run setup."),)
    answer = http.get("/api/ready")
    assert answer.status_code == 503
    assert answer.json()["missing"] == [
        {"code": "host_not_ready", "message": "No pool.", "hint": "Run setup."}
    ]


def test_a_deploy_is_accepted_with_its_address(http: TestClient, services: FakeServices) -> None:
    body = {"name": "hello", "memory": "1.5GiB", "cpu": 2, "disk": 10**10, "source": "build"}
    answer = http.post("/api/agents/deploy", json=body)
    assert answer.status_code == 202
    job = answer.json()["job"]
    assert answer.headers["location"] == f"/api/jobs/{job['id']}"
    spec = services.specs[0]
    assert (spec.memory_bytes, spec.cpus, spec.disk_bytes) == (1610612736, 2, 10**10)


def test_the_job_is_as_the_contract_has_it(http: TestClient, services: FakeServices) -> None:
    services.add("deploy", "hello")
    assert set(http.get("/api/jobs/j0").json()) == {
        "id", "kind", "subject", "state", "source", "source_reason", "attempt", "steps",
        "created_at", "started_at", "finished_at", "error", "expected_seconds",
    }  # fmt: skip
    assert set(http.get("/api/jobs").json()[0]["steps"][0]) == {
        "name", "state", "started_at", "seconds", "done_bytes", "total_bytes", "detail",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": ""}, 422, "invalid_input"),
        ({"name": "x" * 200}, 422, "invalid_input"),
        ({"name": "x" * 2000}, 422, "invalid_input"),
        ({"name": "../x"}, 422, "invalid_input"),
        ({"name": "Hello"}, 422, "invalid_input"),
        ({"name": "a b"}, 422, "invalid_input"),
        ({"name": "\N{GRINNING FACE}"}, 422, "invalid_input"),
        ({"name": "a\x00"}, 422, "invalid_input"),
        ({"name": None}, 422, "invalid_input"),
        ({"name": 7}, 422, "invalid_input"),
        ({}, 422, "invalid_input"),
        ([], 422, "invalid_input"),
        ("name", 422, "invalid_input"),
        ({"name": "ok", "framework": "nothing"}, 422, "invalid_input"),
        ({"name": "ok", "memory": -1}, 422, "invalid_input"),
        ({"name": "ok", "memory": "lots"}, 422, "invalid_input"),
        ({"name": "ok", "memory": 1e400}, 422, "invalid_input"),
        ({"name": "ok", "cpu": "two"}, 422, "invalid_input"),
        ({"name": "ok", "source": "magic"}, 422, "invalid_input"),
        ({"name": "ok", "colour": "red"}, 422, "invalid_input"),
        ({"name": "taken"}, 409, "conflict"),
        ({"name": "full"}, 507, "no_space"),
        ({"name": "away"}, 503, "host_not_ready"),
    ],
)
def test_what_cannot_be_deployed_is_a_sentence_and_a_hint(
    http: TestClient, body: object, status: int, code: str
) -> None:
    content = json.dumps(body).replace("Infinity", "1e999")
    answer = http.post(
        "/api/agents/deploy", content=content, headers={"Content-Type": "application/json"}
    )
    assert_problem(answer, status, code)


@pytest.mark.parametrize(
    "content",
    [b"{not json", b"", b"\xff\xfe", b'{"name": "\\ud800"}', b"[" * 5000, b"null"],
    ids=["no JSON", "nothing", "no UTF-8", "half a character", "deep", "null"],
)
def test_a_body_that_is_no_object_is_refused(http: TestClient, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = http.post("/api/agents/deploy", content=content, headers=headers)
    assert answer.status_code in (400, 422)
    assert_problem(answer, answer.status_code, "invalid_input")


def test_a_large_body_is_refused(http: TestClient) -> None:
    answer = http.post("/api/agents/deploy", content=b"x" * 100_000)
    assert_problem(answer, 413, "invalid_input")


def test_an_unexpected_error_tells_nothing_of_itself(http: TestClient) -> None:
    answer = http.post("/api/agents/deploy", json={"name": "boom"})
    assert_problem(answer, 500, "internal")
    assert "secret detail" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/agents/nobody", 404),
        ("DELETE", "/api/agents/nobody", 404),
        ("POST", "/api/agents/nobody/start", 404),
        ("GET", "/api/agents/nobody/logs", 404),
        ("POST", "/api/agents/hello/dance", 422),
        ("GET", "/api/agents/hello/logs?lines=0", 422),
        ("GET", "/api/jobs/nothing", 404),
        ("GET", "/api/jobs/nothing/events", 404),
        ("POST", "/api/jobs/nothing/cancel", 404),
        ("GET", "/api/nothing", 404),
        ("PUT", "/api/agents", 405),
    ],
)
def test_what_is_not_there_is_said(http: TestClient, method: str, path: str, status: int) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["hint"]


def test_power_and_delete_begin_jobs(http: TestClient) -> None:
    for method, path, kind in (
        ("POST", "/api/agents/hello/start", "start"),
        ("POST", "/api/agents/hello/stop", "stop"),
        ("POST", "/api/agents/hello/restart", "restart"),
        ("DELETE", "/api/agents/hello", "delete"),
    ):
        answer = http.request(method, path)
        assert (answer.status_code, answer.json()["job"]["kind"]) == (202, kind)


def test_lists_and_logs(http: TestClient) -> None:
    assert http.get("/api/agents").json()[0]["state"] == "ready"
    assert http.get("/api/agents/hello").json()["instance"] == "hello-abcdef"
    assert http.get("/api/agents/hello/logs?lines=1").text == "two\n"
    assert http.get("/api/images").json()[0]["state"] == "absent"
    assert http.get("/api/frameworks").json()[0]["expected_seconds"] == {
        "image": 12.0, "build": None
    }  # fmt: skip


def test_a_job_is_cancelled_and_retried(http: TestClient, services: FakeServices) -> None:
    services.add("deploy", "a", JobState.running)
    assert http.post("/api/jobs/j0/cancel").json()["job"]["state"] == "cancelled"
    assert_problem(http.post("/api/jobs/j0/cancel"), 409, "conflict")
    assert http.post("/api/jobs/j0/retry").headers["location"] == "/api/jobs/j1"


def test_the_events_of_a_job_end_with_its_final_state(
    http: TestClient, services: FakeServices
) -> None:
    services.add("deploy", "a")
    answer = http.get("/api/jobs/j0/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [json.loads(one)["state"] for one in data] == ["running", "succeeded"]


def test_metrics_count_jobs(http: TestClient, services: FakeServices) -> None:
    services.add("deploy", "a")
    assert 'taos_jobs{state="succeeded"} 1' in http.get("/metrics").text


def test_every_error_has_a_status() -> None:
    assert {error.code for error in ALL_ERRORS} == set(STATUS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
BODY = st.dictionaries(
    st.sampled_from(["name", "framework", "source", "memory", "cpu", "disk", "model", "x"]), JSON
)


@hypothesis_settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=BODY | JSON)
def test_no_body_whatever_makes_the_server_fail(http: TestClient, body: object) -> None:
    answer = http.post("/api/agents/deploy", content=json.dumps(body).encode())
    assert answer.status_code in (202, 400, 409, 422)


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b'{"name": "a", "\\ud800": 1}', "application/json", 422),
        (b'{"name": "a", "memory": 1' + b"0" * 5000 + b"}", "application/json", 400),
        (b'{"name": "a", "memory": 1' + b"0" * 4000 + b"}", "application/json", 422),
        (b'{"name": "a", "memory": NaN}', "application/json", 422),
        (b'{"name": "a", "cpu": -Infinity}', "application/json", 422),
        (b'{"name": "a", "name": 7}', "application/json", 422),
        (b'{"name": "a"}', "text/plain", 422),
        (b"name=a", "application/x-www-form-urlencoded", 422),
        (b'{"name": "a"}', "application/json; charset=utf-7", 202),
        (b'{"name": "a"}', "\xff", 422),
        (b'{"a":' * 5000, "application/json", 400),
    ],
)
def test_strange_bodies_are_the_callers_fault(
    http: TestClient, content: bytes, content_type: str, status: int
) -> None:
    headers = {"Content-Type": content_type.encode("latin-1")}
    answer = http.post("/api/agents/deploy", content=content, headers=headers)
    if status == 202:
        assert answer.status_code == 202
    else:
        assert_problem(answer, status, "invalid_input")
        assert answer.json()["message"] == answer.json()["detail"]


@pytest.mark.parametrize("part", ["%00", "%ff", "%2e%2e", "%F0%9F%98%80", "a" * 3000, "%20"])
@pytest.mark.parametrize("route", ["/api/agents/{}", "/api/jobs/{}", "/api/{}"])
def test_strange_paths_are_not_found(http: TestClient, route: str, part: str) -> None:
    assert_problem(http.get(route.format(part)), 404, "not_found")


def test_the_field_is_named(http: TestClient) -> None:
    answer = http.post("/api/agents/deploy", json={"name": "a", "memory": "lots"})
    assert answer.json()["detail"].startswith("`memory` cannot be used: give bytes, or a size")


def test_a_method_that_is_not_there_says_which_are(http: TestClient) -> None:
    answer = http.put("/api/agents")
    assert_problem(answer, 405, "invalid_input")
    assert answer.headers["allow"] == "GET"


def test_an_unexpected_error_is_logged_once(
    http: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    http.post("/api/agents/deploy", json={"name": "boom"})
    assert [record.message for record in caplog.records if record.exc_info] == ["request failed"]


def test_metrics_are_told_while_incus_is_away(http: TestClient, services: FakeServices) -> None:
    assert 'taos_agents{state="ready"} 1' in http.get("/metrics").text

    async def fail() -> tuple[Agent, ...]:
        raise IncusUnreachable("no such file")

    services.list_agents = fail  # type: ignore[method-assign] # Incus goes away
    told = http.get("/metrics").text
    assert "taos_incus_up 0" in told
    assert "taos_agents" not in told
    assert 'taos_jobs{state="failed"} 0' in told


def test_the_contract_documents_every_route_and_its_errors(http: TestClient) -> None:
    contract = http.get("/api/openapi.json").json()
    assert {"/api/health", "/api/agents/deploy", "/api/jobs/{job_id}/events"} <= set(
        contract["paths"]
    )
    for path, operations in contract["paths"].items():
        for method, operation in operations.items():
            assert operation.get("description"), f"{method} {path}"
            for code in ("4XX", "5XX"):
                assert "application/problem+json" in operation["responses"][code]["content"]


@pytest.mark.parametrize(
    ("configured", "host", "status"),
    [
        ("fd00::5", "[fd00::5]:8420", 200),
        ("server.lan", "Server.lan:8420", 200),
        ("server.lan", "other.lan", 401),
        ("0.0.0.0", "whatever.lan", 401),
        ("0.0.0.0", "0.0.0.0.evil.test", 401),
        ("0.0.0.0", "192.168.1.20:8420", 200),
        ("::", "[fd00::5]:8420", 200),
        ("::", "fd00.evil.test", 401),
        ("127.0.0.1", "[::1", 200),
        ("127.0.0.1", "]", 401),
        ("0.0.0.0", "Box:8420", 200),
        ("0.0.0.0", "box.local", 200),
        ("0.0.0.0", "box.local.", 200),
        ("0.0.0.0", "box.home.arpa:8420", 200),
        ("127.0.0.1", "box.home.arpa", 200),
        ("0.0.0.0", "tea.example", 200),
        ("0.0.0.0", "two.example:1", 200),
        ("0.0.0.0", "x.tea.example", 401),
        ("0.0.0.0", "", 401),
        ("0.0.0.0", ".local", 401),
    ],
)
def test_the_configured_host_name_is_ours_too(
    services: FakeServices, configured: str, host: str, status: int
) -> None:
    services.settings = Settings(host=configured, names="Tea.example, two.example,")
    app = create_api(services, hostname="box.home.arpa")
    with TestClient(app, base_url="http://localhost") as http:
        assert http.get("/api/health", headers={"Host": host}).status_code == status


def test_a_machine_without_a_name_adds_none() -> None:
    assert HostNames.of(Settings(host="0.0.0.0"), "").names == LOCAL


def test_who_uses_another_name_sees_a_page(services: FakeServices) -> None:
    with TestClient(create_api(services), base_url="http://localhost") as http:
        told = {"Host": "<b>.example:8420", "Accept": "text/html,*/*"}
        page = http.get("/agents/hello", headers=told)
        assert (page.status_code, page.headers["content-type"][:9]) == (421, "text/html")
        assert "&lt;b&gt;.example" in page.text
        assert "<b>" not in page.text
        assert "names = " in page.text
        assert_problem(http.get("/api/agents", headers=told), 401, "unauthorized")
        assert_problem(http.post("/login", headers=told), 401, "unauthorized")


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/api/agents/hello/upgrade", "upgrade"),
        ("POST", "/api/agents/hello/undo", "undo upgrade"),
        ("POST", "/api/agents/hello/snapshots", "snapshot"),
        ("POST", "/api/agents/hello/snapshots/one/restore", "restore"),
        ("DELETE", "/api/agents/hello/snapshots/one", "delete snapshot"),
        ("POST", "/api/images/openclaw/download", "download image"),
    ],
)
def test_what_begins_a_job_says_where_it_is(
    http: TestClient, method: str, path: str, kind: str
) -> None:
    answer = http.request(method, path)
    assert answer.status_code == 202
    job = answer.json()["job"]
    assert (job["kind"], answer.headers["location"]) == (kind, f"/api/jobs/{job['id']}")
    other = path.replace("hello", "none").replace("openclaw", "none")
    assert http.request(method, other).status_code in (404, 422)


def test_what_came_of_a_download_is_discarded(http: TestClient, services: FakeServices) -> None:
    assert http.delete("/api/images/openclaw/download").status_code == 204
    assert services.discarded == ["openclaw"]
    assert_problem(http.delete("/api/images/none/download"), 422, "invalid_input")


def test_all_agents_are_upgraded_by_one_job(http: TestClient) -> None:
    answer = http.post("/api/agents/upgrade")
    assert (answer.status_code, answer.json()["job"]["kind"]) == (202, "upgrade all")


def test_snapshots_and_images_can_be_listed_and_removed(http: TestClient) -> None:
    assert http.get("/api/agents/hello/snapshots").json()[0]["name"] == "one"
    assert http.delete("/api/images/openclaw").status_code == 204
    assert_problem(http.delete("/api/images/none"), 404, "not_found")
