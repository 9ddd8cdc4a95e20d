"""The life of a deployed agent on real Incus: limits that change as it runs, and what kills it.

By the framework that is built and boots quickest. The tests run in order on one agent.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from bench.common import Server, incus, server, until

pytestmark = [pytest.mark.incus, pytest.mark.build, pytest.mark.e2e]
MIB, GIB = 1 << 20, 1 << 30
QUOTA = "quota exceeded"


@pytest.fixture(scope="module")
def taos() -> Iterator[Server]:
    """A running server with the agent hello."""
    with server() as made:
        made.start()
        job = made.wait(made.deploy("hello", framework="hermes-agent")["id"])
        assert job["state"] == "succeeded", job["error"]
        made.wait_all()
        yield made


def agent(taos: Server) -> dict[str, object]:
    found: dict[str, object] = taos.http.get("/api/agents/hello").json()
    return found


def inside(taos: Server, script: str) -> str:
    """What a script in the agent's instance says, errors too."""
    argv = ("exec", str(agent(taos)["instance"]), "--", "sh", "-c", f"({script}) 2>&1 || true")
    # On a busy machine Incus's command line now and then loses what a quick command writes.
    said = (incus(*argv, project=taos.project) for _ in range(3))
    return next((text.strip() for text in said if text.strip()), "")


def change(taos: Server, **wanted: object) -> None:
    """Change the agent as it runs."""
    answer = taos.http.patch("/api/agents/hello", json=wanted)
    assert answer.status_code == 202, answer.text
    job = taos.wait(answer.json()["job"]["id"])
    assert job["state"] == "succeeded", job["error"]


def main_pid(taos: Server) -> int:
    """Of the agent's own process; 0 when there is none."""
    try:
        said = inside(taos, "systemctl show -P MainPID agent.service")
    except RuntimeError:  # its instance does not run at this moment
        return 0
    return int(said) if said.isdecimal() else 0


def is_ready(taos: Server) -> bool:
    return agent(taos)["state"] == "ready"


def instance_pid(taos: Server) -> int:
    """Of the instance's init, as this host sees it; 0 when it does not run."""
    [one] = json.loads(
        incus("list", str(agent(taos)["instance"]), "--format", "json", project=taos.project)
    )
    return max(0, int((one["state"] or {}).get("pid", 0)))  # no state in the middle of a change


def test_memory_and_processors_change_inside_as_it_runs(taos: Server) -> None:
    before = main_pid(taos)
    every = os.cpu_count() or 1
    for memory, cpus in ((700, 1), (900, every), (800, 1), (700, 0), (950, 1), (900, every)):
        change(taos, memory=f"{memory}MiB", cpu=cpus)
        # What programs inside see, by lxcfs, is what they are held to.
        total = inside(taos, "grep MemTotal /proc/meminfo").split()[1]
        assert int(total) * 1024 == memory * MIB
        # Incus spreads instances over the processors a moment later.
        until(lambda cpus=cpus: inside(taos, "nproc") == str(cpus or every))
    assert main_pid(taos) == before
    assert is_ready(taos)
    refused = taos.http.patch("/api/agents/hello", json={"memory": "64MiB"})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("limit", "file"), [("disk", "/var/full"), ("state_disk", "/home/agent/full")]
)
def test_disks_stop_at_their_limits_which_can_be_raised(
    taos: Server, limit: str, file: str
) -> None:
    assert taos.http.get("/api/agents/hello/schedule").json()["state_bytes"] >= 2 * GIB
    change(taos, **{limit: "2GiB"})
    assert QUOTA in inside(taos, f"fallocate -l 3G {file}").lower()
    change(taos, **{limit: "5GiB"})
    assert inside(taos, f"fallocate -l 3G {file} && stat -c %s {file}") == str(3 * GIB)
    refused = taos.http.patch("/api/agents/hello", json={limit: "2GiB"})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    inside(taos, f"rm {file}")
    assert is_ready(taos)


def test_an_agent_that_is_killed_comes_back(taos: Server) -> None:
    before = main_pid(taos)
    inside(taos, "systemctl kill --signal=KILL agent.service")
    until(lambda: main_pid(taos) not in (0, before))
    # Its readiness is its own answer, not that a process is there.
    until(lambda: is_ready(taos))
    assert inside(taos, "systemctl show -P NRestarts agent.service") == "1"


def test_one_that_hangs_is_unhealthy_with_a_reason_and_ready_when_it_goes_on(taos: Server) -> None:
    inside(taos, "systemctl kill --signal=STOP agent.service")
    until(lambda: agent(taos)["state"] == "unhealthy", within=100)
    assert agent(taos)["reason"] == "no answer within 1 s"
    inside(taos, "systemctl kill --signal=CONT agent.service")
    until(lambda: is_ready(taos), within=70)
    assert agent(taos)["reason"] == ""


def test_an_instance_whose_init_is_killed_runs_again_or_is_said_to_be_stopped(
    taos: Server,
) -> None:
    before = instance_pid(taos)
    os.kill(before, signal.SIGKILL)
    config = incus("config", "show", str(agent(taos)["instance"]), project=taos.project)
    if 'boot.autorestart: "true"' in config:
        until(lambda: instance_pid(taos) not in (0, before), within=60)
        until(lambda: main_pid(taos), within=60)
        until(lambda: is_ready(taos), within=60)
    else:  # an Incus that cannot start it again
        until(lambda: agent(taos)["state"] == "stopped")
        job = taos.wait(taos.http.post("/api/agents/hello/start").json()["job"]["id"])
        assert job["state"] == "succeeded", job["error"]
    assert is_ready(taos)
    # Its limits outlive that.
    assert inside(taos, "grep MemTotal /proc/meminfo").split()[1] == str(900 * 1024)
