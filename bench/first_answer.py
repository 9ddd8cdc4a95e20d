"""From an empty host to the first answer of a real agent, for each framework, by the commands a person types.

The model is a stub on the host that answers at once, so what is left is taOS and the agent.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from bench.common import ROOT, Server, keep, server
from tests.fakes.provider import KEY, serving_provider

FRAMEWORKS = ("openclaw", "hermes-agent", "opencode")
SAYS = ("Sparkling ", "pumpernickel")
ROUNDS = 5


def main() -> None:
    """Deploy one of each twice (by build, then by image), then talk to it."""
    rows: dict[str, Any] = {}
    with serving_provider(says=SAYS) as stub, server() as taos:
        taos.start()
        for framework in FRAMEWORKS:
            rows[framework] = measure(taos, framework, stub.url, first=not rows)
            print(framework, json.dumps(rows[framework]), file=sys.stderr)
    keep("first_answer", rows)


def measure(taos: Server, framework: str, url: str, *, first: bool) -> dict[str, Any]:
    """Seconds of each command, in the order a new user gives them."""
    row: dict[str, Any] = {}
    name = f"a-{framework}"
    row["deploy_by_build"] = timed(taos, "agent", "deploy", name, "--framework", framework)
    row["provider_add"] = (
        timed(taos, "provider", "add", "stub", "--url", url, "--model", "small") if first else 0.0
    )
    begun = time.monotonic()
    said = command(taos, "agent", "chat", name, "What do you say?")
    row["first_answer"] = round(time.monotonic() - begun, 2)
    if said.strip() != "".join(SAYS):
        raise SystemExit(f"{framework} said {said!r}")
    row["next_answers"] = [timed(taos, "agent", "chat", name, "And now?") for _ in range(ROUNDS)]
    row["from_deploy_to_answer"] = round(
        row["deploy_by_build"] + row["provider_add"] + row["first_answer"], 2
    )
    taos.wait_all()
    row["deploy_by_image"] = timed(taos, "agent", "deploy", "again", "--framework", framework)
    row["first_answer_by_image"] = timed(taos, "agent", "chat", "again", "What do you say?")
    for one in (name, "again"):
        taos.delete(one)
    return row


def timed(taos: Server, *argv: str) -> float:
    """Seconds that the command took."""
    begun = time.monotonic()
    command(taos, *argv)
    return round(time.monotonic() - begun, 2)


def command(taos: Server, *argv: str) -> str:
    """What the command prints; it must succeed."""
    return subprocess.run(
        [sys.executable, "-m", "tinyagentos.cli", *argv],
        cwd=ROOT, env=taos.environment | {"TAOS_PROVIDER_KEY": KEY}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, text=True, timeout=400, check=True,
    ).stdout  # fmt: skip


if __name__ == "__main__":
    main()
