"""The real thing: a server process, real Incus, real OpenClaw; deploys, kills, cancels, a crowd.

The tests run in order and share one server in an Incus project of its own, because the first build
takes most of a minute and leaves the image that the others start from.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import httpx
import pytest

from bench.common import Server, incus, names, server, until
from bench.kill import compare, kill_in, wait_step
from tests.fakes.provider import KEY, serving_provider

pytestmark = [pytest.mark.incus, pytest.mark.build, pytest.mark.e2e]


@pytest.fixture(scope="module")
def taos() -> Iterator[Server]:
    """A running server with nothing in its project."""
    with server() as made:
        assert made.start() < 5  # the measured figure is bench/startup.py's; CI machines are busy
        yield made


def succeed(taos: Server, name: str, source: str = "fastest") -> dict[str, object]:
    job = taos.wait(taos.deploy(name, source)["id"])
    assert job["state"] == "succeeded", job["error"]
    return job


def test_an_empty_host_builds_and_the_agent_answers(taos: Server) -> None:
    job = succeed(taos, "first")
    assert job["source"] == "build"
    agent = taos.http.get("/api/agents/first").json()
    assert (agent["state"], agent["framework"]) == ("ready", "openclaw")
    socket = taos.folder / "data" / "agents" / f"{agent['instance']}.sock"
    assert socket.stat().st_mode & 0o777 == 0o600
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as door:
        assert door.get("http://agent/readyz").status_code == 200


def test_the_agent_runs_as_its_user_with_its_state_on_its_volume(taos: Server) -> None:
    instance = taos.http.get("/api/agents/first").json()["instance"]

    def inside(*argv: str) -> str:
        # On a busy machine Incus's command line now and then loses what a quick command writes.
        said = (incus("exec", instance, "--", *argv, project=taos.project) for _ in range(3))
        return next((text.strip() for text in said if text.strip()), "")

    assert inside("systemctl", "show", "-P", "User", "agent.service") == "agent"
    pid = inside("systemctl", "show", "-P", "MainPID", "agent.service")
    assert inside("stat", "-c", "%u", f"/proc/{pid}") == "1000"
    assert "/home/agent" in inside("findmnt", "-n", "-o", "TARGET", "/home/agent")
    assert inside("stat", "-c", "%a %u", "/etc/taos/agent.env") == "600 0"
    assert inside("sh", "-c", "ls /run/taos-build 2>/dev/null | wc -l") == "0"
    shown = incus("config", "show", instance, project=taos.project)
    token = inside("sed", "-n", "s/^TAOS_AGENT_TOKEN=//p", "/etc/taos/agent.env")
    assert len(token) == 64
    assert token not in shown


def test_no_certificate_of_this_host_stays_inside(taos: Server) -> None:
    instance = taos.http.get("/api/agents/first").json()["instance"]
    found = incus(
        "exec", instance, "--", "sh", "-c",
        "find / -xdev -path /proc -prune -o -newer /etc/taos/README -name 'ca*.crt' -print",
        project=taos.project,
    )  # fmt: skip
    assert "taos-build" not in found


def test_the_next_deploy_takes_the_image_that_was_kept(taos: Server) -> None:
    taos.wait_all()
    assert succeed(taos, "second")["source"] == "image"
    assert compare(taos) == []


def inside(taos: Server, instance: str, script: str) -> str:
    # On a busy machine Incus's command line now and then loses what a quick command writes.
    said = (
        incus("exec", instance, "--", "sh", "-c", script, project=taos.project) for _ in range(3)
    )
    return next((text.strip() for text in said if text.strip()), "")


def test_an_agent_reaches_its_models_and_the_internet_but_no_neighbour_and_not_the_host(
    taos: Server,
) -> None:
    """With real packets, from inside agents that were deployed, by image and by build."""
    instances = {
        name: taos.http.get(f"/api/agents/{name}").json()["instance"]
        for name in ("first", "second")
    }
    addresses = {name: address_of(taos, one) for name, one in instances.items()}
    with neighbours("203.0.113", "10.198.7") as port:
        # The rules learn the host's new addresses, as they do every minute.
        taos_command(taos, "agent", "network", "second", "internet")
        for name, other in (("first", "second"), ("second", "first")):
            shown = incus("config", "show", "--expanded", instances[name], project=taos.project)
            assert 'security.idmap.isolated: "true"' in shown
            assert 'security.guestapi: "false"' in shown
            assert "limits.memory" in shown
            assert "limits.processes" in shown
            assert "security.privileged" not in shown
            assert "security.nesting" not in shown
            seen = {
                what: reaches(taos, instances[name], address, at)
                for what, address, at in (
                    ("models", "127.0.0.1", 4000),
                    ("internet", "203.0.113.10", port),
                    ("neighbour", "10.198.7.10", port),
                    ("host", "203.0.113.1", port),
                    ("other agent", addresses[other], 18789),
                    ("its bridge", f"{addresses[name].rpartition('.')[0]}.1", port),
                )
            }
            assert seen == {"models": True, "internet": True, "neighbour": False, "host": False,
                            "other agent": False, "its bridge": False}  # fmt: skip
        for policy, internet, neighbour in (
            ("none", False, False),
            ("lan:10.198.7.0/24", True, True),
        ):
            one = instances["second"]
            before = address_of(taos, one)
            taos_command(taos, "agent", "network", "second", policy)
            # The new address, of the policy's own bridge, comes by DHCP.
            until(lambda one=one, before=before: address_of(taos, one) not in ("", before))
            assert reaches(taos, one, "203.0.113.10", port) is internet
            assert reaches(taos, one, "10.198.7.10", port) is neighbour
            assert reaches(taos, one, "127.0.0.1", 4000)
            assert taos.http.get("/api/agents/second").json()["state"] == "ready"
        taos_command(taos, "agent", "network", "second", "internet")


def address_of(taos: Server, instance: str) -> str:
    """The instance's IPv4 address; empty when it has none yet."""
    shown = inside(taos, instance, "ip -4 -o addr show eth0").split()
    return shown[3].partition("/")[0] if shown else ""


def reaches(taos: Server, instance: str, address: str, port: int) -> bool:
    """Whether something answers HTTP to the agent there."""
    script = f"curl -s -o /dev/null -m 4 --noproxy '*' http://{address}:{port}/; echo $?"
    said = inside(taos, instance, script)
    assert said in ("0", "7", "28"), said
    return said == "0"


@contextlib.contextmanager
def neighbours(*prefixes: str) -> Iterator[int]:
    """Hosts of their own namespaces at `prefix`.10, and this one, all serving at the port."""
    port, folder = 18081, tempfile.mkdtemp()
    serve = (sys.executable, "-m", "http.server", str(port), "--directory", folder)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        starts: list[tuple[str, ...]] = [()]
        for prefix in prefixes:
            name = f"tt{secrets.token_hex(3)}"
            commands = (
                f"netns add {name}",
                f"link add {name} type veth peer name eth0 netns {name}",
                f"address add {prefix}.1/24 dev {name}",
                f"link set {name} up",
                f"-n {name} address add {prefix}.10/24 dev eth0",
                f"-n {name} link set eth0 up",
                f"-n {name} route add default via {prefix}.1",
            )
            for number, command in enumerate(commands):
                subprocess.run(("ip", *command.split()), check=True)
                if number == 0:
                    stack.callback(subprocess.run, ("ip", "netns", "delete", name), check=True)
            starts.append(("ip", "netns", "exec", name))
        for start in starts:
            quiet = subprocess.DEVNULL
            process = subprocess.Popen((*start, *serve), stdout=quiet, stderr=quiet)
            stack.callback(process.wait)
            stack.callback(process.kill)
            shown = (*start, "ss", "-ltnH", f"sport = :{port}")
            until(lambda shown=shown: subprocess.run(shown, capture_output=True, check=True).stdout)
        yield port


def taos_command(taos: Server, *argv: str) -> str:
    """What a command prints."""
    return subprocess.run(
        [sys.executable, "-m", "tinyagentos.cli", *argv],
        env=taos.environment | {"TAOS_PROVIDER_KEY": KEY}, capture_output=True, text=True,
        timeout=120, check=True,
    ).stdout  # fmt: skip


def test_an_agent_answers_through_the_model_that_was_chosen(taos: Server) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        taos_command(taos, "agent", "chat", "second", "Hello?")
    with serving_provider(says=("Sparkling ", "pumpernickel")) as stub:
        taos_command(taos, "provider", "add", "stub", "--url", stub.url)
        assert taos_command(taos, "agent", "chat", "second", "Hello?") == "Sparkling pumpernickel\n"
        began = started_at(taos, "second")
        taos_command(taos, "agent", "model", "second", "stub/large", "--budget", "1000000")
        taos_command(taos, "agent", "chat", "second", "And now?")
        asked = stub.calls[-1][1]
        assert asked["model"] == "large"
        assert "Hello?" in json.dumps(asked["messages"])  # the agent keeps the conversation
        assert started_at(taos, "second") == began
        used = taos.http.get("/api/agents/second/model").json()["usage"]
        assert (used["errors"], used["input_tokens"]) == (0, 7 * used["requests"])


def started_at(taos: Server, name: str) -> str:
    instance = taos.http.get(f"/api/agents/{name}").json()["instance"]
    return incus("exec", instance, "--", "systemctl", "show", "-P", "ActiveEnterTimestampMonotonic",
                 "agent.service", project=taos.project)  # fmt: skip


def test_no_key_of_a_provider_is_anywhere_near_the_agent(taos: Server) -> None:
    instance = taos.http.get("/api/agents/second").json()["instance"]
    look = (
        'grep -rlF --devices=skip --exclude-dir=proc --exclude-dir=sys -e "$1" / ; '
        'grep -lF -e "$1" /proc/[0-9]*/environ /proc/[0-9]*/cmdline; echo looked'
    )

    def found(text: str) -> list[str]:
        said = incus("exec", instance, "--", "sh", "-c", f"({look}) 2>/dev/null", "look", text,
                     project=taos.project)  # fmt: skip
        # The looking itself has the text in its command line.
        return [line for line in said.splitlines() if not line.endswith("cmdline")]

    token = incus("exec", instance, "--", "sed", "-n", "s/^TAOS_MODEL_TOKEN=//p",
                  "/etc/taos/agent.env", project=taos.project).strip()  # fmt: skip
    assert "/etc/taos/agent.env" in found(token)  # what is there is found
    assert found(KEY) == ["looked"]
    assert KEY not in incus("config", "show", "--expanded", instance, project=taos.project)
    assert KEY not in taos.http.get("/api/agents/second/logs", params={"lines": 10_000}).text
    for file in (taos.folder / "data").iterdir():
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_an_exported_agent_comes_back_with_the_same_conversation(taos: Server) -> None:
    """Into one file, then as another agent; and once more by a state that was kept."""
    file = taos.folder / "second.taos"
    taos_command(taos, "agent", "export", "second", "--to", str(file))
    until_ready(taos, "second")
    with serving_provider(says=("Still ", "here")) as stub:
        taos_command(taos, "provider", "add", "stub", "--url", stub.url)
        taos_command(taos, "agent", "import", str(file), "--name", "third")
        assert taos_command(taos, "agent", "chat", "third", "Who am I?") == "Still here\n"
        assert "And now?" in json.dumps(stub.calls[-1][1]["messages"])
        taos_command(taos, "agent", "delete", "third", "--keep-state")
        taos_command(taos, "agent", "deploy", "fourth", "--state-of", "third")
        taos_command(taos, "agent", "chat", "fourth", "And I?")
        assert "Who am I?" in json.dumps(stub.calls[-1][1]["messages"])
    taos.delete("fourth")
    assert compare(taos) == []


@pytest.mark.parametrize("name", ["first", "second"])
def test_the_log_can_be_read_and_followed(taos: Server, name: str) -> None:
    log = taos.http.get(f"/api/agents/{name}/logs", params={"lines": 500}).text
    assert "gateway" in log
    with taos.http.stream("GET", f"/api/agents/{name}/logs", params={"follow": 1}) as following:
        assert next(following.iter_lines())


def act(taos: Server, path: str) -> dict[str, object]:
    return taos.wait(taos.http.post(path).json()["job"]["id"])


def mark(taos: Server, instance: str, text: str) -> None:
    """Leave a note in the agent's state."""
    incus(
        "exec", instance, "--", "sh", "-c", f"echo {text} >/home/agent/note", project=taos.project
    )


def note(taos: Server, instance: str) -> str:
    return incus("exec", instance, "--", "cat", "/home/agent/note", project=taos.project).strip()


def test_state_comes_back_from_a_snapshot(taos: Server) -> None:
    instance = taos.http.get("/api/agents/second").json()["instance"]
    mark(taos, instance, "kept")
    answer = taos.http.post("/api/agents/second/snapshots", json={"name": "kept"})
    assert taos.wait(answer.json()["job"]["id"])["state"] == "succeeded"
    mark(taos, instance, "changed")
    job = act(taos, "/api/agents/second/snapshots/kept/restore")
    assert job["state"] == "succeeded", job["error"]
    assert note(taos, instance) == "kept"


def test_an_upgrade_keeps_the_state_and_can_be_undone(taos: Server) -> None:
    before = taos.http.get("/api/agents/second").json()
    instance = before["instance"]
    incus("config", "set", instance, "user.taos.version=0", project=taos.project)
    mark(taos, instance, "old")
    job = act(taos, "/api/agents/second/upgrade")
    assert job["state"] == "succeeded", job["error"]
    after = taos.http.get("/api/agents/second").json()
    assert (after["state"], after["version"]) == ("ready", before["version"])
    assert after["undo_version"] == "0"
    assert note(taos, instance) == "old"
    mark(taos, instance, "new")
    job = act(taos, "/api/agents/second/undo")
    assert job["state"] == "succeeded", job["error"]
    again = taos.http.get("/api/agents/second").json()
    assert (again["state"], again["version"], note(taos, instance)) == ("ready", "0", "old")


def test_an_upgrade_to_a_broken_image_returns_by_itself(taos: Server) -> None:
    good = json.loads(
        incus("image", "list", "openclaw/x64", "--format", "json", project=taos.project)
    )[0]["fingerprint"]
    incus("launch", "openclaw/x64", "broken", project=taos.project)
    incus("exec", "broken", "--", "rm", "-rf", "/opt/openclaw/node_modules/openclaw/dist",
          project=taos.project)  # fmt: skip
    incus("stop", "--force", "broken", project=taos.project)
    incus("image", "alias", "delete", "openclaw/x64", project=taos.project)
    incus("publish", "broken", "--alias", "openclaw/x64", "--compression", "none",
          "taos.version=9999.0", project=taos.project)  # fmt: skip
    incus("delete", "broken", project=taos.project)
    instance = taos.http.get("/api/agents/second").json()["instance"]
    begun = time.monotonic()
    job = act(taos, "/api/agents/second/upgrade")
    assert job["state"] == "failed"
    assert time.monotonic() - begun < 180 + 60  # the readiness limit, and a minute
    agent = taos.http.get("/api/agents/second").json()
    assert (agent["version"], note(taos, instance)) == ("0", "old")
    until_ready(taos, "second")
    bad = incus("image", "info", "openclaw/x64", project=taos.project).split()[1]
    incus("image", "delete", bad, project=taos.project)
    incus("image", "alias", "create", "openclaw/x64", good, project=taos.project)
    assert compare(taos) == []


def until_ready(taos: Server, name: str) -> None:
    until(lambda: taos.http.get(f"/api/agents/{name}").json()["state"] == "ready", within=60)


def test_an_agent_stops_starts_and_goes(taos: Server) -> None:
    for action, state in (("stop", "stopped"), ("start", "ready")):
        answer = taos.http.post(f"/api/agents/second/{action}")
        job = taos.wait(answer.json()["job"]["id"])
        assert job["state"] == "succeeded", job["error"]
        assert taos.http.get("/api/agents/second").json()["state"] == state
    taos.delete("second")
    assert taos.http.get("/api/agents/second").status_code == 404
    assert compare(taos) == []


@pytest.mark.parametrize("step", ["create instance", "start agent", "wait until ready"])
def test_a_killed_server_leaves_nothing_behind(taos: Server, step: str) -> None:
    row = kill_in(taos, "image", step)
    assert row["state"] == "succeeded"
    assert row["differences"] == []


def test_a_build_that_is_killed_ends_without_help(taos: Server) -> None:
    row = kill_in(taos, "build", "install framework")
    assert (row["state"], row["differences"]) == ("succeeded", [])


def test_a_cancel_takes_effect_at_once_and_leaves_nothing(taos: Server) -> None:
    job_id = taos.deploy("doomed", "build")["id"]
    wait_step(taos, job_id, "install framework")
    begun = time.monotonic()
    assert taos.http.post(f"/api/jobs/{job_id}/cancel").status_code == 202
    until_rolling_back(taos, job_id)
    assert time.monotonic() - begun < 1.0
    assert taos.wait(job_id)["state"] == "cancelled"
    assert compare(taos) == []


def until_rolling_back(taos: Server, job_id: object) -> None:
    while True:
        job = taos.job(job_id)
        steps = {step["name"] for step in job["steps"]}  # type: ignore[attr-defined]
        if "roll back" in steps or job["state"] == "cancelled":
            return


def test_two_of_one_name_give_one_conflict(taos: Server) -> None:
    first = taos.http.post("/api/agents/deploy", json={"name": "twin"})
    second = taos.http.post("/api/agents/deploy", json={"name": "twin"})
    assert sorted((first.status_code, second.status_code)) == [202, 409]
    assert taos.wait(first.json()["job"]["id"])["state"] == "succeeded"
    taos.delete("twin")


def test_bad_input_leaves_no_instance(taos: Server) -> None:
    before = names("list", taos.project)
    for body in ({"name": "../x"}, {"name": ""}, {"name": "ok", "memory": -1}, ["x"]):
        answer = taos.http.post("/api/agents/deploy", json=body)
        assert answer.status_code == 422
        assert answer.json()["hint"]
    assert names("list", taos.project) == before


def test_a_second_server_of_the_same_data_is_refused(taos: Server) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tinyagentos.cli", "serve"],
        env=taos.environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "already" in ended.stderr
    assert taos.http.get("/api/health").status_code == 200


def test_a_server_that_stops_in_order_leaves_its_agents_running(taos: Server) -> None:
    taos.stop()
    assert "RUNNING" in incus("list", "--format", "csv", "--columns", "s", project=taos.project)
    taos.start()
    assert taos.http.get("/api/agents/first").json()["state"] == "ready"
    taos.delete("first")
    assert compare(taos) == []
    assert list((taos.folder / "data" / "agents").iterdir()) == []
