"""Client of our own API: over the server's Unix socket, else over TCP with the token."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from tinyagentos import wire
from tinyagentos.config import Settings
from tinyagentos.model.errors import ALL_ERRORS, HostNotReady, TaosError, Unauthorized

WITHIN = 30.0
PATIENCE = 60.0
T = TypeVar("T")

_ERRORS = {error.code: error for error in ALL_ERRORS}


class Client:
    """The API as methods. Every method raises the TaosError that the server answered with."""

    def __init__(self, http: httpx.Client, sleep: Callable[[float], None] = time.sleep) -> None:
        self._http = http
        self._sleep = sleep

    @classmethod
    def connect(cls, settings: Settings) -> Client:
        """A client of the server of these settings; nothing is sent yet.

        Raises Unauthorized when neither socket nor token can be read.
        """
        if os.access(settings.server_socket, os.W_OK):
            transport = httpx.HTTPTransport(uds=str(settings.server_socket))
            return cls(httpx.Client(transport=transport, base_url="http://taos", timeout=WITHIN))
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
                base_url=f"http://{settings.host}:{settings.port}",
                headers={"Authorization": f"Bearer {token}"},
                timeout=WITHIN,
            )
        )

    def health(self) -> wire.Health:
        """That the server serves."""
        return self._get("/api/health", wire.Health)

    def ready(self) -> wire.Readiness:
        """What keeps it from deploying."""
        return wire.Readiness.model_validate_json(self._send("GET", "/api/ready", fine=503).content)

    def frameworks(self) -> list[wire.Framework]:
        """What can be deployed."""
        return self._get("/api/frameworks", list[wire.Framework])

    def deploy(self, request: wire.NewAgent) -> wire.Job:
        """Begin a deploy."""
        return self._begin("POST", "/api/agents/deploy", request)

    def agents(self) -> list[wire.Agent]:
        """Every agent."""
        return self._get("/api/agents", list[wire.Agent])

    def agent(self, name: str) -> wire.Agent:
        """One agent."""
        return self._get(f"/api/agents/{_part(name)}", wire.Agent)

    def power(self, name: str, action: str) -> wire.Job:
        """Begin to start, stop or restart the agent."""
        return self._begin("POST", f"/api/agents/{_part(name)}/{action}")

    def delete(self, name: str) -> wire.Job:
        """Begin to remove the agent."""
        return self._begin("DELETE", f"/api/agents/{_part(name)}")

    def logs(self, name: str, *, follow: bool, lines: int) -> Iterator[str]:
        """The agent's log, line by line."""
        query: dict[str, str | int] = {"follow": int(follow), "lines": lines}
        timeout = httpx.Timeout(WITHIN, read=None if follow else WITHIN)
        path = f"/api/agents/{_part(name)}/logs"
        try:
            with self._http.stream("GET", path, params=query, timeout=timeout) as response:
                if response.status_code != 200:
                    response.read()
                    raise _error(response)
                yield from response.iter_lines()
        except httpx.TransportError as error:
            raise _no_server() from error

    def images(self) -> list[wire.Image]:
        """The images."""
        return self._get("/api/images", list[wire.Image])

    def jobs(self) -> list[wire.Job]:
        """The newest jobs."""
        return self._get("/api/jobs", list[wire.Job])

    def job(self, job_id: str) -> wire.Job:
        """One job."""
        return self._get(f"/api/jobs/{_part(job_id)}", wire.Job)

    def cancel(self, job_id: str) -> wire.Job:
        """Ask the job to stop."""
        return self._begin("POST", f"/api/jobs/{_part(job_id)}/cancel")

    def retry(self, job_id: str) -> wire.Job:
        """Begin a job again."""
        return self._begin("POST", f"/api/jobs/{_part(job_id)}/retry")

    def watch(self, job_id: str) -> Iterator[wire.Job]:
        """The job after each change until it has ended; a server that restarts is waited for."""
        patience = time.monotonic() + PATIENCE
        while True:
            try:
                for job in self._events(job_id):
                    yield job
                    if not job.is_active:
                        return
                    patience = time.monotonic() + PATIENCE
            except (httpx.TransportError, HostNotReady) as error:
                if time.monotonic() > patience:
                    raise _no_server() from error
            self._sleep(0.5)

    def _events(self, job_id: str) -> Iterator[wire.Job]:
        path = f"/api/jobs/{_part(job_id)}/events"
        with self._http.stream("GET", path, timeout=httpx.Timeout(WITHIN, read=60)) as response:
            if response.status_code != 200:
                response.read()
                raise _error(response)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield wire.Job.model_validate_json(line.removeprefix("data: "))

    def _get(self, path: str, kind: type[T]) -> T:
        return TypeAdapter(kind).validate_json(self._send("GET", path).content)

    def _begin(self, method: str, path: str, body: BaseModel | None = None) -> wire.Job:
        return wire.JobAnswer.model_validate_json(self._send(method, path, body).content).job

    def _send(
        self, method: str, path: str, body: BaseModel | None = None, fine: int = 200
    ) -> httpx.Response:
        content = body.model_dump_json() if body else None
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            response = self._http.request(method, path, content=content, headers=headers)
        except httpx.TransportError as error:
            raise _no_server() from error
        if response.status_code >= 400 and response.status_code != fine:
            raise _error(response)
        return response


def _part(name: str) -> str:
    """A name as one part of a path, whatever a person typed."""
    return quote(name, safe="") or "%20"


def _error(response: httpx.Response) -> TaosError:
    """The error that the server answered with."""
    try:
        problem = wire.ProblemDetails.model_validate_json(response.content)
    except ValidationError:
        return TaosError(f"The server answered {response.status_code}.")
    return _ERRORS.get(problem.code, TaosError)(problem.detail, hint=problem.hint)


def _no_server() -> HostNotReady:
    return HostNotReady(
        "The taOS server does not run.", hint="Start it with `taos up`, or `taos serve`."
    )
