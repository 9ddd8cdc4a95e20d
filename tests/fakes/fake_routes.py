"""The fake Incus's routes: parse, one change of state, answer."""

from __future__ import annotations

import asyncio
import copy
import gzip
import tarfile
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import zstandard
from aiohttp import web

from tests.fakes.backup import pack_volume, read_backup
from tests.fakes.fake_parts import (
    NEVER,
    Failure,
    FakeFile,
    FakeInstance,
    Json,
    Operation,
    Project,
    acl,
    etag_of,
    failed,
    find,
    network,
    now,
    pool,
    profile,
    reply,
)

if TYPE_CHECKING:
    from tests.fakes.fake_incus import FakeIncus

Route = Callable[[web.Request], Awaitable[web.StreamResponse]]
Held = Callable[[web.Request], dict[str, Json]]
HIDDEN = {"content", "files"}


def routes(fake: FakeIncus) -> list[web.RouteDef]:
    """All that the fake answers to."""
    here = Routes(fake)
    table: dict[str, Route] = {
        "GET /1.0": here.get_server,
        "GET /1.0/events": fake.listen,
        "GET /1.0/operations": here.list_operations,
        "GET /1.0/operations/{id}": here.get_operation,
        "GET /1.0/operations/{id}/wait": here.wait_operation,
        "GET /1.0/operations/{id}/websocket": fake.serve_exec,
        "DELETE /1.0/operations/{id}": here.cancel_operation,
        "GET /1.0/projects": here.list_projects,
        "POST /1.0/projects": here.create_project,
        "GET /1.0/projects/{name}": here.get_project,
        "PUT /1.0/projects/{name}": here.put_project,
        "DELETE /1.0/projects/{name}": here.delete_project,
        "GET /1.0/instances": here.list_instances,
        "POST /1.0/instances": here.create_instance,
        "GET /1.0/instances/{name}": here.get_instance,
        "PATCH /1.0/instances/{name}": here.patch_instance,
        "PUT /1.0/instances/{name}": here.put_instance,
        "POST /1.0/instances/{name}": here.rename_instance,
        "DELETE /1.0/instances/{name}": here.delete_instance,
        "GET /1.0/instances/{name}/state": here.get_state,
        "PUT /1.0/instances/{name}/state": here.put_state,
        "POST /1.0/instances/{name}/rebuild": here.rebuild_instance,
        "POST /1.0/instances/{name}/exec": here.exec_command,
        "GET /1.0/instances/{name}/logs": here.list_logs,
        "GET /1.0/instances/{name}/logs/{file}": here.get_log,
        "GET /1.0/instances/{name}/console": here.get_log,
        "GET /1.0/instances/{name}/files": here.pull_file,
        "POST /1.0/instances/{name}/files": here.push_file,
        "DELETE /1.0/instances/{name}/files": here.delete_file,
        "GET /1.0/instances/{name}/snapshots": here.list_snapshots,
        "POST /1.0/instances/{name}/snapshots": here.create_snapshot,
        "DELETE /1.0/instances/{name}/snapshots/{snapshot}": here.delete_snapshot,
        "GET /1.0/images": here.list_images,
        "POST /1.0/images": here.create_image,
        "GET /1.0/images/aliases": here.list_aliases,
        "POST /1.0/images/aliases": here.create_alias,
        "GET /1.0/images/aliases/{name}": here.get_alias,
        "PUT /1.0/images/aliases/{name}": here.put_alias,
        "DELETE /1.0/images/aliases/{name}": here.delete_alias,
        "GET /1.0/images/{fingerprint}": here.get_image,
        "PUT /1.0/images/{fingerprint}": here.put_image,
        "DELETE /1.0/images/{fingerprint}": here.delete_image,
        "GET /1.0/images/{fingerprint}/export": here.export_image,
        "GET /1.0/storage-pools/{pool}/resources": here.get_resources,
        "GET /1.0/storage-pools/{pool}/volumes/custom": here.list_volumes,
        "POST /1.0/storage-pools/{pool}/volumes/custom": here.create_volume,
        "GET /1.0/storage-pools/{pool}/volumes/custom/{volume}": here.get_volume,
        "GET /1.0/storage-pools/{pool}/volumes/custom/{volume}/state": here.get_volume_state,
        "PUT /1.0/storage-pools/{pool}/volumes/custom/{volume}": here.put_volume,
        "DELETE /1.0/storage-pools/{pool}/volumes/custom/{volume}": here.delete_volume,
        "POST /1.0/storage-pools/{pool}/volumes/custom/{volume}": here.rename_volume,
        "POST /1.0/storage-pools/{pool}/volumes/custom/{volume}/backups": here.backup_volume,
        "GET /1.0/storage-pools/{pool}/volumes/custom/{volume}/backups/{backup}/export": (
            here.export_backup
        ),
        "GET /1.0/storage-pools/{pool}/volumes/custom/{volume}/snapshots": here.volume_snapshots,
        "POST /1.0/storage-pools/{pool}/volumes/custom/{volume}/snapshots": here.snapshot_volume,
        "DELETE /1.0/storage-pools/{pool}/volumes/custom/{volume}/snapshots/{snapshot}": (
            here.delete_volume_snapshot
        ),
        "GET /1.0/networks/{name}/state": here.get_network_state,
        "GET /1.0/networks/{name}/leases": here.get_leases,
    }
    simple = (
        ("/1.0/profiles", "profile", 500, lambda request: here._project(request).profiles, profile),
        ("/1.0/networks", "network", 400, lambda _: here._networks(), network),
        ("/1.0/network-acls", "network ACL", 400, lambda _: fake.acls, acl),
        ("/1.0/storage-pools", "storage pool", 409, lambda _: fake.pools, pool),
    )
    for path, noun, taken, held, make in simple:
        table |= collection(path, noun, taken, held, make)
    split = ((*key.split(" "), route) for key, route in table.items())
    return [web.route(method, path, route) for method, path, route in split]  # type: ignore[arg-type]


def collection(
    path: str, noun: str, taken: int, held: Held, make: Callable[[str], Json]
) -> dict[str, Route]:
    """The routes of objects that are only kept; taken is the code of a name that is there."""

    def get(request: web.Request) -> Json:
        return find(held(request), request.match_info["name"], f"{noun.capitalize()} not found")

    async def list_all(request: web.Request) -> web.Response:
        return reply(list(held(request).values()))

    async def create(request: web.Request) -> web.Response:
        body = await request.json()
        if body["name"] in held(request):
            raise Failure(taken, f"The {noun} already exists")
        held(request)[body["name"]] = make(body["name"]) | body
        return reply()

    async def show(request: web.Request) -> web.Response:
        return reply(get(request))

    async def put(request: web.Request) -> web.Response:
        found = get(request)
        found |= await request.json()
        return reply()

    async def delete(request: web.Request) -> web.Response:
        if get(request)["used_by"]:
            raise Failure(400, f"The {noun} is currently in use")
        del held(request)[get(request)["name"]]
        return reply()

    one = f"{path}/{{name}}"
    made: dict[str, Route] = {f"GET {path}": list_all, f"POST {path}": create, f"GET {one}": show}
    return {**made, f"PUT {one}": put, f"DELETE {one}": delete}


class Routes:
    """The handlers."""

    def __init__(self, fake: FakeIncus) -> None:
        self.fake = fake

    def _project(self, request: web.Request) -> Project:
        name = request.query.get("project", "default")
        return find(self.fake.projects, name, "Project not found")

    def _instance(self, request: web.Request) -> tuple[Project, FakeInstance]:
        project, name = self._project(request), request.match_info["name"]
        sentence = f'Failed to fetch instance "{name}": Instance not found'
        return project, find(project.instances, name, sentence)

    def _changed(self, project: Project, instance: FakeInstance) -> None:
        path = f"/1.0/instances/{instance.json['name']}"
        self.fake.emit(project.name, "instance-updated", path)

    # Server and operations

    async def get_server(self, request: web.Request) -> web.Response:
        env = {"server_version": "6.0.4", "server_pid": 1, "architectures": ["x86_64", "i686"]}
        drivers = [{"Name": "dir"}, {"Name": "btrfs"}]
        env |= {"storage_supported_drivers": drivers, "server_clustered": False}
        env |= {"server_name": "fake", "os_name": "Debian GNU/Linux", "addresses": []}
        env |= {"firewall": "nftables"}
        trusted = {"api_extensions": self.fake.extensions, "auth": "trusted", "environment": env}
        return reply(trusted)

    def _operation(self, request: web.Request) -> Operation:
        operation = self.fake.operations.get(request.match_info["id"])
        if operation is None or operation.forgotten:
            raise Failure(404, "Operation not found")
        return operation

    async def list_operations(self, request: web.Request) -> web.Response:
        name = self._project(request).name
        found = [one for one in self.fake.operations.values() if one.project == name]
        running = [one.json() for one in found if one.status_code == 103]
        return reply({"running": running} if running else {})

    async def get_operation(self, request: web.Request) -> web.Response:
        return reply(self._operation(request).json())

    async def wait_operation(self, request: web.Request) -> web.Response:
        operation = self._operation(request)
        seconds = float(request.query.get("timeout", "-1"))
        try:
            await asyncio.wait_for(operation.over.wait(), seconds if seconds >= 0 else None)
        except TimeoutError:
            return failed(500, "context deadline exceeded", http=200)
        if operation.failure:
            return failed(operation.failure.code, operation.failure.sentence, http=200)
        return reply(operation.json())

    async def cancel_operation(self, request: web.Request) -> web.Response:
        operation = self._operation(request)
        if not operation.may_cancel or not operation.task:
            raise Failure(400, "This operation can't be cancelled")
        operation.task.cancel()
        return reply()

    # Projects and profiles

    async def list_projects(self, request: web.Request) -> web.Response:
        return reply([one.json for one in self.fake.projects.values()])

    async def create_project(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["name"] in self.fake.projects:
            raise Failure(500, "UNIQUE constraint failed: projects.name")
        self.fake.add_project(body["name"], config=body.get("config"))
        return reply()

    async def get_project(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return reply(find(self.fake.projects, name, "Project not found").json)

    async def put_project(self, request: web.Request) -> web.Response:
        found = find(self.fake.projects, request.match_info["name"], "Project not found")
        found.json |= await request.json()
        return reply()

    async def delete_project(self, request: web.Request) -> web.Response:
        found = find(self.fake.projects, request.match_info["name"], "Project not found")
        if found.instances or found.images or found.volumes or len(found.profiles) > 1:
            raise Failure(500, "Only empty projects can be removed.")
        del self.fake.projects[found.name]
        return reply()

    # Instances

    async def list_instances(self, request: web.Request) -> web.Response:
        instances = self._project(request).instances.values()
        if request.query.get("recursion") == "2":
            return reply([one.json | {"state": self._state(one)} for one in instances])
        return reply([one.json for one in instances])

    async def create_instance(self, request: web.Request) -> web.Response:
        project, body = self._project(request), await request.json()

        async def work() -> None:
            made = self.fake.create_instance(project, body)
            if body.get("start"):
                await self.fake.set_running(project, made, True)

        return self.fake.run(request, "Creating instance", work, f"/1.0/instances/{body['name']}")

    async def get_instance(self, request: web.Request) -> web.Response:
        _, instance = self._instance(request)
        return reply(instance.json, etag=instance.etag)

    def _check_etag(self, request: web.Request, etag: str) -> None:
        wanted = request.headers.get("If-Match", "").strip('"')
        if wanted and wanted != etag:
            raise Failure(412, f"ETag doesn't match: {etag} vs {wanted}")

    async def patch_instance(self, request: web.Request) -> web.Response:
        project, instance = self._instance(request)
        self._check_etag(request, instance.etag)
        body, shown = await request.json(), instance.json
        for key in ("config", "devices"):
            shown[key] |= body.get(key) or {}
        for key, value in list(shown["config"].items()):
            if not value:
                del shown["config"][key]
        # A PATCH without a description empties it: this is what Incus 6.0.4 does.
        shown |= {"description": body.get("description", "")}
        shown |= {"profiles": body["profiles"]} if "profiles" in body else {}
        shown["expanded_devices"] |= shown["devices"]
        if body.get("devices") and instance.running:
            await self.fake.set_running(project, instance, True)
        self._changed(project, instance)
        return reply()

    async def put_instance(self, request: web.Request) -> web.Response:
        project, instance = self._instance(request)
        self._check_etag(request, instance.etag)
        body = await request.json()

        async def work() -> None:
            if snapshot := body.get("restore"):
                kept = find(instance.snapshots, snapshot, "Instance_snapshot not found")
                instance.files = copy.deepcopy(kept.files)
                instance.json["config"] = dict(kept.json["config"])
            else:
                for gone in set(instance.json["devices"]) - set(body["devices"]):
                    instance.json["expanded_devices"].pop(gone)
                instance.json |= {key: body[key] for key in ("config", "devices", "description")}
            self._changed(project, instance)

        return self.fake.run(request, "Updating instance", work)

    async def rename_instance(self, request: web.Request) -> web.Response:
        project, instance = self._instance(request)
        new = (await request.json())["name"]
        if new in project.instances:
            raise Failure(409, f'Name "{new}" already in use')
        if instance.running:
            raise Failure(400, "Renaming of running instance not allowed")

        async def work() -> None:
            project.instances[new] = project.instances.pop(instance.json["name"])
            instance.json["name"] = new

        return self.fake.run(request, "Renaming instance", work)

    async def delete_instance(self, request: web.Request) -> web.Response:
        project, instance = self._instance(request)
        if instance.running:
            raise Failure(400, "Instance is running")

        async def work() -> None:
            project.instances.pop(instance.json["name"], None)
            path = f"/1.0/instances/{instance.json['name']}"
            self.fake.emit(project.name, "instance-deleted", path)

        return self.fake.run(request, "Deleting instance", work)

    async def get_state(self, request: web.Request) -> web.Response:
        _, instance = self._instance(request)
        return reply(self._state(instance))

    def _state(self, instance: FakeInstance) -> Json:
        state = {key: instance.json[key] for key in ("status", "status_code")}
        loopback = {"family": "inet", "address": "127.0.0.1", "netmask": "8", "scope": "local"}
        commands = [run for run in self.fake.execs.values() if run.instance is instance]
        count = 2 + sum(not run.operation.over.is_set() for run in commands)
        runs = {"pid": 4711, "processes": count, "started_at": now(), "disk": {}}
        runs |= {"memory": {"usage": 1 << 20, "usage_peak": 2 << 20}, "cpu": {"usage": 1000}}
        stops: Json = {"pid": 0, "processes": 0, "started_at": NEVER, "network": None}
        runs["network"] = {"lo": {"addresses": [loopback]}}
        return state | (runs if instance.running else stops)

    async def put_state(self, request: web.Request) -> web.Response:
        project, instance = self._instance(request)
        action = (await request.json())["action"]

        async def work() -> None:
            if action == "start" and instance.running:
                raise Failure(500, "The instance is already running")
            if action == "stop" and not instance.running:
                raise Failure(400, "The instance is already stopped")
            await self.fake.set_running(project, instance, action != "stop")

        return self.fake.run(request, f"{action.title()}ing instance", work)

    async def rebuild_instance(self, request: web.Request) -> web.Response:
        project, instance = self._instance(request)
        source = (await request.json())["source"]
        if instance.running:
            raise Failure(400, "Instance must be stopped to be rebuilt")

        async def work() -> None:
            if instance.snapshots:
                raise Failure(500, "Cannot rebuild an instance with snapshots")
            instance.files = {}
            if source["type"] == "image":
                image = find(project.images, source["fingerprint"], "Image not found")
                instance.files = copy.deepcopy(image.get("files", {}))
                instance.json["config"]["volatile.base_image"] = image["fingerprint"]

        return self.fake.run(request, "Rebuilding instance", work)

    async def exec_command(self, request: web.Request) -> web.Response:
        project, instance = self._instance(request)
        if not instance.running:
            raise Failure(400, "Instance is not running")
        return self.fake.begin_exec(project, instance, await request.json())

    async def list_logs(self, request: web.Request) -> web.Response:
        _, instance = self._instance(request)
        return reply([f"/1.0/instances/{instance.json['name']}/logs/lxc.log"])

    async def get_log(self, request: web.Request) -> web.Response:
        self._instance(request)
        return web.Response(body=b"started\n")

    # Files and snapshots

    async def pull_file(self, request: web.Request) -> web.Response:
        _, instance = self._instance(request)
        path = request.query["path"]
        file = find(instance.files, path, "Not Found")
        headers = {"X-Incus-uid": str(file.uid), "X-Incus-gid": str(file.gid)}
        headers |= {"X-Incus-mode": f"{file.mode:04o}", "X-Incus-type": file.type}
        if file.type == "directory":
            inside = [name[len(path) + 1 :] for name in instance.files if name.startswith(path)]
            listed = reply([name for name in inside if name and "/" not in name])
            listed.headers.update(headers)
            return listed
        return web.Response(body=file.content, headers=headers)

    async def push_file(self, request: web.Request) -> web.Response:
        _, instance = self._instance(request)
        said = request.headers
        path = request.query["path"]
        if path.startswith("/nope/"):
            raise Failure(404, "Not Found")
        instance.files[path] = FakeFile(
            content=await request.read(),
            uid=int(said.get("X-Incus-uid", "0")),
            gid=int(said.get("X-Incus-gid", "0")),
            mode=int(said.get("X-Incus-mode", "0644"), 8),
            type=said.get("X-Incus-type", "file"),
        )
        return reply()

    async def delete_file(self, request: web.Request) -> web.Response:
        _, instance = self._instance(request)
        find(instance.files, request.query["path"], "Not Found")
        del instance.files[request.query["path"]]
        return reply()

    async def list_snapshots(self, request: web.Request) -> web.Response:
        _, instance = self._instance(request)
        return reply([one.json | {"name": name} for name, one in instance.snapshots.items()])

    async def create_snapshot(self, request: web.Request) -> web.Response:
        _, instance = self._instance(request)
        name = (await request.json())["name"]

        async def work() -> None:
            if name in instance.snapshots:
                raise Failure(500, "UNIQUE constraint failed: instances_snapshots.name")
            shown = copy.deepcopy(instance.json) | {"created_at": now()}
            instance.snapshots[name] = FakeInstance(shown, copy.deepcopy(instance.files))

        return self.fake.run(request, "Snapshotting instance", work)

    async def delete_snapshot(self, request: web.Request) -> web.Response:
        _, instance = self._instance(request)
        name = request.match_info["snapshot"]
        find(instance.snapshots, name, "Instance_snapshot not found")

        async def work() -> None:
            del instance.snapshots[name]

        return self.fake.run(request, "Deleting snapshot", work)

    # Images

    def _image(self, request: web.Request) -> tuple[Project, Json]:
        project, fingerprint = self._project(request), request.match_info["fingerprint"]
        sentence = f'Image "{fingerprint}" not found'
        return project, find(project.images, fingerprint, sentence)

    def _show_image(self, project: Project, image: Json) -> Json:
        mine = [name for name, target in project.aliases.items() if target == image["fingerprint"]]
        shown = {key: value for key, value in image.items() if key not in HIDDEN}
        return {**shown, "aliases": [{"name": name, "description": ""} for name in mine]}

    async def list_images(self, request: web.Request) -> web.Response:
        project = self._project(request)
        return reply([self._show_image(project, image) for image in project.images.values()])

    async def create_image(self, request: web.Request) -> web.Response:
        if request.content_type == "application/json":
            return await self.fake.make_image(request, await request.json())
        return await self.fake.import_image(request)

    async def get_image(self, request: web.Request) -> web.Response:
        project, image = self._image(request)
        return reply(self._show_image(project, image), etag=etag_of(image["properties"]))

    async def put_image(self, request: web.Request) -> web.Response:
        _, image = self._image(request)
        self._check_etag(request, etag_of(image["properties"]))
        body = await request.json()
        image |= {key: body[key] for key in ("properties", "auto_update", "public")}
        return reply()

    async def delete_image(self, request: web.Request) -> web.Response:
        project, image = self._image(request)

        async def work() -> None:
            fingerprint = image["fingerprint"]
            project.images.pop(fingerprint, None)
            for name in [name for name, to in project.aliases.items() if to == fingerprint]:
                del project.aliases[name]
            self.fake.emit(project.name, "image-deleted", f"/1.0/images/{fingerprint}")

        return self.fake.run(request, "Deleting image", work)

    async def export_image(self, request: web.Request) -> web.Response:
        _, image = self._image(request)
        return web.Response(body=image.get("content", b""))

    async def list_aliases(self, request: web.Request) -> web.Response:
        aliases = self._project(request).aliases
        return reply([_alias(name, target) for name, target in aliases.items()])

    async def create_alias(self, request: web.Request) -> web.Response:
        project, body = self._project(request), await request.json()
        if body["name"] in project.aliases:
            raise Failure(409, f'Alias "{body["name"]}" already exists')
        find(project.images, body["target"], f'Image "{body["target"]}" not found')
        project.aliases[body["name"]] = body["target"]
        return reply()

    async def get_alias(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        target = find(self._project(request).aliases, name, "Image alias not found")
        return reply(_alias(name, target))

    async def put_alias(self, request: web.Request) -> web.Response:
        project, name = self._project(request), request.match_info["name"]
        find(project.aliases, name, "Image alias not found")
        target = (await request.json())["target"]
        find(project.images, target, f'Image "{target}" not found')
        project.aliases[name] = target
        return reply()

    async def delete_alias(self, request: web.Request) -> web.Response:
        aliases, name = self._project(request).aliases, request.match_info["name"]
        find(aliases, name, "Image alias not found")
        del aliases[name]
        return reply()

    # Storage

    def _volume(self, request: web.Request) -> tuple[Project, tuple[str, str], Json]:
        project, key = self._project(request), (request.match_info["pool"], "")
        find(self.fake.pools, key[0], "Storage pool not found")
        key = (key[0], request.match_info["volume"])
        volume = project.volumes.get(key)
        if volume is None:
            raise Failure(404, "Storage pool volume not found")
        return project, key, volume | {"used_by": _users(project, key)}

    def _pool(self, request: web.Request) -> Json:
        return find(self.fake.pools, request.match_info["pool"], "Storage pool not found")

    async def get_resources(self, request: web.Request) -> web.Response:
        return reply(self._pool(request)["resources"])

    async def list_volumes(self, request: web.Request) -> web.Response:
        pool, project = self._pool(request)["name"], self._project(request)
        return reply(
            [
                volume | {"used_by": _users(project, key)}
                for key, volume in project.volumes.items()
                if key[0] == pool
            ]
        )

    async def create_volume(self, request: web.Request) -> web.Response:
        if request.content_type == "application/octet-stream":
            return await self._import_volume(request)
        project, body = self._project(request), await request.json()
        if (source := body.get("source")) and source["type"] == "copy":
            copied = find(
                project.volumes, (source["pool"], source["name"]), "Storage pool volume not found"
            )
            body = {"config": {**copied["config"]}, **body}
        key = (self._pool(request)["name"], body["name"])
        if key in project.volumes:
            raise Failure(409, "Volume by that name already exists")
        volume = {"type": "custom", "content_type": "filesystem", "description": "", "config": {}}
        volume |= {"location": "none", "created_at": now(), "used_by": []}
        project.volumes[key] = volume | body
        return reply()

    async def get_volume(self, request: web.Request) -> web.Response:
        return reply(self._volume(request)[2])

    async def get_volume_state(self, request: web.Request) -> web.Response:
        # `used` is no key of Incus's: tests say there how full a volume is.
        return reply({"usage": {"used": self._volume(request)[2].get("used", 0), "total": 0}})

    async def put_volume(self, request: web.Request) -> web.Response:
        project, key, _ = self._volume(request)
        body = await request.json()
        if "restore" in body:
            snapshots = project.volume_snapshots.get(key, {})
            kept = find(snapshots, body["restore"], "Storage volume snapshot not found")
            if any(project.instances[name].running for name in _user_names(project, key)):
                raise Failure(500, "Cannot restore custom volume used by running instances")
            project.volumes[key]["written_by"] = kept["written_by"]
        else:
            project.volumes[key] |= body
        return reply()

    async def delete_volume(self, request: web.Request) -> web.Response:
        project, key, volume = self._volume(request)
        if volume["used_by"]:
            raise Failure(400, "The storage volume is still in use")
        del project.volumes[key]
        project.volume_snapshots.pop(key, None)
        return reply()

    async def backup_volume(self, request: web.Request) -> web.Response:
        _, _, volume = self._volume(request)
        name = (await request.json())["name"]

        async def work() -> None:
            content = gzip.compress(pack_volume(volume["config"]), mtime=0)
            volume.setdefault("backups", {})[name] = content

        project, key, _ = self._volume(request)
        volume = project.volumes[key]
        return self.fake.run(request, "Backing up storage volume", work)

    async def export_backup(self, request: web.Request) -> web.Response:
        _, _, volume = self._volume(request)
        content = find(volume.get("backups", {}), request.match_info["backup"], "Not found")
        return web.Response(body=content, content_type="application/octet-stream")

    async def _import_volume(self, request: web.Request) -> web.Response:
        project, content = self._project(request), await request.read()
        key = (self._pool(request)["name"], request.headers["X-Incus-name"])
        try:
            config = read_backup(content)
        except (ValueError, OSError, tarfile.TarError, zstandard.ZstdError):
            raise Failure(400, "Invalid backup") from None
        if key in project.volumes:
            raise Failure(409, "Volume by that name already exists")

        async def work() -> None:
            volume = {"type": "custom", "content_type": "filesystem", "description": ""}
            volume |= {"location": "none", "created_at": now(), "used_by": []}
            project.volumes[key] = volume | {"name": key[1], "config": config}

        return self.fake.run(request, "Restoring storage volume", work)

    async def rename_volume(self, request: web.Request) -> web.Response:
        project, key, volume = self._volume(request)
        new = (key[0], (await request.json())["name"])
        if volume["used_by"]:
            raise Failure(400, "The storage volume is still in use")
        if new in project.volumes:
            raise Failure(409, "Volume by that name already exists")
        project.volumes[new] = project.volumes.pop(key) | {"name": new[1]}
        project.volume_snapshots[new] = project.volume_snapshots.pop(key, {})
        return reply()

    async def volume_snapshots(self, request: web.Request) -> web.Response:
        project, key, _ = self._volume(request)
        return reply(list(project.volume_snapshots.get(key, {}).values()))

    async def snapshot_volume(self, request: web.Request) -> web.Response:
        project, key, volume = self._volume(request)
        name = (await request.json())["name"]
        if name in project.volume_snapshots.get(key, {}):
            raise Failure(409, f'Snapshot "{name}" already in use')

        async def work() -> None:
            made = {"name": f"{key[1]}/{name}", "created_at": now(), "description": ""}
            made["config"] = dict(project.volumes[key]["config"])
            made |= {"written_by": volume.get("written_by", "")}
            project.volume_snapshots.setdefault(key, {})[name] = made

        return self.fake.run(request, "Creating storage volume snapshot", work)

    async def delete_volume_snapshot(self, request: web.Request) -> web.Response:
        project, key, _ = self._volume(request)
        snapshots, name = project.volume_snapshots.get(key, {}), request.match_info["snapshot"]
        find(snapshots, name, "Storage volume snapshot not found")
        del snapshots[name]
        return reply()

    # Networks

    def _networks(self) -> dict[str, Json]:
        """All, each with the instances that are on it now."""
        for name, one in self.fake.networks.items():
            one["used_by"] = [
                f"/1.0/instances/{instance.json['name']}"
                for project in self.fake.projects.values()
                for instance in project.instances.values()
                if any(keys.get("network") == name for keys in instance.json["devices"].values())
            ]
        return self.fake.networks

    def _network(self, request: web.Request) -> Json:
        return find(self.fake.networks, request.match_info["name"], "Network not found")

    async def get_network_state(self, request: web.Request) -> web.Response:
        address = self._network(request)["config"].get("ipv4.address", "").partition("/")[0]
        addresses = [{"family": "inet", "address": address, "scope": "global"}] if address else []
        return reply({"state": "up", "hwaddr": "10:66:6a:00:00:01", "addresses": addresses})

    async def get_leases(self, request: web.Request) -> web.Response:
        self._network(request)
        return web.json_response({"type": "sync", "metadata": []})


def _alias(name: str, target: str) -> Json:
    return {"name": name, "target": target, "description": "", "type": "container"}


def _users(project: Project, volume: tuple[str, str]) -> list[str]:
    """The instances that a volume is attached to."""
    return [
        f"/1.0/instances/{name}?project={project.name}" for name in _user_names(project, volume)
    ]


def _user_names(project: Project, volume: tuple[str, str]) -> list[str]:
    return [
        name
        for name, instance in project.instances.items()
        for device in instance.json["expanded_devices"].values()
        if (device.get("pool"), device.get("source")) == volume
    ]
