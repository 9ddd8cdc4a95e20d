"""Instances: create them, run them, change them, look at them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from urllib.parse import quote

from tinyagentos.incus.errors import NotFound, OperationLost
from tinyagentos.incus.exec import (
    MOST_OUTPUT,
    ExecResult,
    Execution,
    Feed,
    Terminal,
    command_of,
    open_execution,
    open_terminal,
    run_exec,
)
from tinyagentos.incus.instance import (
    Devices,
    Instance,
    InstanceRequest,
    InstanceState,
    Snapshot,
)
from tinyagentos.incus.operations import OPERATION_WITHIN, Api
from tinyagentos.incus.parse import Object, as_object, as_objects

PATH = "/1.0/instances"
EXEC_WITHIN = 300.0
STOP_TIMEOUT = 30
CPUS = "limits.cpu"
ALL_CPUS = "65536"  # Incus gives as many of those asked for as there are


@dataclass(frozen=True)
class Instances:
    """The instances of the project.

    Every method raises NotFound for a name that is not there, unless it says otherwise.
    """

    api: Api

    async def list(self, *, with_state: bool = False) -> tuple[Instance, ...]:
        """All instances; with_state asks each what it uses now, which is slow for many."""
        query = {"recursion": "2" if with_state else "1"}
        return tuple(
            Instance.parse(one) for one in as_objects(await self.api.get(PATH, query=query))
        )

    async def find(self, name: str) -> Instance | None:
        """The instance, or None."""
        with contextlib.suppress(NotFound):
            return await self.get(name)
        return None

    async def get(self, name: str) -> Instance:
        """The instance, with its ETag."""
        reply = await self.api.call("GET", _path(name))
        return Instance.parse(as_object(reply.metadata), reply.etag)

    async def state(self, name: str) -> InstanceState:
        """What the instance uses now."""
        return InstanceState.parse(as_object(await self.api.get(_path(name, "state"))))

    async def create(
        self, request: InstanceRequest, *, start: bool = False, within: float = OPERATION_WITHIN
    ) -> Instance:
        """The new instance, running if start says so.

        Raises AlreadyExists when the name is taken, NotFound when the image, volume or profile
        is not there, NoSpace.
        """
        try:
            await self.api.run("POST", PATH, request.body(start), within=within)
        except OperationLost:
            # The daemon restarted or the connection was away too long: the instance tells.
            found = await self.find(request.name)
            if found is None or (start and not found.is_running):
                raise
            return found
        return await self.get(request.name)

    async def start(self, name: str, *, within: float = OPERATION_WITHIN) -> None:
        """Return when the instance runs; one that runs already is left alone."""
        await self._change(name, "start", "Running", {}, within)

    async def stop(
        self,
        name: str,
        *,
        force: bool = False,
        timeout: float = STOP_TIMEOUT,
        within: float = OPERATION_WITHIN,
    ) -> None:
        """Return when the instance is stopped; one that is stopped already is left alone.

        force: kill it. timeout: seconds it is given to shut down before the stop fails.
        """
        body = {"force": force, "timeout": max(1, round(timeout))}
        await self._change(name, "stop", "Stopped", body, within)

    async def restart(
        self,
        name: str,
        *,
        force: bool = False,
        timeout: float = STOP_TIMEOUT,
        within: float = OPERATION_WITHIN,
    ) -> None:
        """Return when the instance runs again."""
        body = {"action": "restart", "force": force, "timeout": max(1, round(timeout))}
        await self.api.run("PUT", _path(name, "state"), body, within=within)

    async def delete(self, name: str, *, force: bool = False) -> None:
        """Delete the instance; IncusError when it runs, unless force stops it first."""
        if force:
            await self.stop(name, force=True)
        try:
            await self.api.run("DELETE", _path(name))
        except OperationLost:
            if await self.find(name):
                raise
        except NotFound:
            # An ephemeral instance goes by itself when it is stopped.
            if not force:
                raise

    async def update(
        self,
        name: str,
        *,
        config: Mapping[str, str] | None = None,
        devices: Devices | None = None,
        description: str | None = None,
        profiles: Sequence[str] | None = None,
        etag: str = "",
    ) -> None:
        """Change these config keys and devices, and leave the others; an empty value unsets a key.

        etag: change only the version that get() returned, else PreconditionFailed.
        """
        if description is None:
            # Incus (6.0.4) empties the description when a PATCH leaves it out.
            description = (await self.get(name)).description
        body: dict[str, object] = {"description": description}
        if config is not None:
            body["config"] = dict(config)
        if devices is not None:
            body["devices"] = {device: dict(keys) for device, keys in devices.items()}
        if profiles is not None:
            body["profiles"] = list(profiles)
        if config is not None and CPUS in config:
            # Incus (6.0.4) spreads instances over processors at each change of this key, but often
            # by what it was before the change. So it changes twice, to one meaning.
            first = {**config, CPUS: _same_cpus(config[CPUS])}
            await self.api.run("PATCH", _path(name), {**body, "config": first}, etag=etag)
            body, etag = {"description": description, "config": {CPUS: config[CPUS]}}, ""
        await self.api.run("PATCH", _path(name), body, etag=etag)

    async def drop_templates(self, name: str) -> None:
        """Have Incus write no more files of the image's templates into the instance's root.

        Incus (6.0.4) does not start an instance where it cannot write one, such as to a symbolic
        link to nowhere.
        """
        path = f"{_path(name)}/metadata"
        metadata = as_object(await self.api.get(path))
        if metadata.get("templates"):
            await self.api.call("PUT", path, {**metadata, "templates": {}})

    async def remove_device(self, name: str, device: str) -> None:
        """Detach the device; PreconditionFailed when somebody else changed the instance."""
        instance = await self.get(name)
        if device not in instance.devices:
            return
        left = {key: dict(value) for key, value in instance.devices.items() if key != device}
        body = {
            "architecture": instance.architecture,
            "config": dict(instance.config),
            "description": instance.description,
            "devices": left,
            "ephemeral": instance.ephemeral,
            "profiles": list(instance.profiles),
        }
        await self.api.run("PUT", _path(name), body, etag=instance.etag)

    async def rename(self, name: str, new: str) -> None:
        """Give the stopped instance another name; AlreadyExists when that is taken."""
        await self.api.run("POST", _path(name), {"name": new})

    async def rebuild(
        self, name: str, *, image: str = "", within: float = OPERATION_WITHIN
    ) -> None:
        """Replace the root of the stopped instance by the image, or by an empty one.

        Config and devices stay. Incus refuses an instance that has snapshots.
        """
        source = {"type": "image", "fingerprint": image} if image else {"type": "none"}
        await self.api.run("POST", _path(name, "rebuild"), {"source": source}, within=within)

    async def list_snapshots(self, name: str) -> tuple[Snapshot, ...]:
        """The snapshots, oldest first."""
        seen = await self.api.get(_path(name, "snapshots"), query={"recursion": "1"})
        return tuple(Snapshot.parse(one) for one in as_objects(seen))

    async def create_snapshot(self, name: str, snapshot: str) -> None:
        """Keep the instance's root as it is now; AlreadyExists when the name is taken."""
        await self.api.run("POST", _path(name, "snapshots"), {"name": snapshot})

    async def delete_snapshot(self, name: str, snapshot: str) -> None:
        """Delete the snapshot."""
        await self.api.run("DELETE", _path(name, "snapshots", snapshot))

    async def restore_snapshot(self, name: str, snapshot: str) -> None:
        """Bring the instance back to the snapshot."""
        await self.api.run("PUT", _path(name), {"restore": snapshot})

    async def list_logs(self, name: str) -> tuple[str, ...]:
        """The names of the log files that Incus keeps for the instance."""
        seen = await self.api.get(_path(name, "logs"))
        paths = seen if isinstance(seen, list) else []
        return tuple(str(path).rsplit("/", 1)[-1] for path in paths)

    async def log(self, name: str, file: str = "lxc.log") -> bytes:
        """The content of one of Incus's log files for the instance."""
        return await self._read(_path(name, "logs", file))

    async def console_log(self, name: str) -> bytes:
        """What the instance wrote on its console since it started."""
        return await self._read(_path(name, "console"))

    async def exec(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        user: int = 0,
        group: int = 0,
        cwd: str = "",
        stdin: Feed = None,
        within: float = EXEC_WITHIN,
        most: int = MOST_OUTPUT,
    ) -> ExecResult:
        """How the command ended, with all it wrote; a failure is an exit code, not an error.

        Raises IncusTimeout after `within` seconds. A command whose caller goes is killed (its
        own children are not, unless they end with it), and so is one that writes `most` bytes.
        """
        command = command_of(argv, env, user, group, cwd)
        return await run_exec(self.api, name, command, stdin=stdin, within=within, most=most)

    def exec_stream(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        user: int = 0,
        group: int = 0,
        cwd: str = "",
        stdin: Feed = None,
        within: float = EXEC_WITHIN,
    ) -> AbstractAsyncContextManager[Execution]:
        """The running command, whose output is iterated over as it arrives:

        async with incus.instances.exec_stream(name, argv, within=60) as execution:
            async for stream, data in execution:    # ("stdout" or "stderr", bytes)
                ...
        execution.exit_code
        """
        command = command_of(argv, env, user, group, cwd)
        return open_execution(self.api, name, command, stdin=stdin, within=within)

    def exec_interactive(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        user: int = 0,
        group: int = 0,
        cwd: str = "",
        width: int = 80,
        height: int = 24,
    ) -> AbstractAsyncContextManager[Terminal]:
        """The command on a terminal, to be used in `async with`; it has no deadline."""
        command = command_of(argv, env, user, group, cwd, (width, height))
        return open_terminal(self.api, name, command)

    async def _change(
        self, name: str, action: str, wanted: str, body: Object, within: float
    ) -> None:
        """Have the instance started or stopped, unless it is so already."""
        instance = await self.get(name)
        if instance.is_running if wanted == "Running" else instance.status == wanted:
            return
        try:
            await self.api.run(
                "PUT", _path(name, "state"), {"action": action, **body}, within=within
            )
        except OperationLost:
            found = await self.find(name)
            if found is not None and found.is_running != (wanted == "Running"):
                raise

    async def _read(self, path: str) -> bytes:
        async with self.api.transport.download(path, query=self.api.query()) as download:
            return await download.read()


def _same_cpus(cpus: str) -> str:
    """Another way to write this value of limits.cpu."""
    return f"0{cpus}" if cpus else ALL_CPUS


def _path(name: str, *more: str) -> str:
    return "/".join((PATH, *(quote(part, safe="") for part in (name, *more))))
