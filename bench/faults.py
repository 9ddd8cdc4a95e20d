"""Two faults in every step of every kind of job about an agent, on real Incus with real agents.

The server is killed (`kill -9`) or Incus is restarted while the step runs. The job must end by
itself, the agent must be what was asked for, and Incus must hold what the API lists: no more, no less.
The framework is the one that boots quickest. `faults.py kill` or `faults.py incus` tries one fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.common import Server, incus, keep, names, server
from bench.kill import held_volumes, wait_step
from tinyagentos import proc
from tinyagentos.agents import bundle, lifecycle, network, settings, snapshots, upgrade
from tinyagentos.agents import keep as keeping
from tinyagentos.agents.steps import BUILD_STEPS, CONNECT, IMAGE_STEPS, READY
from tinyagentos.config import Settings
from tinyagentos.host import incus_daemon

FRAMEWORK = "hermes-agent"
POWER = (lifecycle.START, CONNECT, READY)
Json = dict[str, Any]
Begin = Callable[[Server], Json]


@dataclass(frozen=True)
class Kind:
    """A kind of job: how it is begun with an agent `hello` that is ready, and what is there then."""

    begin: Begin
    steps: tuple[str, ...]
    agents: tuple[tuple[str, str], ...] = (("hello", "ready"),)
    kept: int = 0
    has_previous: bool = False


def post(path: str, body: Json | None = None, method: str = "POST") -> Begin:
    """Begin a job by asking the API for it."""

    def begin(taos: Server) -> Json:
        answer = taos.http.request(method, path, json=body)
        answer.raise_for_status()
        job: Json = answer.json()["job"]
        return job

    return begin


def after(first: Begin, then: Begin) -> Begin:
    """Begin the second job when the first has ended."""

    def begin(taos: Server) -> Json:
        ended = taos.wait(first(taos)["id"])
        assert ended["state"] == "succeeded", ended["error"]
        return then(taos)

    return begin


def export(taos: Server) -> Json:
    """Export the agent into a new file."""
    path = taos.folder / f"x{time.monotonic_ns()}.taos"
    return post("/api/files/agents/export", {"name": "hello", "path": str(path)})(taos)


def import_again(taos: Server) -> Json:
    """Keep the state in an exported file."""
    job = taos.wait(export(taos)["id"])
    return post("/api/files/agents/import", {"path": job_file(taos, job)})(taos)


def job_file(taos: Server, _: object) -> str:
    """The newest exported file."""
    return str(max(taos.folder.glob("*.taos"), key=lambda path: path.stat().st_mtime))


def keep_image(taos: Server) -> Json:
    """Build an agent where there is no image, and catch the job that keeps one."""
    taos.wait(taos.http.delete("/api/agents/hello").json()["job"]["id"])
    taos.http.delete(f"/api/images/{FRAMEWORK}").raise_for_status()
    built = taos.wait(taos.deploy("hello", "build", framework=FRAMEWORK)["id"])
    assert built["state"] == "succeeded", built["error"]
    [job] = [j for j in taos.http.get("/api/jobs").json() if j["kind"] == keeping.KEEP][:1]
    found: Json = job
    return found


def deploy(source: str) -> Begin:
    """Another agent."""
    return lambda taos: taos.deploy("new", source, framework=FRAMEWORK)


BOTH = (("hello", "ready"), ("new", "ready"))
AGENT = "/api/agents/hello"
SNAPSHOT = post(f"{AGENT}/snapshots", {"name": "one"})
UPGRADE = post(f"{AGENT}/upgrade")
KINDS = {
    "deploy by image": Kind(deploy("image"), IMAGE_STEPS, BOTH),
    "deploy by build": Kind(deploy("build"), BUILD_STEPS, BOTH),
    "keep image": Kind(keep_image, keeping.STEPS),
    "start": Kind(after(post(f"{AGENT}/stop"), post(f"{AGENT}/start")), POWER),
    "stop": Kind(post(f"{AGENT}/stop"), (lifecycle.STOP,), (("hello", "stopped"),)),
    "restart": Kind(post(f"{AGENT}/restart"), (lifecycle.STOP, *POWER)),
    "network": Kind(post(f"{AGENT}/network", {"policy": "none"}, "PUT"), network.STEPS),
    "settings": Kind(post(AGENT, {"cpu": 1}, "PATCH"), (settings.APPLY,)),
    "snapshot": Kind(SNAPSHOT, (snapshots.KEEP,)),
    "restore": Kind(
        after(SNAPSHOT, post(f"{AGENT}/snapshots/one/restore")), snapshots.RESTORE_STEPS
    ),
    "drop snapshot": Kind(
        after(SNAPSHOT, post(f"{AGENT}/snapshots/one", method="DELETE")), (snapshots.REMOVE,)
    ),
    "export": Kind(export, bundle.EXPORT_STEPS),
    "import": Kind(import_again, bundle.IMPORT_STEPS, kept=1),
    "upgrade": Kind(UPGRADE, upgrade.IMAGE_STEPS, has_previous=True),
    "undo upgrade": Kind(after(UPGRADE, post(f"{AGENT}/undo")), upgrade.UNDO_STEPS),
    "delete, state kept": Kind(
        post(f"{AGENT}?keep_state=1", method="DELETE"), (lifecycle.REMOVE,), (), kept=1
    ),
    "delete": Kind(post(AGENT, method="DELETE"), (lifecycle.REMOVE,), ()),
}


def main() -> None:
    """Try each fault in each step of each kind."""
    wanted = sys.argv[1:2] or list(FAULTS)
    chosen = sys.argv[2:] or list(KINDS)
    rows = []
    with server() as taos:
        taos.start()
        for name in chosen:
            for step in KINDS[name].steps:
                for fault in wanted:
                    begun = time.monotonic()
                    row = try_fault(taos, name, step, fault)
                    row["seconds"] = round(time.monotonic() - begun, 1)
                    rows.append(row)
                    print(json.dumps(row), file=sys.stderr, flush=True)
    figures = {
        "cases": len(rows),
        "caught_in_step": sum(row["caught"] for row in rows),
        "not_clean": [row for row in rows if row["wrong"]],
        "rows": rows,
    }
    keep("faults", figures)


def try_fault(taos: Server, name: str, step: str, fault: str) -> Json:
    """One case, on a project with one agent."""
    kind = KINDS[name]
    with tidied(taos):
        ready_agent(taos)
        job_id = kind.begin(taos)["id"]
        caught = wait_step(taos, job_id, step)
        FAULTS[fault](taos)
        job = taos.wait(job_id, within=200)
        wait_quiet(taos)
        wrong = [] if job["state"] == "succeeded" else [f"{job['state']}: {job['error']}"]
        wrong += differences(taos, kind)
        return {"kind": name, "step": step, "fault": fault, "caught": caught,
                "attempts": job.get("attempt"), "wrong": wrong}  # fmt: skip


def ready_agent(taos: Server) -> None:
    """Deploy `hello`, which looks like one of an older version."""
    job = taos.wait(taos.deploy("hello", framework=FRAMEWORK)["id"])
    assert job["state"] == "succeeded", job["error"]
    wait_quiet(taos)
    instance = taos.http.get(AGENT).json()["instance"]
    incus("config", "set", instance, "user.taos.version=0", project=taos.project)


def wait_quiet(taos: Server) -> None:
    """Wait until no job is at work."""
    for job in taos.http.get("/api/jobs").json():
        if job["state"] in ("queued", "running", "interrupted"):
            taos.wait(job["id"], within=200)


def kill_server(taos: Server) -> None:
    """As a power cut of the server alone."""
    taos.kill()
    taos.start()


def restart_incus(_: Server) -> None:
    """End the daemon and have it serve again; what runs in instances goes on."""
    pid = incus_daemon.find_process("incusd")
    assert pid

    async def again() -> None:
        await proc.end(pid, within=60, sign=signal.SIGTERM)
        await incus_daemon.ensure_running(Settings(), lambda _: None)

    asyncio.run(again())


FAULTS = {"kill": kill_server, "incus": restart_incus}


def differences(taos: Server, kind: Kind) -> list[str]:
    """How what is there differs from what the kind's job leaves behind."""
    until = time.monotonic() + 30
    wanted = dict(kind.agents)
    while True:  # an agent that Incus's restart did not touch may be asked a little later
        agents = taos.http.get("/api/agents").json()
        states = {one["name"]: one["state"] for one in agents}
        if states == wanted or time.monotonic() > until:
            break
        time.sleep(0.2)
    found = [] if states == wanted else [f"agents {states}"]
    held = {one["instance"] for one in agents}
    expected = held | ({f"{one}-previous" for one in held} if kind.has_previous else set())
    found += [f"instance {name}" for name in sorted(expected ^ set(names("list", taos.project)))]
    kept = {one["name"] for one in taos.http.get("/api/kept").json()}
    if len(kept) != kind.kept:
        found.append(f"kept states {sorted(kept)}")
    volumes = {f"{one}-state" for one in held} | kept
    found += [f"volume {name}" for name in sorted(volumes ^ held_volumes(taos))]
    sockets = {path.stem for path in (taos.folder / "data" / "agents").iterdir()}
    found += [f"socket {name}" for name in sorted(sockets - held)]
    found += [f"file {path.name}" for path in taos.folder.rglob("*.part")]
    listed = {row["fingerprint"] for row in taos.http.get("/api/images").json()} - {""}
    images = json.loads(incus("image", "list", "--format", "json", project=taos.project))
    found += [f"image {one}" for one in sorted(listed ^ {i["fingerprint"] for i in images})]
    return found


@contextlib.contextmanager
def tidied(taos: Server) -> Iterator[None]:
    """Remove agents, kept states and files when a case has ended."""
    yield
    for agent in taos.http.get("/api/agents").json():
        taos.delete(agent["name"])
    for one in taos.http.get("/api/kept").json():
        taos.http.delete(f"/api/kept/{one['name']}").raise_for_status()
    for path in taos.folder.glob("*.taos"):
        path.unlink()


if __name__ == "__main__":
    main()
