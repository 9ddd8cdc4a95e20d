"""Every route and command that takes an agent's name looks it up alike.

They are listed from the router and from the command line, so a new one cannot be left out: it is
either asked here or named below as one that takes something else's name.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import BaseRoute
from websockets.sync.client import connect

from tests.deploy.world import with_image
from tests.documents import all_commands, find_command, is_group
from tests.fakes.fake_incus import FakeIncus
from tests.unit.api.fake_services import FakeServices
from tests.web.world import WebTaos
from tinyagentos import wire
from tinyagentos.agents.order import AGENT_KEY
from tinyagentos.api.app import create_api
from tinyagentos.api.serve import serve
from tinyagentos.cli import main

WITHIN = 30.0
AGENT = "hello"
# Names in bodies that are no existing agent's: of a new one, of a snapshot, of a provider.
OTHER_NAMES = {"NewAgent", "NewSnapshot", "NewProvider"}
BODIES: dict[str, object] = {
    "AgentChange": {"title": "a title"},
    "Network": {"policy": "none"},
    "ModelChoice": {"models": [], "monthly_tokens": 7},
    "Question": {"message": "hi"},
    "ExportAgent": {"name": AGENT, "path": "/tmp/is-never-written.taos"},
    "NewSnapshot": None,
}
VALUES = {"{name}": AGENT, "{snapshot}": "a-snapshot"}
# Arguments of commands that name something else than an agent that is there.
OTHER_HELP = {
    "The new agent's name.", "Another name for the agent.", "What to call it.",
    "The state's name, as `kept` lists it.", "The snapshot's name.",
}  # fmt: skip
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "network": ("none",),
    "restore": ("a-snapshot",),
    "drop-snapshot": ("a-snapshot",),
    "chat": ("hi",),
    "set": ("--title", "a title"),
    "delete": ("--yes",),
    "export": ("--to", "/tmp/is-never-written.taos"),
}


def find_routes(folder: Path) -> Iterator[tuple[str, str, object]]:
    """Method, path and body of every request that takes the name of an agent that is there."""
    app = create_api(FakeServices(folder))
    contract = app.openapi()
    for path, methods in contract["paths"].items():
        for method, operation in methods.items():
            schema = _body_schema(operation)
            takes = "/agents/{name}" in path
            if schema and "name" in contract["components"]["schemas"][schema]["properties"]:
                takes = takes or schema not in OTHER_NAMES
            if takes:
                body = BODIES[schema] if schema else None
                for filled in _fill(path, operation, contract):
                    yield method.upper(), filled, body
    for route in _walk(app.routes):
        if isinstance(route, APIWebSocketRoute) and "/agents/{name}" in route.path:
            yield "WS", route.path.replace("{name}", AGENT), None
        if isinstance(route, APIRoute) and not route.include_in_schema:
            assert "/agents/" not in route.path, route.path


def _walk(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """The routes, those of included routers too."""
    for one in routes:
        inner = getattr(one, "original_router", None)
        yield from _walk(inner.routes) if inner else (one,)


def _body_schema(operation: dict[str, Any]) -> str:
    """The name of the schema of the operation's JSON body; empty: it has none."""
    content = operation.get("requestBody", {}).get("content", {})
    found = re.search(r"schemas/(\w+)", json.dumps(content.get("application/json", {})))
    return found[1] if found else ""


def _fill(path: str, operation: dict[str, Any], contract: dict[str, Any]) -> Iterator[str]:
    for written, value in VALUES.items():
        path = path.replace(written, value)
    chosen = re.search(r"{(\w+)}", path)
    if not chosen:
        yield path
        return
    [parameter] = [one for one in operation["parameters"] if one["name"] == chosen[1]]
    kind = parameter["schema"]["$ref"].rpartition("/")[2]
    for value in contract["components"]["schemas"][kind]["enum"]:
        yield path.replace(chosen[0], value)


def find_agent_commands() -> Iterator[tuple[str, ...]]:
    """Every command that takes the name of an agent that is there, with all it needs."""
    for path in all_commands():
        if path[0] != "agent" or is_group(path):
            continue
        for one in find_command(path)[0].params:
            help_text = str(getattr(one, "help", ""))
            if one.name in {"name", "names", "agent", "called", "snapshot"}:
                is_agents = re.fullmatch(r"The agents?'s? names?\.", help_text)
                assert is_agents or help_text in OTHER_HELP, (path, help_text)
                if is_agents:
                    yield (*path, AGENT, *ARGUMENTS.get(path[-1], ()))


ROUTES = list(find_routes(Path("/nonexistent")))
COMMANDS = list(find_agent_commands())


class Served:
    """with Served(folder) as server: ... The API of a taOS on the fake Incus, in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ready = threading.Event()
        self._failed: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(WITHIN)
        if self._failed:
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join(WITHIN)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._failed = error
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with FakeIncus(self.folder / "incus.sock") as self.fake:
            with_image(self.fake)
            self.taos = WebTaos(self.folder, self.fake, port=0)
            self.taos.start()
            await self.taos.deploy(AGENT)
            await self.taos.deploy("other")
            self._serving = asyncio.ensure_future(
                serve(create_api(self.taos), self.taos.settings, on_started=self._note)
            )
            try:
                await self._serving
            finally:
                await self.taos.interfaces.close()
                await self.taos.http.close()
                await self.taos.close()

    def _note(self, address: str) -> None:
        self.address = address
        self._ready.set()

    def make_twins(self) -> list[str]:
        """Have both instances be the agent; their names."""
        for one in self.fake.project().instances.values():
            one.json["config"][AGENT_KEY] = AGENT
        # Incus tells this by an event, which the fake does not send for what a test changes.
        self.taos.host.watch._stale = True
        return sorted(self.fake.project().instances)

    def ask(self, method: str, path: str, body: object) -> tuple[int, dict[str, str]]:
        """The status of the answer and the problem in it; a WebSocket's problem has no status."""
        given = {"Authorization": f"Bearer {self.taos.token}"}
        if method == "WS":
            address = self.address.replace("http", "ws", 1) + path
            with connect(address, additional_headers=given, proxy=None) as socket:
                return 0, json.loads(socket.recv(WITHIN))
        answer = httpx.request(method, self.address + path, json=body, headers=given)
        problem = answer.json()
        return answer.status_code, {**problem, "message": problem.get("detail", "")}

    def seen(self) -> object:
        """What a refused request must not change."""
        there = {name: dict(one.json["config"]) for name, one in
                 self.fake.project().instances.items()}  # fmt: skip

        async def count_jobs() -> int:
            return len(self.taos.runner.list_jobs())

        counting = asyncio.run_coroutine_threadsafe(count_jobs(), self._loop)
        return there, counting.result(WITHIN)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A taOS in which two instances are one agent."""
    with Served(tmp_path_factory.mktemp("one")) as server:
        server.twins = server.make_twins()  # type: ignore[attr-defined]
        server.taos.settings.token_file.write_text(server.taos.token)
        yield server


@pytest.fixture
def words(served: Served) -> tuple[str, str]:
    """The sentence and the hint that everybody is to say."""
    first, second = served.make_twins()
    sentence = f"The agent 'hello' is several instances: {first}, {second}."
    return sentence, served.ask("GET", f"/api/agents/{AGENT}", None)[1]["hint"]


def test_the_list_is_whole() -> None:
    """The routes and commands that were there when this was written are found."""
    assert len(ROUTES) >= 21
    assert len(COMMANDS) >= 17
    assert {"WS", "GET", "PUT", "PATCH", "POST", "DELETE"} == {method for method, *_ in ROUTES}


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=lambda one: str(one)[:60])
def test_a_name_of_several_instances_is_refused_by_every_route(
    served: Served, words: tuple[str, str], method: str, path: str, body: object
) -> None:
    before = served.seen()
    status, problem = served.ask(method, path, body)
    assert (problem["code"], problem["message"], problem["hint"]) == ("conflict", *words)
    assert status in ({0} if method == "WS" else {409})
    assert served.seen() == before


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=lambda one: str(one)[:60])
def test_a_name_of_no_agent_is_refused_by_every_route(
    served: Served, method: str, path: str, body: object
) -> None:
    if isinstance(body, dict) and body.get("name") == AGENT:
        body = {**body, "name": "nobody"}
    _, problem = served.ask(method, path.replace(AGENT, "nobody"), body)
    said = ("not_found", "There is no agent 'nobody'.", "`taos agent list` shows the agents.")
    assert (problem["code"], problem["message"], problem["hint"]) == said


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_name_of_several_instances_is_refused_by_every_command(
    served: Served,
    words: tuple[str, str],
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TAOS_DATA_DIR", str(served.folder))
    monkeypatch.setenv("TAOS_RUN_DIR", str(served.folder))
    monkeypatch.setattr(sys, "argv", ["taos", *command])
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi"))
    before = served.seen()
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert (ended.value.code, said) == (1, f"taos: {words[0]}\n  hint: {words[1]}\n")
    assert served.seen() == before


def test_the_list_shows_both_and_why_nothing_is_done(
    served: Served, words: tuple[str, str]
) -> None:
    answer = httpx.get(
        f"{served.address}/api/agents", headers={"Authorization": f"Bearer {served.taos.token}"}
    )
    listed = [wire.Agent.model_validate(one) for one in answer.json()]
    assert [(one.name, one.reason) for one in listed] == [(AGENT, words[0])] * 2
    assert sorted(one.instance for one in listed) == served.make_twins()
    assert "incus --project taos config set INSTANCE user.taos.agent=NAME" in words[1]
