"""The model gateway: the first token through it against asking the provider directly, alternating.

From inside an agent both ways go through a proxy device of Incus, so the difference is the
gateway's own; on the host they do not. The provider is a stub that thinks for a moment.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from typing import Any

from bench.common import Server, incus, keep, server
from tests.fakes.provider import KEY, serving_provider

ROUNDS = 60
THINKS = 0.05
LIMIT_MS = 20.0
PLAIN_PORT = 4999

# Runs with nothing but Python's own library: on the host and in the agent's container alike.
CLIENT = r"""
import http.client, json, socket, sys, time
def ask(where, token):
    connection = http.client.HTTPConnection("127.0.0.1", int(where) if where.isdigit() else 80)
    if not where.isdigit():
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(where)
    body = {"model": "default", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    begun = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body),
                       {"Authorization": "Bearer " + token, "Content-Type": "application/json"})
    answer = connection.getresponse()
    while b'"content"' not in (line := answer.readline()):
        if not line:
            raise SystemExit(f"no token: {answer.status}")
    first = time.monotonic() - begun
    answer.read()
    connection.close()
    return first
plain, key, door, token, rounds = sys.argv[1:]
print(json.dumps([[ask(plain, key), ask(door, token)] for _ in range(int(rounds))]))
"""


def main() -> None:
    """Measure on the host and from inside an agent of a real deploy."""

    async def think(number: int) -> None:
        if number == 0:
            await asyncio.sleep(THINKS)

    with serving_provider(wait=think, says=("Hel", "lo")) as stub, server() as taos:
        taos.start()
        job = taos.wait(taos.deploy("bench", "build")["id"])
        if job["state"] != "succeeded":
            raise SystemExit(f"the deploy failed: {job['error']}")
        provider = {"name": "stub", "kind": "openai", "url": stub.url, "model": "m", "key": KEY}
        taos.http.post("/api/providers", json=provider).raise_for_status()
        instance = taos.http.get("/api/agents/bench").json()["instance"]
        incus("config", "device", "add", instance, "plain", "proxy", "bind=instance",
              f"listen=tcp:127.0.0.1:{PLAIN_PORT}", f"connect=tcp:127.0.0.1:{stub.port}",
              project=taos.project)  # fmt: skip
        token = incus("exec", instance, "--", "sed", "-n", "s/^TAOS_MODEL_TOKEN=//p",
                      "/etc/taos/agent.env", project=taos.project).strip()  # fmt: skip
        keep("gateway", {
            "thinks_ms": THINKS * 1000, "added_limit_ms": LIMIT_MS,
            "in_agent": measure_in_agent(taos, instance, token),
            "on_host": measure_on_host(taos, stub.port, token),
        })  # fmt: skip


def measure_in_agent(taos: Server, instance: str, token: str) -> dict[str, Any]:
    """Both ways from inside the agent's container."""
    said = incus(
        "exec", instance, "--", "python3", "-c", CLIENT, str(PLAIN_PORT), KEY, "4000", token,
        str(ROUNDS), project=taos.project,
    )  # fmt: skip
    return compare(json.loads(said))


def measure_on_host(taos: Server, port: int, token: str) -> dict[str, Any]:
    """Both ways from a process of the host."""
    door = str(taos.folder / "data" / "gateway.sock")
    said = subprocess.run(
        [sys.executable, "-c", CLIENT, str(port), KEY, door, token, str(ROUNDS)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return compare(json.loads(said))


def compare(pairs: list[list[float]]) -> dict[str, Any]:
    """Milliseconds to the first token: direct, through the gateway, and what it adds."""
    direct, through = ([pair[way] * 1000 for pair in pairs] for way in (0, 1))
    added = [pair[1] * 1000 - pair[0] * 1000 for pair in pairs]
    return {
        "rounds": len(pairs),
        "direct_ms": round(statistics.median(direct), 2),
        "through_ms": round(statistics.median(through), 2),
        "added_ms": round(statistics.median(added), 2),
        "added_p95_ms": round(statistics.quantiles(added, n=20)[-1], 2),
    }


if __name__ == "__main__":
    main()
