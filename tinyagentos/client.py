"""Client of our own API: over the server's Unix socket, else over TCP with the token."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlencode

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError
from websockets.exceptions import InvalidHandshake
from websockets.sync.client import connect, unix_connect
from websockets.sync.connection import Connection

from tinyagentos import wire
from tinyagentos.config import Settings
from tinyagentos.model.errors import ALL_ERRORS, HostNotReady, TaosError, Unauthorized
from tinyagentos.model.image import ImagePolicy

WITHIN = 30.0
PATIENCE = 60.0
RECONNECT = 0.2
# Longer than the time between two signs of life on a stream of events.
SILENCE = 60.0
T = TypeVar("T")

_ERRORS = {error.code: error for error in ALL_ERRORS}


class Client:
    """The API as methods. Every method raises the TaosError that the server answered with."""

    def __init__(
        self,
        http: httpx.Client,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE,
        socket: Path | None = None,
        new_key: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """patience: seconds that beginning and watching a job wait for a server that is away.

        socket: the Unix socket that http goes through, if it does. new_key: a key for a request
        that may have to be sent again.
        """
        self._http = http
        self._socket = socket
        self._sleep = sleep
        self._clock = clock
        self._patience = patience
        self._new_key = new_key

    @classmethod
    def connect(cls, settings: Settings) -> Client:
        """A client of the server of these settings; nothing is sent yet.

        Raises Unauthorized when neither socket nor token can be read, HostNotReady when there is
        neither.
        """
        if os.access(settings.server_socket, os.W_OK):
            transport = httpx.HTTPTransport(uds=str(settings.server_socket))
            return cls(
                httpx.Client(transport=transport, base_url="http://taos", timeout=WITHIN),
                socket=settings.server_socket,
            )
        try:
            token = settings.token_file.read_text().strip()
        except FileNotFoundError:
            raise _no_server() from None
        except PermissionError as error:
            raise Unauthorized(
                "You may not talk to the taOS server.", hint="Use sudo, or ask for its token."
            ) from error
        return cls(
            httpx.Client(
                base_url=web_address(settings),
                headers={"Authorization": f"Bearer {token}"},
                timeout=WITHIN,
                trust_env=False,  # a proxy for the internet is not the way to our own server
            )
        )

    def look(self, path: str, *, within: float) -> list[dict[str, str]]:
        """A list as it comes; for those who have no time."""
        response = self._http.get(path, timeout=within)
        response.raise_for_status()
        return _read_list(response)

    def health(self) -> wire.Health:
        """That the server serves."""
        return self._get("/api/health", wire.Health)

    def ready(self) -> wire.Readiness:
        """What keeps it from deploying."""
        return _read(wire.Readiness, self._send("GET", "/api/ready", fine=503))

    def frameworks(self) -> list[wire.Framework]:
        """What can be deployed."""
        return self._get("/api/frameworks", list[wire.Framework])

    def new_setup_code(self) -> wire.SetupCode:
        """A code for the web pages' first visit; Conflict when the password is set already."""
        return _read(wire.SetupCode, self._send("POST", "/api/web/setup-code"))

    def set_web_password(self, password: str) -> None:
        """Set the web pages' password."""
        self._send("PUT", "/api/web/password", wire.NewPassword(password=password))

    def deploy(self, request: wire.NewAgent, *, idempotency_key: str = "") -> wire.Job:
        """Begin a deploy; the same key again gives the same job."""
        return self._begin("POST", "/api/agents/deploy", request, idempotency_key)

    def agents(self) -> list[wire.Agent]:
        """Every agent."""
        return self._get("/api/agents", list[wire.Agent])

    def agent(self, name: str) -> wire.Agent:
        """One agent."""
        return self._get(f"/api/agents/{_part(name)}", wire.Agent)

    def power(self, name: str, action: str) -> wire.Job:
        """Begin to start, stop, restart or upgrade the agent, or to undo its upgrade."""
        return self._begin("POST", f"/api/agents/{_part(name)}/{action}")

    def upgrade_all(self) -> wire.Job:
        """Begin to upgrade every agent that can be, one after the other."""
        return self._begin("POST", "/api/agents/upgrade")

    def delete(self, name: str, *, keep_state: bool = False) -> wire.Job:
        """Begin to remove the agent."""
        query = "?keep_state=1" if keep_state else ""
        return self._begin("DELETE", f"/api/agents/{_part(name)}{query}")

    def export_agent(self, name: str, path: str) -> wire.Job:
        """Begin to write the agent into a file."""
        body = wire.ExportAgent(name=name, path=path)
        return self._begin("POST", "/api/files/agents/export", body)

    def import_agent(self, body: wire.ImportAgent) -> wire.ImportAnswer:
        """Begin to keep the state in an exported file; and what to deploy with it."""
        answer = self._send_once("POST", "/api/files/agents/import", body)
        return _read(wire.ImportAnswer, answer)

    def kept(self) -> list[wire.KeptState]:
        """The states that outlived their agents."""
        return self._get("/api/kept", list[wire.KeptState])

    def drop_kept(self, name: str) -> None:
        """Remove a kept state for good."""
        self._send("DELETE", f"/api/kept/{_part(name)}")

    def change_network(self, name: str, policy: str) -> wire.Job:
        """Begin to have the agent reach what the policy opens."""
        path = f"/api/agents/{_part(name)}/network"
        return self._begin("PUT", path, wire.Network(policy=policy))

    def snapshots(self, name: str) -> list[wire.Snapshot]:
        """The snapshots of the agent's state."""
        return self._get(f"/api/agents/{_part(name)}/snapshots", list[wire.Snapshot])

    def snapshot(self, name: str, called: str = "") -> wire.Job:
        """Begin to keep the agent's state."""
        path = f"/api/agents/{_part(name)}/snapshots"
        return self._begin("POST", path, wire.NewSnapshot(name=called))

    def restore(self, name: str, snapshot: str) -> wire.Job:
        """Begin to bring the agent's state back."""
        path = f"/api/agents/{_part(name)}/snapshots/{_part(snapshot)}/restore"
        return self._begin("POST", path)

    def drop_snapshot(self, name: str, snapshot: str) -> wire.Job:
        """Begin to remove a snapshot."""
        return self._begin("DELETE", f"/api/agents/{_part(name)}/snapshots/{_part(snapshot)}")

    def change(self, name: str, change: wire.AgentChange) -> wire.Job:
        """Begin to change the agent as it runs."""
        return self._begin("PATCH", f"/api/agents/{_part(name)}", change)

    def logs(self, name: str, *, follow: bool, lines: int, since: str = "") -> Iterator[str]:
        """The agent's log, line by line."""
        query: dict[str, str | int] = {"follow": int(follow), "lines": lines}
        query |= {"since": since} if since else {}
        timeout = httpx.Timeout(WITHIN, read=None if follow else WITHIN)
        path = f"/api/agents/{_part(name)}/logs"
        try:
            with self._http.stream("GET", path, params=query, timeout=timeout) as response:
                if response.status_code != 200:
                    response.read()
                    raise _error(response)
                yield from _lines(response)
        except httpx.TransportError as error:
            raise _no_server(error) from error

    def chat(self, name: str, message: str, conversation: str = "main") -> Iterator[str]:
        """What the agent answers, in pieces as they come."""
        path = f"/api/agents/{_part(name)}/chat"
        body = wire.Question(message=message, conversation=conversation).model_dump_json()
        headers = {"Accept": "text/event-stream", "Content-Type": "application/json"}
        timeout = httpx.Timeout(WITHIN, read=SILENCE)
        try:
            with self._http.stream(
                "POST", path, content=body, headers=headers, timeout=timeout
            ) as response:
                if response.status_code != 200:
                    response.read()
                    raise _error(response)
                yield from _said(_lines(response))
        except httpx.TransportError as error:
            raise _no_server(error) from error

    @contextmanager
    def open_shell(
        self, name: str, command: Sequence[str], *, width: int, height: int, root: bool
    ) -> Iterator[Connection]:
        """A WebSocket to a terminal in the agent; routes/shell.py tells what goes over it."""
        query = urlencode(
            {"command": command, "width": width, "height": height, "root": int(root)}, doseq=True
        )
        url = self._http.base_url.copy_with(
            scheme="wss" if self._http.base_url.scheme == "https" else "ws"
        )
        address = f"{url}/api/agents/{_part(name)}/shell?{query}".replace("//api", "/api")
        given = self._http.headers.get("authorization")
        headers = {"Authorization": given} if given else {}
        try:
            if self._socket:
                made = unix_connect(str(self._socket), address, additional_headers=headers)
            else:
                made = connect(address, additional_headers=headers, proxy=None)
        except (OSError, InvalidHandshake) as error:
            raise HostNotReady(
                "The server cannot be reached for a shell.", hint="`taos doctor` checks the host."
            ) from error
        with made:
            yield made

    def models(self, name: str) -> wire.AgentModels:
        """The agent's models and what it used of them."""
        return self._get(f"/api/agents/{_part(name)}/model", wire.AgentModels)

    def choose_models(self, name: str, choice: wire.ModelChoice) -> wire.AgentModels:
        """Have the agent use these models."""
        path = f"/api/agents/{_part(name)}/model"
        return _read(wire.AgentModels, self._send("PUT", path, choice))

    def providers(self) -> list[wire.Provider]:
        """The model providers."""
        return self._get("/api/providers", list[wire.Provider])

    def add_provider(self, provider: wire.NewProvider) -> wire.Provider:
        """Keep the provider."""
        return _read(wire.Provider, self._send("POST", "/api/providers", provider))

    def test_provider(self, name: str) -> wire.ProviderTest:
        """Ask the provider for its models."""
        return _read(wire.ProviderTest, self._send("POST", f"/api/providers/{_part(name)}/test"))

    def remove_provider(self, name: str) -> None:
        """Forget the provider."""
        self._send("DELETE", f"/api/providers/{_part(name)}")

    def images(self) -> list[wire.Image]:
        """The images."""
        return self._get("/api/images", list[wire.Image])

    def download(self, framework: str) -> wire.Job:
        """Begin to get the framework's image."""
        return self._begin("POST", f"/api/images/{_part(framework)}/download")

    def discard_image(self, framework: str) -> None:
        """Stop getting the framework's image, and have what has come of it removed."""
        self._send("DELETE", f"/api/images/{_part(framework)}/download")

    def image_policy(self) -> wire.Policy:
        """When images are fetched."""
        return self._get("/api/images/policy", wire.Policy)

    def choose_image_policy(self, policy: ImagePolicy) -> None:
        """Fetch images by this policy from now on."""
        self._send("PUT", "/api/images/policy", wire.Policy(policy=policy))

    def import_image(self, path: str) -> wire.Job:
        """Begin to get an image out of an exported file."""
        return self._begin("POST", "/api/images/file/import", wire.ImportFile(path=path))

    def export_image(self, framework: str, path: str) -> wire.Job:
        """Begin to write a released image into a file."""
        body = wire.ExportFile(framework=framework, path=path)
        return self._begin("POST", "/api/images/file/export", body)

    def remove_image(self, framework: str) -> None:
        """Remove the framework's image."""
        self._send("DELETE", f"/api/images/{_part(framework)}")

    def jobs(self) -> list[wire.Job]:
        """The newest jobs."""
        return self._get("/api/jobs", list[wire.Job])

    def job(self, job_id: str) -> wire.Job:
        """One job."""
        return self._get(f"/api/jobs/{_part(job_id)}", wire.Job)

    def cancel(self, job_id: str) -> wire.Job:
        """Ask the job to stop."""
        path = f"/api/jobs/{_part(job_id)}/cancel"
        return _read(wire.JobAnswer, self._send("POST", path)).job

    def retry(self, job_id: str) -> wire.Job:
        """Begin a job again."""
        return self._begin("POST", f"/api/jobs/{_part(job_id)}/retry")

    def watch(self, job_id: str) -> Iterator[wire.Job]:
        """The job after each change until it has ended; a server that restarts is waited for.

        Raises HostNotReady when the server stays away for longer than the client's patience.
        """
        away_since: float | None = None
        while True:
            try:
                for job in self._events(job_id):
                    away_since = None
                    yield job
                    if not job.is_active:
                        return
            except httpx.TransportError as error:
                away_since = away_since or self._clock()
                if self._clock() - away_since > self._patience:
                    raise _no_server(error) from error
            self._sleep(RECONNECT)

    def _events(self, job_id: str) -> Iterator[wire.Job]:
        path = f"/api/jobs/{_part(job_id)}/events"
        with self._http.stream(
            "GET", path, timeout=httpx.Timeout(WITHIN, read=SILENCE)
        ) as response:
            if response.status_code != 200:
                response.read()
                raise _error(response)
            for line in _lines(response):
                if line.startswith("data: "):
                    yield wire.Job.model_validate_json(line.removeprefix("data: "))

    def _get(self, path: str, kind: type[T]) -> T:
        return _read(kind, self._send("GET", path))

    def _begin(
        self, method: str, path: str, body: BaseModel | None = None, key: str = ""
    ) -> wire.Job:
        return _read(wire.JobAnswer, self._send_once(method, path, body, key)).job

    def _send_once(
        self, method: str, path: str, body: BaseModel | None = None, key: str = ""
    ) -> httpx.Response:
        """The answer to what begins a job.

        A connection that breaks leaves open whether that was heard, so it is sent again under the
        same key, for as long as the client's patience lasts.
        """
        headers = {"Idempotency-Key": key or self._new_key()}
        lost_since: float | None = None
        while True:
            try:
                return _checked(self._request(method, path, body, headers))
            except httpx.TransportError as error:
                never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if lost_since is None:
                    lost_since = self._clock()
                    if never_sent:
                        raise _no_server(error) from error
                if self._clock() - lost_since > self._patience:
                    raise _no_server(error) from error
            self._sleep(RECONNECT)

    def _send(
        self, method: str, path: str, body: BaseModel | None = None, fine: int = 200
    ) -> httpx.Response:
        try:
            response = self._request(method, path, body, {})
        except httpx.TransportError as error:
            raise _no_server(error) from error
        return _checked(response, fine)

    def _request(
        self, method: str, path: str, body: BaseModel | None, headers: Mapping[str, str]
    ) -> httpx.Response:
        content = body.model_dump_json() if body else None
        kind = {"Content-Type": "application/json"} if body else {}
        return self._http.request(method, path, content=content, headers={**kind, **headers})


def web_address(settings: Settings) -> str:
    """Where the server's API is for programs on this host, such as `http://127.0.0.1:8420`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    scheme = "https" if settings.tls_cert else "http"
    bare = f"[{host}]" if ":" in host else host
    return f"{scheme}://{bare}:{settings.port}"


def _checked(response: httpx.Response, fine: int = 200) -> httpx.Response:
    """The answer, unless it is an error; fine: a status that is none."""
    if response.status_code >= 400 and response.status_code != fine:
        raise _error(response)
    return response


def _read(kind: type[T], response: httpx.Response) -> T:
    """The answer as the contract has it."""
    try:
        return TypeAdapter(kind).validate_json(response.content)
    except ValidationError as error:
        raise TaosError(
            "The server's answer cannot be understood.",
            hint="When taOS was updated meanwhile, run `taos restart`.",
        ) from error


def _read_list(response: httpx.Response) -> list[dict[str, str]]:
    found = response.json()
    return found if isinstance(found, list) else []


def _part(name: str) -> str:
    """A name as one part of a path, whatever a person typed.

    Servers undo one quoting before they look for slashes, so a slash gets two.
    """
    return quote(name.replace("/", "%2F"), safe="") or "%20"


def _error(response: httpx.Response) -> TaosError:
    """The error that the server answered with."""
    try:
        problem = wire.ProblemDetails.model_validate_json(response.content)
    except ValidationError:
        return TaosError(
            f"The server answered {response.status_code}.",
            hint="Is it taOS that listens there? Look at `host` and `port` in taos.toml.",
        )
    return _ERRORS.get(problem.code, TaosError)(problem.detail, hint=problem.hint)


def _lines(response: httpx.Response) -> Iterator[str]:
    """The lines of the answer as they come. httpx's own also end at U+2028 and others, which JSON
    has in its strings."""
    kept = ""
    for piece in response.iter_text():
        *lines, kept = (kept + piece).split("\n")
        yield from lines
    if kept:
        yield kept


def _said(lines: Iterator[str]) -> Iterator[str]:
    """The text in the events of a chat; what broke it off is raised."""
    event = ""
    for line in lines:
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
        elif line.startswith("data: ") and event == "text":
            yield _Piece.model_validate_json(line.removeprefix("data: ")).text
        elif line.startswith("data: ") and event == "error":
            problem = wire.Problem.model_validate_json(line.removeprefix("data: "))
            raise _ERRORS.get(problem.code, TaosError)(problem.message, hint=problem.hint)


class _Piece(BaseModel):
    text: str


def _no_server(error: httpx.TransportError | None = None) -> HostNotReady:
    if isinstance(error, httpx.TimeoutException):
        return HostNotReady(
            "The taOS server did not answer in time.", hint="`taos doctor` checks the host."
        )
    return HostNotReady(
        "The taOS server does not run.", hint="Start it with `taos up`, or `taos serve`."
    )
