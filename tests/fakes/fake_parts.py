"""What the fake Incus is made of: its state, its operations, the commands it is asked to run."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import io
import json
import tarfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from aiohttp import web

Json = dict[str, Any]
T = TypeVar("T")
NEVER = "0001-01-01T00:00:00Z"
FORGET_AFTER = 5.0


def now() -> str:
    """The time as Incus writes it, with nine digits of a second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


class Failure(Exception):
    """An answer of Incus that is an error."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code, self.sentence = code, sentence


def reply(metadata: object = None, *, etag: str = "") -> web.Response:
    """Incus's answer to what went well."""
    body = {"type": "sync", "status": "Success", "status_code": 200, "operation": ""}
    body |= {"error_code": 0, "error": "", "metadata": {} if metadata is None else metadata}
    return web.json_response(body, headers={"ETag": f'"{etag}"'} if etag else {})


def failed(code: int, sentence: str, *, http: int = 0) -> web.Response:
    """Incus's answer to what did not."""
    body = {"type": "error", "status": "", "status_code": 0, "operation": ""}
    body |= {"error_code": code, "error": sentence, "metadata": None}
    return web.json_response(body, status=http or code)


def etag_of(value: object) -> str:
    """The version of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass
class FakeFile:
    """A file inside an instance."""

    content: bytes = b""
    uid: int = 0
    gid: int = 0
    mode: int = 0o644
    type: str = "file"


@dataclass
class FakeInstance:
    """An instance: `json` is what Incus answers about it."""

    json: Json
    files: dict[str, FakeFile] = field(default_factory=dict)
    snapshots: dict[str, FakeInstance] = field(default_factory=dict)
    agents: list[FakeAgent] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return bool(self.json["status"] == "Running")

    def set_status(self, status: str) -> None:
        """Say that it runs or not."""
        self.json |= {"status": status, "status_code": 103 if status == "Running" else 102}

    @property
    def etag(self) -> str:
        """Its version."""
        return etag_of([self.json[key] for key in ("config", "devices", "profiles")])


@dataclass
class Project:
    """A project's content by name; `volumes` by (pool, name), `volume_snapshots` likewise."""

    json: Json
    instances: dict[str, FakeInstance] = field(default_factory=dict)
    images: dict[str, Json] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    profiles: dict[str, Json] = field(default_factory=dict)
    volumes: dict[tuple[str, str], Json] = field(default_factory=dict)
    volume_snapshots: dict[tuple[str, str], dict[str, Json]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.json["name"])


@dataclass
class Operation:
    """Background work."""

    project: str
    description: str
    resources: Json
    metadata: Json | None = None
    kind: str = "task"
    may_cancel: bool = False
    id: str = field(default_factory=lambda: str(uuid4()))
    created_at: str = field(default_factory=now)
    status_code: int = 103
    failure: Failure | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    over_at: float = 0.0
    task: asyncio.Task[None] | None = None

    def end(self, failure: Failure | None = None, status_code: int = 200) -> None:
        """Say how it went."""
        self.failure = failure
        self.status_code = 400 if failure else status_code
        self.over_at = time.monotonic()
        self.over.set()

    @property
    def forgotten(self) -> bool:
        """Whether Incus no longer knows it."""
        return self.over.is_set() and time.monotonic() - self.over_at > FORGET_AFTER

    def json(self) -> Json:
        """As Incus shows it."""
        status = {103: "Running", 200: "Success", 400: "Failure", 401: "Cancelled"}
        return {
            "id": self.id,
            "class": self.kind,
            "description": self.description,
            "created_at": self.created_at,
            "updated_at": now(),
            "status": status[self.status_code],
            "status_code": self.status_code,
            "resources": self.resources,
            "metadata": self.metadata,
            "may_cancel": self.may_cancel,
            "err": self.failure.sentence if self.failure else "",
            "location": "none",
        }


@dataclass
class FakeExec:
    """A command the fake is asked to run; a handler writes its output and returns its exit code."""

    instance: FakeInstance
    body: Json
    operation: Operation
    secrets: dict[str, str]
    sockets: dict[str, web.WebSocketResponse] = field(default_factory=dict)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    stdin: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(8))
    resized: list[Json] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)
    running: asyncio.Task[int] | None = None

    @property
    def argv(self) -> list[str]:
        """The command."""
        return list(self.body["command"])

    @property
    def env(self) -> dict[str, str]:
        """Its environment."""
        return dict(self.body.get("environment") or {})

    async def read(self) -> bytes:
        """All of its standard input."""
        pieces = []
        while (piece := await self.stdin.get()) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    async def write(self, data: bytes, fd: int = 1) -> None:
        """Have it write; on a terminal all goes to one stream."""
        socket = self.sockets["0" if self.body.get("interactive") else str(fd)]
        for start in range(0, len(data), 1 << 17):
            await socket.send_bytes(data[start : start + (1 << 17)])


OnExec = Callable[[FakeExec], Awaitable[int]]
OnAsk = Callable[[web.Request, str], Awaitable[web.StreamResponse]]


@dataclass
class FakeAgent:
    """What answers behind an instance's proxy device: 503 until it was asked `ready_after` times.

    ready_after None: it is never ready. answer replaces all of this.
    """

    instance: str
    socket: Path
    ready_after: int | None
    answer: OnAsk | None
    asked: int = 0
    runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self.runner = web.AppRunner(app, shutdown_timeout=0.05)
        await self.runner.setup()
        self.socket.unlink(missing_ok=True)
        await web.UnixSite(self.runner, str(self.socket)).start()

    async def stop(self) -> None:
        """Answer no more."""
        if self.runner:
            await self.runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if self.answer:
            return await self.answer(request, self.instance)
        ready = self.ready_after is not None and self.asked > self.ready_after
        return web.Response(status=200 if ready else 503, text="ready" if ready else "starting")


def read_metadata(content: bytes) -> Json:
    """Architecture and properties of a tarball's metadata.yaml, as far as lines tell."""
    lines: list[str] = []
    with (
        contextlib.suppress(tarfile.TarError, KeyError),
        tarfile.open(fileobj=io.BytesIO(content)) as tar,
    ):
        member = tar.extractfile("metadata.yaml")
        lines = member.read().decode().splitlines() if member else []
    pairs = [line.strip().split(":", 1) for line in lines if ":" in line]
    found = {key.strip(): value.strip().strip("\"'") for key, value in pairs}
    inside = lines.index("properties:") if "properties:" in lines else len(lines)
    names = [line.split(":", 1)[0].strip() for line in lines[inside + 1 :] if line[:1] == " "]
    return {
        "architecture": found.get("architecture") or "x86_64",
        "properties": {name: found[name] for name in names if name in found},
    }


def find(held: Mapping[str, T], name: str, sentence: str) -> T:
    """What is there, or Incus's 404."""
    if name not in held:
        raise Failure(404, sentence)
    return held[name]


def profile(name: str, *, config: Json | None = None, devices: Json | None = None) -> Json:
    """A profile as Incus shows it."""
    made = {"name": name, "description": "", "config": config or {}, "used_by": []}
    return {**made, "devices": copy.deepcopy(devices or {})}


def network(name: str, config: Json | None = None) -> Json:
    """A managed network as Incus shows it."""
    made = {"name": name, "type": "bridge", "managed": True, "status": "Created", "used_by": []}
    return {**made, "description": "", "config": config or {}}


def acl(name: str) -> Json:
    """A network ACL as Incus shows it."""
    return {"name": name, "description": "", "ingress": [], "egress": [], "used_by": []}


def pool(name: str, *, driver: str = "btrfs", total_bytes: int = 100 << 30) -> Json:
    """A storage pool as Incus shows it, with what its resources say."""
    made = {"name": name, "driver": driver, "config": {}, "description": "", "used_by": []}
    space = {"used": 0, "total": total_bytes}
    return {**made, "status": "Created", "resources": {"space": space}}
