"""What an upgrade costs its user: how long the agent is away, against what its own boot takes.

Both boots are by Incus alone and in turn with the upgrades: of an instance that ran before (what an
undone upgrade returns to), and of a new one from the image (what an upgrade boots). Then an upgrade
to an image whose agent never answers: how long until the old version answers again.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx

from bench.common import Server, incus, keep, server
from tinyagentos.factory.recipe import load_recipe

ROUNDS = 3
READY_WITHIN = 30
FRAMEWORK = sys.argv[1] if len(sys.argv) > 1 else "openclaw"
AGENT = load_recipe(FRAMEWORK).agent


def main() -> None:
    """Measure boots, upgrades and their undoing, then the broken one."""
    with server(TAOS_READY_WITHIN=str(READY_WITHIN)) as taos:
        taos.start()
        done(taos, taos.deploy("one", "build", framework=FRAMEWORK)["id"])
        taos.wait_all()
        rows: dict[str, list[float]] = {"boot": [], "new_boot": [], "upgrade": [], "undo": []}
        for _ in range(ROUNDS):
            rows["boot"].append(boot(taos))
            rows["new_boot"].append(new_boot(taos))
            pretend_old(taos)
            rows["upgrade"].append(away(taos, "upgrade"))
            rows["undo"].append(away(taos, "undo"))
        figures: dict[str, Any] = {"framework": FRAMEWORK, "seconds_away": rows}
        middle = {what: round(statistics.median(found), 2) for what, found in rows.items()}
        figures["median"] = middle
        figures["over_boot"] = {
            what: round(middle[what] - middle[own], 2)
            for what, own in (("upgrade", "new_boot"), ("undo", "boot"))
        }
        figures["over_boot_limit"] = 3.0
        figures["broken"] = broken(taos)
        keep("upgrade" if FRAMEWORK == "openclaw" else f"upgrade_{FRAMEWORK}", figures)


def instance_of(taos: Server) -> str:
    """The agent's instance."""
    return str(taos.http.get("/api/agents/one").json()["instance"])


def done(taos: Server, job_id: object) -> dict[str, Any]:
    """The job, which must have succeeded."""
    job = taos.wait(job_id)
    if job["state"] != "succeeded":
        raise SystemExit(f"{job['kind']} failed: {job['error']}")
    return job


def pretend_old(taos: Server) -> None:
    """Have the agent look like one of an older version."""
    incus("config", "set", instance_of(taos), "user.taos.version=0", project=taos.project)


def boot(taos: Server) -> float:
    """Seconds from Incus's start of the stopped instance to the agent's own readiness."""
    instance = instance_of(taos)
    incus("stop", instance, project=taos.project)
    with watching(taos) as seen:
        begun = time.monotonic()
        incus("start", instance, project=taos.project)
        return round(seen.until_ready(after=begun) - begun, 2)


def new_boot(taos: Server) -> float:
    """The same for a new instance from the image, with all that makes it an agent but its state."""
    env = incus(
        "file", "pull", f"{instance_of(taos)}/etc/taos/agent.env", "-", project=taos.project
    )
    image = json.loads(
        incus("image", "list", f"{FRAMEWORK}/x64", "--format", "json", project=taos.project)
    )
    incus("create", image[0]["fingerprint"], "new", project=taos.project)
    incus("file", "push", "-", "new/etc/taos/agent.env", project=taos.project, stdin=env.encode())
    asked = f"http://127.0.0.1:{AGENT.port}{AGENT.ready_path}"
    until_200 = f"while ! curl -sf -o /dev/null {asked}; do sleep 0.02; done"
    begun = time.monotonic()
    incus("start", "new", project=taos.project)
    incus("exec", "new", "--", "timeout", "120", "sh", "-c", until_200, project=taos.project)
    took = time.monotonic() - begun
    incus("delete", "--force", "new", project=taos.project)
    return round(took, 2)


def away(taos: Server, action: str) -> float:
    """Seconds between the agent's last answer before the job's stop and its first one after."""
    with watching(taos) as seen:
        seen.until_ready(after=time.monotonic())
        job = done(taos, taos.http.post(f"/api/agents/one/{action}").json()["job"]["id"])
        print(action, {s["name"]: s["seconds"] for s in job["steps"]}, file=sys.stderr)
        seen.until_ready(after=time.monotonic())
        return round(seen.longest_gap(), 2)


def broken(taos: Server) -> dict[str, Any]:
    """Upgrade to an image whose agent starts and never becomes ready; until the old one answers."""
    alias, bad = f"{FRAMEWORK}/x64", "broken"
    good = json.loads(incus("image", "list", alias, "--format", "json", project=taos.project))
    incus("launch", alias, bad, project=taos.project)
    # It lives, so nothing but the readiness limit ends the waiting.
    silent = "[Service]\nExecStart=\nExecStart=/bin/sleep infinity\n"
    incus("exec", bad, "--", "sh", "-c",
          "mkdir -p /etc/systemd/system/agent.service.d && "
          "cat > /etc/systemd/system/agent.service.d/silent.conf",
          project=taos.project, stdin=silent.encode())  # fmt: skip
    incus("stop", "--force", bad, project=taos.project)
    incus("image", "alias", "delete", alias, project=taos.project)
    incus("publish", bad, "--alias", alias, "--compression", "none", "taos.version=9999.0",
          project=taos.project)  # fmt: skip
    incus("delete", bad, project=taos.project)
    with watching(taos) as seen:
        begun = time.monotonic()
        job = taos.wait(taos.http.post("/api/agents/one/upgrade").json()["job"]["id"])
        ended = time.monotonic() - begun
        ready = seen.until_ready(after=time.monotonic()) - begun
        gap = seen.longest_gap()
    agent = taos.http.get("/api/agents/one").json()
    wrong = incus("image", "info", alias, project=taos.project).split()[1]
    incus("image", "delete", wrong, project=taos.project)
    incus("image", "alias", "create", alias, good[0]["fingerprint"], project=taos.project)
    return {
        "state": job["state"], "error": str(job["error"]["message"]).splitlines()[0],  # type: ignore[index]
        "version_after": agent["version"], "ready_within": READY_WITHIN,
        "job_seconds": round(ended, 1), "old_version_answers_after": round(ready, 1),
        "beyond_readiness_limit": round(ready - READY_WITHIN, 1), "limit": 60,
        "away": round(gap, 1),
    }  # fmt: skip


class Seen:
    """When the agent answered that it is ready, asked through its door again and again."""

    def __init__(self, taos: Server) -> None:
        self._socket = taos.folder / "data" / "agents" / f"{instance_of(taos)}.sock"
        self._path = AGENT.ready_path
        self.answers: list[float] = []
        self.over = False

    def watch(self) -> None:
        """Ask every 20 ms until it is over."""
        while not self.over:
            with contextlib.suppress(httpx.HTTPError):
                transport = httpx.HTTPTransport(uds=str(self._socket))
                with httpx.Client(transport=transport, timeout=2) as door:
                    if door.get(f"http://agent{self._path}").status_code == 200:
                        self.answers.append(time.monotonic())
            time.sleep(0.02)

    def until_ready(self, *, after: float, within: float = 240) -> float:
        """The time of the first answer after that moment."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            if found := next((at for at in reversed(self.answers) if at > after), None):
                return min(at for at in self.answers if after < at <= found)
            time.sleep(0.01)
        raise SystemExit("the agent does not answer")

    def longest_gap(self) -> float:
        """Seconds of the longest silence between two answers."""
        return max(b - a for a, b in zip(self.answers, self.answers[1:], strict=False))


@contextlib.contextmanager
def watching(taos: Server) -> Iterator[Seen]:
    """Ask the agent while this lasts."""
    seen = Seen(taos)
    thread = threading.Thread(target=seen.watch)
    thread.start()
    try:
        yield seen
    finally:
        seen.over = True
        thread.join()


if __name__ == "__main__":
    main()
