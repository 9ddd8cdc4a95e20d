"""Three hundred agents: how soon the list answers, what it asks of Incus, what watching costs.

Incus is the tests' fake in this process, behind a real Unix socket, with an agent that answers
behind each door; the server is a process of its own. Needs neither root nor Incus.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.common import Server, keep
from bench.web import cpu_seconds, memory_mb
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents.order import (
    AGENT_KEY,
    DOOR,
    FRAMEWORK_KEY,
    HOME,
    MODEL_DOOR,
    STAGE_KEY,
    door_device,
    model_device,
)
from tinyagentos.agents.steps import DEPLOYED
from tinyagentos.factory.recipe import load_recipe
from tinyagentos.incus import Incus, InstanceRequest

AGENTS = 300
ASKED = 500
# Until the questions to agents have reached their longest interval.
SETTLE = 150.0
IDLE = 60.0
READY_WITHIN = 60.0
IMAGE = "c" * 64


def main() -> None:
    """Measure with a server that has nothing else to do."""
    with tempfile.TemporaryDirectory(prefix="taos-") as name:
        folder = Path(name)
        with fake_host(folder) as fake:
            taos = Server(folder, "taos", TAOS_INCUS_SOCKET=str(fake.socket))
            taos.start()
            try:
                first = until_all_ready(taos)
                keep("agents_300", {"agents": AGENTS, "all_ready_after_start": first,
                                    **measure_list(taos, fake), **measure_idle(taos, fake)})  # fmt: skip
            finally:
                taos.stop()


@contextmanager
def fake_host(folder: Path) -> Iterator[FakeIncus]:
    """An Incus with that many running agents, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    fake = FakeIncus(folder / "incus.sock")
    try:
        asyncio.run_coroutine_threadsafe(fill(fake, folder / "data" / "agents"), loop).result()
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(fake.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def fill(fake: FakeIncus, sockets: Path) -> None:
    """Make the agents."""
    sockets.mkdir(parents=True)
    await fake.start()
    fake.add_image("taos", IMAGE, "openclaw/x64")
    recipe = load_recipe("openclaw")
    async with Incus.unix(fake.socket, project="taos") as incus:
        for number in range(AGENTS):
            instance = f"agent-{number:03}-abcdef"
            config = {AGENT_KEY: f"agent-{number:03}", FRAMEWORK_KEY: recipe.name,
                      STAGE_KEY: DEPLOYED}  # fmt: skip
            await incus.storage.create_volume("taos", f"{instance}-state")
            state = {"type": "disk", "pool": "taos", "source": f"{instance}-state", "path": HOME}
            devices = {DOOR: door_device(recipe, sockets / f"{instance}.sock"),
                       MODEL_DOOR: model_device(sockets.parent / "gateway.sock"),
                       "state": state}  # fmt: skip
            request = InstanceRequest(name=instance, image=IMAGE, config=config, devices=devices)
            await incus.instances.create(request, start=True)


def until_all_ready(taos: Server) -> float:
    """Seconds until the list says that all are."""
    begun = time.monotonic()
    while [one["state"] for one in taos.http.get("/api/agents").json()] != ["ready"] * AGENTS:
        if time.monotonic() - begun > READY_WITHIN:
            raise TimeoutError("not all agents became ready")
        time.sleep(0.1)
    return round(time.monotonic() - begun, 2)


# In a process of its own: in this one the fake's threads would be in the way of the clock.
CLIENT = """
import json, sys, time, httpx
http = httpx.Client(base_url="http://taos", transport=httpx.HTTPTransport(uds=sys.argv[1]))
seconds = []
for _ in range(int(sys.argv[2])):
    begun = time.monotonic()
    content = http.get("/api/agents").content
    seconds.append((time.monotonic() - begun) * 1000)
    assert content.count(b'"instance"') == int(sys.argv[3])
print(json.dumps(seconds))
"""


def measure_list(taos: Server, fake: FakeIncus) -> dict[str, object]:
    """How long the list takes, and what it asks."""
    asked = len(fake.calls)
    argv = (sys.executable, "-c", CLIENT, str(taos.socket), str(ASKED), str(AGENTS))
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    seconds = json.loads(said)
    cuts = statistics.quantiles(seconds, n=100)
    return {
        "list_p50_ms": round(cuts[49], 1), "list_p99_ms": round(cuts[98], 1),
        "list_p99_limit_ms": 50, "incus_calls": len(fake.calls) - asked,
    }  # fmt: skip


def measure_idle(taos: Server, fake: FakeIncus) -> dict[str, object]:
    """What the server takes when nobody asks it anything."""
    time.sleep(SETTLE)
    asked, spent = len(fake.calls), cpu_seconds(taos)
    time.sleep(IDLE)
    return {
        "idle_cpu": round((cpu_seconds(taos) - spent) / IDLE, 4), "idle_cpu_limit": 0.01,
        "idle_incus_calls": len(fake.calls) - asked,
        "idle_mb": memory_mb(taos), "idle_limit_mb": 120,
    }  # fmt: skip


if __name__ == "__main__":
    main()
