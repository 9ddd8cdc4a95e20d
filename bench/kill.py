"""kill -9 of the server in every step of a deploy, by both paths; then: does Incus hold what the API lists?

The server is started again after each kill; the job must end without help.
"""

from __future__ import annotations

import json
import sys
import time

from bench.common import Server, incus, keep, names, server

IMAGE_STEPS = (
    "plan",
    "create instance",
    "configure agent",
    "start agent",
    "connect to agent",
    "wait until ready",
)
BUILD_STEPS = ("plan", "base image", "create instance", "install framework", "configure agent",
               "start agent", "connect to agent", "wait until ready")  # fmt: skip


def main() -> None:
    """Kill in each step in turn."""
    rows = []
    with server() as taos:
        taos.start()
        taos.wait(taos.deploy("first", "build")["id"])
        taos.wait_all()
        taos.delete("first")
        for source, steps in (("image", IMAGE_STEPS), ("build", BUILD_STEPS)):
            for step in steps:
                rows.append(kill_in(taos, source, step))
                print(rows[-1], file=sys.stderr)
    keep("kill", {"rows": rows, "all_clean": all(row["clean"] for row in rows)})


def kill_in(taos: Server, source: str, step: str) -> dict[str, object]:
    """Deploy, kill the server when the step runs, start it again, wait, compare, delete."""
    job_id = taos.deploy("victim", source)["id"]
    caught = wait_step(taos, job_id, step)
    taos.kill()
    taos.start()
    job = taos.wait(job_id)
    taos.wait_all()
    differences = compare(taos)
    state = job["state"]
    if state == "succeeded":
        taos.delete("victim")
    return {
        "source": source, "step": step, "caught_in_step": caught, "state": state,
        "attempts": job.get("attempt"), "differences": differences, "clean": not differences,
    }  # fmt: skip


def wait_step(taos: Server, job_id: object, step: str) -> bool:
    """Return when the step runs; False when it was over before it was seen."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        job = taos.job(job_id)
        states = {s["name"]: s["state"] for s in job["steps"]}  # type: ignore[attr-defined]
        if states.get(step) == "running":
            return True
        if states.get(step) in ("succeeded", "failed") or job["state"] not in ("queued", "running"):
            return False
        time.sleep(0.001)
    raise RuntimeError(f"step {step} never ran")


def compare(taos: Server) -> list[str]:
    """What Incus holds and the API does not list, or the other way round."""
    agents = taos.http.get("/api/agents").json()
    listed = {agent["instance"] for agent in agents}
    held = set(names("list", taos.project))
    images = {
        row["fingerprint"] for row in taos.http.get("/api/images").json() if row["fingerprint"]
    }
    in_incus = json.loads(incus("image", "list", "--format", "json", project=taos.project))
    found = [f"instance {name}" for name in sorted(held ^ listed)]
    found += [f"image {f[:12]}" for f in sorted(images ^ {i["fingerprint"] for i in in_incus})]
    volumes = held_volumes(taos)
    found += [f"volume {name}" for name in sorted(volumes ^ {f"{name}-state" for name in listed})]
    sockets = {path.stem for path in (taos.folder / "data" / "agents").iterdir()}
    found += [f"socket {name}" for name in sorted(sockets - listed)]
    return found


def held_volumes(taos: Server) -> set[str]:
    """Custom volumes of the project."""
    pools = json.loads(incus("storage", "list", "--format", "json"))
    found = set()
    for pool in pools:
        listed = incus(
            "storage", "volume", "list", pool["name"], "--format", "json", project=taos.project
        )
        found |= {
            v["name"] for v in json.loads(listed)
            if v["type"] == "custom" and v.get("project") == taos.project and "/" not in v["name"]
        }  # fmt: skip
    return found


if __name__ == "__main__":
    main()
