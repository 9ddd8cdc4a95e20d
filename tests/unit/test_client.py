"""The client against a real server: both ways in, typed errors, a server that comes and goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.unit.api.live import LiveServer, live_server
from tinyagentos import wire
from tinyagentos.client import Client, web_address
from tinyagentos.config import Settings
from tinyagentos.model.agent import AgentState
from tinyagentos.model.errors import (
    Conflict,
    HostNotReady,
    InvalidInput,
    NoSpace,
    NotFound,
    TaosError,
    Unauthorized,
)
from tinyagentos.model.job import JobState, StepState


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(tmp_path) as serving:
        yield serving


@pytest.fixture
def client(server: LiveServer) -> Client:
    return Client.connect(server.settings)


def run(client: Client, job: wire.Job) -> wire.Job:
    *_, last = client.watch(job.id)
    return last


def test_the_life_of_an_agent(client: Client) -> None:
    assert client.health().status == "ok"
    assert client.ready().ready
    assert client.frameworks()[0].name == "openclaw"
    assert client.images()[0].framework == "openclaw"
    job = run(client, client.deploy(wire.NewAgent(name="hello")))
    assert (job.state, job.source) == (JobState.succeeded, "build")
    assert {step.state for step in job.steps} == {StepState.succeeded}
    assert client.agent("hello").state is AgentState.ready
    assert list(client.logs("hello", follow=False, lines=1)) == ["two"]
    for action, state in (("stop", AgentState.stopped), ("start", AgentState.ready)):
        assert run(client, client.power("hello", action)).state is JobState.succeeded
        assert client.agents()[0].state is state
    assert run(client, client.delete("hello")).state is JobState.succeeded
    assert client.agents() == []
    assert [job.kind for job in client.jobs()] == ["delete", "start", "stop", "deploy"]


def test_a_failed_job_has_its_reason_and_is_tried_again(client: Client) -> None:
    job = run(client, client.deploy(wire.NewAgent(name="fails")))
    assert job.error == wire.Problem(
        code="not_ready", message="The agent did not answer.", hint="Read its log."
    )
    again = client.retry(job.id)
    assert again.id != job.id
    assert run(client, again).state is JobState.failed


def test_a_job_is_cancelled(client: Client) -> None:
    job = client.deploy(wire.NewAgent(name="waits"))
    client.cancel(job.id)
    assert run(client, job).state is JobState.cancelled
    with pytest.raises(Conflict):
        client.cancel(job.id)


def test_the_same_key_gives_the_same_job(client: Client) -> None:
    first = client.deploy(wire.NewAgent(name="waits"), idempotency_key="k1")
    assert client.deploy(wire.NewAgent(name="waits"), idempotency_key="k1").id == first.id
    with pytest.raises(Conflict):
        client.deploy(wire.NewAgent(name="waits"), idempotency_key="k2")


def test_a_key_of_another_request_is_refused(client: Client) -> None:
    client.deploy(wire.NewAgent(name="waits"), idempotency_key="k1")
    with pytest.raises(InvalidInput, match="already used for another request"):
        client.deploy(wire.NewAgent(name="other"), idempotency_key="k1")


def test_what_begins_a_job_is_sent_again_under_one_key_when_its_answer_is_lost() -> None:
    seen: list[tuple[str, str]] = []

    def lose_two(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.path, request.headers["idempotency-key"]))
        if len(seen) == 1:
            raise httpx.ReadError("the connection broke")
        if len(seen) == 2:
            raise httpx.ConnectError("the server restarts")
        return httpx.Response(409, json={"title": "x", "status": 409, "detail": "No.",
                                         "code": "conflict", "hint": "h"})  # fmt: skip

    keys = iter(("one", "two"))
    http = httpx.Client(transport=httpx.MockTransport(lose_two), base_url="http://taos")
    client = Client(http, sleep=lambda _: None, new_key=lambda: next(keys))
    with pytest.raises(Conflict):
        client.power("hello", "stop")
    assert seen == [("/api/agents/hello/stop", "one")] * 3
    with pytest.raises(Conflict):
        client.upgrade_all()
    assert seen[3] == ("/api/agents/upgrade", "two")


@pytest.mark.parametrize("error", [httpx.ConnectError("no"), httpx.ReadError("broke")])
def test_what_begins_a_job_is_not_sent_for_ever(error: httpx.TransportError) -> None:
    now, sent = 0.0, 0

    def lose(request: httpx.Request) -> httpx.Response:
        nonlocal sent
        sent += 1
        raise error

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    http = httpx.Client(transport=httpx.MockTransport(lose), base_url="http://taos")
    client = Client(http, sleep=sleep, clock=lambda: now, patience=5)
    with pytest.raises(HostNotReady):
        client.delete("hello")
    assert sent == 1 if isinstance(error, httpx.ConnectError) else 20 < sent < 30


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("Bad Name", InvalidInput),
        ("full", NoSpace),
        ("away", HostNotReady),
        ("boom", TaosError),
    ],
)
def test_an_error_is_raised_as_its_own_kind(
    client: Client, name: str, error: type[TaosError]
) -> None:
    with pytest.raises(error) as caught:
        client.deploy(wire.NewAgent(name=name))
    assert type(caught.value) is error
    assert caught.value.message
    assert caught.value.hint


NAMES = ["nobody", "..", "../..", "a/b", "x/logs", "", "\N{GRINNING FACE}", "a?b#c", "\0"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_that_is_no_agents_is_not_found(client: Client, name: str) -> None:
    with pytest.raises(NotFound):
        client.agent(name)
    with pytest.raises(NotFound):
        list(client.logs(name, follow=True, lines=5))
    with pytest.raises(NotFound):
        list(client.watch(name))


def test_over_the_address_the_token_file_is_used(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    no_socket = server.settings.model_copy(update={"run_dir": server.folder / "none"})
    assert Client.connect(no_socket).agents() == []
    no_socket.token_file.write_text("wrong\n")
    with pytest.raises(Unauthorized):
        Client.connect(no_socket).agents()


def test_where_no_server_ever_was_it_says_what_to_start(tmp_path: Path) -> None:
    with pytest.raises(HostNotReady, match="does not run") as caught:
        Client.connect(Settings(data_dir=tmp_path, run_dir=tmp_path))
    assert "taos up" in caught.value.hint


def test_a_server_that_ended_is_said(server: LiveServer, tmp_path: Path) -> None:
    client = Client.connect(server.settings)
    client.health()
    server.__exit__()
    try:
        with pytest.raises(HostNotReady, match="does not run"):
            client.agents()
        with pytest.raises(HostNotReady, match="does not run"):
            Client.connect(server.settings).agents()
    finally:
        server.__enter__()


def test_watching_goes_on_when_the_server_comes_back(server: LiveServer) -> None:
    client = Client.connect(server.settings)
    job = client.deploy(wire.NewAgent(name="waits"))
    seen = client.watch(job.id)
    assert next(seen).is_active
    server.__exit__()
    threading.Timer(0.3, server.__enter__).start()
    states = []
    for value in seen:
        states.append(value.state)
        if value.attempt == 2 and value.is_active:
            server.call(server.services.go_on.set)
    assert states[-1] is JobState.succeeded


def test_watching_ends_when_the_server_stays_away() -> None:
    now = 0.0

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody is there")

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    http = httpx.Client(transport=httpx.MockTransport(refuse), base_url="http://taos")
    client = Client(http, sleep=sleep, clock=lambda: now, patience=5)
    with pytest.raises(HostNotReady):
        list(client.watch("j1"))
    assert 5 < now < 6


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(502, text="<h1>Bad gateway</h1>"), "answered 502"),
        (httpx.Response(200, json={"what": "ever"}), "cannot be understood"),
        (httpx.Response(200, text="hello"), "cannot be understood"),
    ],
)
def test_somebody_elses_answer_is_an_error_with_a_hint(answer: httpx.Response, said: str) -> None:
    http = httpx.Client(transport=httpx.MockTransport(lambda _: answer), base_url="http://taos")
    with pytest.raises(TaosError, match=said) as caught:
        Client(http).agents()
    assert caught.value.hint


def test_a_server_that_is_silent_is_not_called_absent() -> None:
    def be_silent(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("nothing came")

    http = httpx.Client(transport=httpx.MockTransport(be_silent), base_url="http://taos")
    with pytest.raises(HostNotReady, match="in time"):
        Client(http).agents()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8420"),
        ("0.0.0.0", "http://127.0.0.1:8420"),
        ("::", "http://[::1]:8420"),
        ("fd00::5", "http://[fd00::5]:8420"),
        ("server.lan", "http://server.lan:8420"),
    ],
)
def test_the_address_for_this_host(host: str, address: str) -> None:
    assert web_address(Settings(host=host)) == address
