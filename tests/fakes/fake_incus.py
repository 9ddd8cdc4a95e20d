"""A partial Incus: real HTTP over a Unix socket, real JSON shapes, faults on demand.

    async with FakeIncus(tmp_path / "incus.sock") as fake:
        fake.fail_next("POST /1.0/images", 500, "no space left on device")

State is plain dicts (`fake.project("taos")`). It does what contract tests demand and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import ssl
from collections.abc import Awaitable, Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl

from aiohttp import WSMsgType, web

from tests.fakes.fake_parts import (
    NEVER,
    Failure,
    FakeAgent,
    FakeExec,
    FakeFile,
    FakeInstance,
    Json,
    OnAsk,
    OnExec,
    Operation,
    Project,
    etag_of,
    failed,
    find,
    network,
    now,
    pool,
    profile,
    read_metadata,
)
from tests.fakes.fake_routes import routes

Work = Callable[[], Awaitable[Json | None]]
ROOT = {"path": "/", "pool": "taos", "type": "disk"}
NIC = {"network": "taosbr0", "type": "nic"}


async def succeed(run: FakeExec) -> int:
    """The command that every command is unless a test says otherwise."""
    return 0


class FakeIncus:
    """The server. It starts with the projects `default` and `taos`, a pool and a bridge."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.calls: list[str] = []
        self.projects: dict[str, Project] = {}
        self.pools: dict[str, Json] = {}
        self.networks: dict[str, Json] = {}
        self.acls: dict[str, Json] = {}
        self.operations: dict[str, Operation] = {}
        self.execs: dict[str, FakeExec] = {}
        self.on_exec: OnExec = succeed
        self.ready_after: int | None = 0
        self.answer: OnAsk | None = None
        self.extensions = ["instances", "projects", "instances_rebuild", "instance_auto_restart"]
        self.remote_images: dict[str, Json] = {}
        # While it is not set, every request waits: a daemon that hangs.
        self.awake = asyncio.Event()
        self.awake.set()
        self._faults: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._work_faults: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._listeners: dict[asyncio.Queue[Json | None], tuple[set[str], str]] = {}
        self._runner: web.AppRunner | None = None
        self.add_project("default")
        self.add_project("taos", devices={"root": ROOT, "eth0": NIC})
        self.add_pool("taos")
        self.networks["taosbr0"] = network("taosbr0", {"ipv4.address": "10.0.3.1/24"})

    # Faults

    def fail_next(self, route: str, code: int, sentence: str, *, in_work: bool = False) -> None:
        """Have the next call of the route fail; in_work: its operation, once accepted.

        A route is a method and a path without query, with `*` for any part.
        """

        async def fail() -> None:
            raise Failure(code, sentence)

        (self._work_faults if in_work else self._faults).append((route, fail))

    def stall_next(self, route: str, seconds: float = 3600) -> None:
        """Have the next call of the route answered only after so long."""
        self._faults.append((route, lambda: asyncio.sleep(seconds)))

    def hold_next(self, route: str) -> asyncio.Event:
        """Have the next operation of the route wait until the event is set."""
        go = asyncio.Event()

        async def hold() -> None:
            await go.wait()

        self._work_faults.append((route, hold))
        return go

    async def restart(self) -> None:
        """What a daemon restart does: operations are forgotten, connections drop."""
        await self.stop()
        await self.start()

    def drop_events(self) -> None:
        """Close every events connection."""
        for queue in list(self._listeners):
            queue.put_nowait(None)

    # State

    def project(self, name: str = "taos") -> Project:
        """A project's content."""
        return self.projects[name]

    def add_project(
        self, name: str, *, config: Json | None = None, devices: Json | None = None
    ) -> Project:
        """A new project with its default profile."""
        made = Project({"name": name, "description": "", "config": config or {}, "used_by": []})
        made.profiles["default"] = profile("default", devices=devices)
        self.projects[name] = made
        return made

    def add_pool(self, name: str, driver: str = "btrfs", *, total_bytes: int = 100 << 30) -> None:
        """A new pool."""
        self.pools[name] = pool(name, driver=driver, total_bytes=total_bytes)

    def add_image(self, project: str, fingerprint: str, *aliases: str, **fields: object) -> Json:
        """An image that is simply there."""
        image: Json = {
            "fingerprint": fingerprint,
            "architecture": "x86_64",
            "properties": {},
            "size": 1,
            "type": "container",
            "filename": "",
            "public": False,
            "auto_update": False,
            "cached": False,
            "profiles": ["default"],
            "created_at": now(),
            "uploaded_at": now(),
            "last_used_at": NEVER,
            "expires_at": NEVER,
            **fields,
        }
        self.projects[project].images[fingerprint] = image
        self.projects[project].aliases |= dict.fromkeys(aliases, fingerprint)
        self.emit(project, "image-created", f"/1.0/images/{fingerprint}")
        return image

    def emit(self, project: str, action: str, source: str) -> None:
        """Tell the listeners of a lifecycle event."""
        metadata = {"action": action, "source": f"{source}?project={project}", "project": project}
        self._tell("lifecycle", project, metadata)

    def _tell(self, kind: str, project: str, metadata: Json) -> None:
        event = {"type": kind, "timestamp": now(), "location": "none", "project": project}
        for queue, (types, only) in self._listeners.items():
            if kind in types and only in {"", project}:
                queue.put_nowait({**event, "metadata": metadata})

    # Serving

    async def start(self) -> None:
        """Listen."""
        app = web.Application(middlewares=[self._guard], client_max_size=1 << 40)
        app.add_routes(routes(self))
        self._runner = web.AppRunner(app, shutdown_timeout=0.05, handler_cancellation=True)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket)).start()

    async def listen_tls(self, context: ssl.SSLContext) -> str:
        """Listen on the loopback, too; the URL."""
        assert self._runner
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = self._runner.addresses[-1][1]
        return f"https://127.0.0.1:{port}"

    async def stop(self) -> None:
        """Be gone; the state stays for a start()."""
        self.drop_events()
        if self._runner:
            await self._runner.cleanup()
        self._runner = None
        work = [op.task for op in self.operations.values() if op.task]
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        self.operations.clear()
        self.execs.clear()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        for one in self.projects.values():
            for instance in one.instances.values():
                await self.set_running(one, instance, False)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        call = f"{request.method} {request.path}"
        self.calls.append(call)
        await self.awake.wait()
        try:
            await strike(self._faults, call)
            return await handler(request)
        except Failure as failure:
            return failed(failure.code, failure.sentence)
        except web.HTTPNotFound:
            return failed(404, "not found")

    def run(
        self,
        request: web.Request,
        description: str,
        work: Work,
        *paths: str,
        may_cancel: bool = False,
    ) -> web.Response:
        """Begin background work and answer with its operation."""
        project = request.query.get("project", "default")
        resources = {path.split("/")[2]: [f"{path}?project={project}"] for path in paths}
        operation = Operation(project, description, resources, may_cancel=may_cancel)
        call = f"{request.method} {request.path}"

        async def carry_out() -> None:
            try:
                await strike(self._work_faults, call)
                result = await work()
            except Failure as failure:
                operation.end(failure)
            except asyncio.CancelledError:
                operation.end(status_code=401)
            else:
                operation.metadata = result or operation.metadata
                operation.end()
            self._tell("operation", project, operation.json())

        return self.begin(operation, carry_out())

    def begin(self, operation: Operation, work: Awaitable[None]) -> web.Response:
        """Answer with the operation, whose work is under way."""
        self.operations[operation.id] = operation
        operation.task = asyncio.ensure_future(work)
        self._tell("operation", operation.project, operation.json())
        body = {"type": "async", "status": "Operation created", "status_code": 100}
        body |= {"operation": f"/1.0/operations/{operation.id}", "error_code": 0, "error": ""}
        return web.json_response({**body, "metadata": operation.json()}, status=202)

    async def listen(self, request: web.Request) -> web.StreamResponse:
        """The events WebSocket."""
        everything = request.query.get("all-projects") == "true"
        types = set(request.query.get("type", "operation,lifecycle,logging").split(","))
        queue: asyncio.Queue[Json | None] = asyncio.Queue()
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._listeners[queue] = (types, "" if everything else request.query.get("project", ""))

        async def send() -> None:
            while (event := await queue.get()) is not None:
                await socket.send_json(event)
            await socket.close()

        sending = asyncio.create_task(send())
        try:
            async for _ in socket:
                pass
        finally:
            sending.cancel()
            del self._listeners[queue]
        return socket

    # Instances

    def create_instance(self, project: Project, body: Json) -> FakeInstance:
        """What Incus does with a request, or the failure of its operation."""
        name, source = body["name"], body.get("source") or {}
        if name in project.instances:
            raise Failure(500, "UNIQUE constraint failed: instances.project_id, instances.name")
        original: FakeInstance | None = None
        image: Json = {}
        if source.get("type") == "image":
            wanted = source.get("fingerprint") or project.aliases.get(source.get("alias", ""), "")
            if wanted not in project.images:
                raise Failure(500, "Image not provided for instance creation")
            image = project.images[wanted]
        elif source.get("type") == "copy":
            owner, _, snapshot = source["source"].partition("/")
            original = find(project.instances, owner, "Instance not found")
            if snapshot:
                original = find(original.snapshots, snapshot, "Instance_snapshot not found")
        profiles = body.get("profiles")
        profiles = ["default"] if profiles is None else profiles
        devices: Json = {}
        for used in profiles:
            devices |= find(project.profiles, used, "Profile not found")["devices"]
        devices |= body.get("devices") or {}
        for device in devices.values():
            volume = (device.get("pool", ""), device.get("source", ""))
            if device["type"] == "disk" and volume[1] and volume not in project.volumes:
                raise Failure(404, "Failed loading custom volume: Storage volume not found")
        if not any(device.get("path") == "/" for device in devices.values()):
            raise Failure(500, "Failed getting root disk: No root device could be found")
        config = dict(original.json["config"] if original else {}) | (body.get("config") or {})
        if image:
            config["volatile.base_image"] = image["fingerprint"]
        made = FakeInstance(
            {
                "name": name,
                "type": body.get("type") or "container",
                "architecture": image.get("architecture", "x86_64"),
                "description": body.get("description", ""),
                "ephemeral": bool(body.get("ephemeral")),
                "profiles": profiles,
                "config": config,
                "devices": body.get("devices") or {},
                "expanded_config": config,
                "expanded_devices": devices,
                "created_at": now(),
                "last_used_at": NEVER,
                "location": "none",
                "project": project.name,
                "stateful": False,
            },
            files=copy.deepcopy(original.files if original else image.get("files", {})),
        )
        made.set_status("Stopped")
        project.instances[name] = made
        self.emit(project.name, "instance-created", f"/1.0/instances/{name}")
        return made

    async def set_running(self, project: Project, instance: FakeInstance, running: bool) -> None:
        """Start or stop the instance, with what answers behind its proxy devices."""
        for agent in instance.agents:
            await agent.stop()
        instance.agents.clear()
        name = instance.json["name"]
        if running:
            for device in instance.json["expanded_devices"].values():
                # What runs writes: a volume tells which image's instance ran with it last.
                used = (device.get("pool", ""), device.get("source", ""))
                if volume := project.volumes.get(used):
                    volume["written_by"] = instance.json["config"].get("volatile.base_image", "")
                kind, _, path = device.get("listen", "").partition(":")
                if device["type"] == "proxy" and kind == "unix" and device.get("bind") == "host":
                    agent = FakeAgent(name, Path(path), self.ready_after, self.answer)
                    await agent.start()
                    instance.agents.append(agent)
        if instance.running != running:
            instance.set_status("Running" if running else "Stopped")
            action = "instance-started" if running else "instance-stopped"
            self.emit(project.name, action, f"/1.0/instances/{name}")

    def begin_exec(self, project: Project, instance: FakeInstance, body: Json) -> web.Response:
        """Accept a command; it runs once its streams are there, whether control is or not."""
        fds = ("0", "control") if body.get("interactive") else ("0", "1", "2", "control")
        operation = Operation(project.name, "Executing command", {}, kind="websocket")
        secrets = {fd: etag_of([operation.id, fd]) for fd in fds}
        operation.metadata = {"command": body["command"], "fds": secrets}
        run = FakeExec(instance, body, operation, secrets)
        self.execs[operation.id] = run

        async def carry_out() -> None:
            await run.started.wait()
            run.running = asyncio.ensure_future(self.on_exec(run))
            try:
                code = await run.running
            except asyncio.CancelledError:
                code = 137
                if not run.signals:
                    raise
            except Failure as failure:
                operation.end(failure)
                return
            finally:
                for fd in ("0",) if body.get("interactive") else ("1", "2"):
                    with contextlib.suppress(ConnectionError):
                        await run.sockets[fd].send_str("")
            operation.metadata = {**(operation.metadata or {}), "return": code}
            operation.end()

        return self.begin(operation, carry_out())

    async def serve_exec(self, request: web.Request) -> web.StreamResponse:
        """One of the WebSockets of a command."""
        run = find(self.execs, request.match_info["id"], "Operation not found")
        fd = next(fd for fd, secret in run.secrets.items() if secret == request.query["secret"])
        if run.operation.over.is_set():
            raise Failure(400, "Operation is not running")
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        run.sockets[fd] = socket
        if run.sockets.keys() >= run.secrets.keys() - {"control"}:
            run.started.set()
        async for message in socket:
            if fd == "control":
                said = message.json()
                if said["command"] == "window-resize":
                    run.resized.append(said["args"])
                elif run.running:
                    run.signals.append(said["signal"])
                    run.running.cancel()
            elif fd == "0" and not run.operation.over.is_set():
                piece = message.data if message.type is WSMsgType.BINARY else None
                putting = asyncio.ensure_future(run.stdin.put(piece))
                ended = asyncio.ensure_future(run.operation.over.wait())
                await asyncio.wait((putting, ended), return_when=asyncio.FIRST_COMPLETED)
                putting.cancel(), ended.cancel()
        return socket

    # Images

    async def import_image(self, request: web.Request) -> web.Response:
        """Take an uploaded image, unified or split; what is wrong fails in the operation."""
        project = find(self.projects, request.query.get("project", "default"), "Project not found")
        digest, size, head = hashlib.sha256(), 0, b""

        async def take(chunks: Callable[[int], Awaitable[bytes]]) -> bytes:
            nonlocal size
            kept = bytearray()
            while chunk := await chunks(1 << 18):
                digest.update(chunk)
                size += len(chunk)
                kept += chunk if len(kept) < 64 << 20 else b""
            return bytes(kept)

        if request.content_type.startswith("multipart/"):
            parts = await request.multipart()
            for wanted in ("metadata", "rootfs"):
                part = await parts.next()
                if part is None or part.name != wanted:  # type: ignore[union-attr]
                    raise Failure(400, f"Invalid multipart image: no {wanted}")
                content = await take(part.read_chunk)  # type: ignore[union-attr]
                head = head or content
        else:
            head = await take(request.content.read)
        fingerprint = digest.hexdigest()
        expected = request.headers.get("X-Incus-fingerprint", fingerprint)
        seen = read_metadata(head)
        seen["properties"] |= dict(parse_qsl(request.headers.get("X-Incus-properties", "")))

        async def work() -> Json:
            if expected != fingerprint:
                sentence = f"fingerprints don't match, got {fingerprint} expected {expected}"
                raise Failure(500, sentence)
            if fingerprint in project.images:
                raise Failure(500, "Image with same fingerprint already exists")
            self.add_image(project.name, fingerprint, size=size, content=head, **seen)
            return {"fingerprint": fingerprint, "size": str(size)}

        return self.run(request, "Downloading image", work)

    async def make_image(self, request: web.Request, body: Json) -> web.Response:
        """Make an image from an instance or a snapshot, or copy one from a server."""
        project = find(self.projects, request.query.get("project", "default"), "Project not found")
        source = body["source"]

        async def work() -> Json:
            fields: Json = {"properties": dict(body.get("properties") or {})}
            if source["type"] == "image":
                remote = find(self.remote_images, source["alias"], "Image not found")
                fields, fingerprint = dict(remote), remote["fingerprint"]
            else:
                owner, _, snapshot = source["name"].partition("/")
                made_of = find(project.instances, owner, "Instance not found")
                if snapshot:
                    made_of = find(made_of.snapshots, snapshot, "Instance_snapshot not found")
                elif made_of.running:
                    raise Failure(500, "Cannot export a running instance as an image")
                fields |= {"architecture": made_of.json["architecture"]}
                fields |= {"files": copy.deepcopy(made_of.files)}
                fingerprint = etag_of([source["name"], now()])
            fields.pop("fingerprint", None)
            names = [alias["name"] for alias in body.get("aliases") or []]
            self.add_image(project.name, fingerprint, *names, **fields)
            return {"fingerprint": fingerprint, "size": "1"}

        return self.run(request, "Downloading image", work)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def strike(faults: list[tuple[str, Callable[[], Awaitable[None]]]], call: str) -> None:
    """Carry out the first fault that waits for the call."""
    for fault in faults:
        if fnmatch(call, fault[0]):
            faults.remove(fault)
            await fault[1]()
            return


__all__ = ["Failure", "FakeExec", "FakeFile", "FakeIncus", "Project"]
