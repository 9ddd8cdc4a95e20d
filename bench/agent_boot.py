"""Agent boot to /readyz, with and without OpenClaw's compile cache, alternating.

`.venv/bin/python -m bench.agent_boot FILE`: FILE is an image made by `taos image build`. On a busy
machine compare the processor seconds: what the gateway itself used until it was ready.
"""

from __future__ import annotations

import secrets
import statistics
import sys
import time

from bench.common import incus, keep, remove_project

RUNS = 5
ENVIRONMENT = b"TAOS_AGENT_TOKEN=" + b"a" * 32 + b"\nTAOS_MODEL_TOKEN=" + b"b" * 32 + b"\n"
# Processes of the unit, their children that ended included.
MEASURE = """\
systemctl start agent
until [ "$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:18789/readyz)" = 200 ]; do
    sleep 0.1
done
awk '{sum += $14 + $15 + $16 + $17} END {print sum / 100}' $(pgrep -u agent | sed 's|.*|/proc/&/stat|')
"""


def boot(project: str, *, with_cache: bool) -> dict[str, float]:
    """Start the agent with a new home; seconds until it is ready, on the wall and of processors."""
    clean = "systemctl stop agent; rm -rf /home/agent/.openclaw /tmp/openclaw"
    incus("exec", "boot", "--", "sh", "-c", clean, project=project)
    if not with_cache:
        incus("exec", "boot", "--", "rm", "-rf", "/var/cache/agent", project=project)
    begun = time.monotonic()
    cpu = incus("exec", "boot", "--", "sh", "-c", MEASURE, project=project)
    wall = time.monotonic() - begun
    incus("exec", "boot", "--", "systemctl", "stop", "agent", project=project)  # writes the cache
    return {"wall": round(wall, 2), "cpu": float(cpu)}


def main() -> None:
    """Five boots each; every second one finds the cache that the one before it left."""
    project = f"taos-boot-{secrets.token_hex(3)}"
    incus("project", "create", project, "-c", "features.images=true",
          "-c", "features.profiles=true", "-c", "features.storage.volumes=true")  # fmt: skip
    runs: dict[str, list[dict[str, float]]] = {"empty cache": [], "filled cache": []}
    try:
        profile = incus("profile", "show", "default", project="taos")
        incus("profile", "edit", "default", project=project, stdin=profile.encode())
        incus("image", "import", sys.argv[1], "--alias", "boot", "--quiet", project=project)
        incus("launch", "boot", "boot", "--quiet", project=project)
        write = "mkdir -p /home/agent && cat > /etc/taos/agent.env"
        incus("exec", "boot", "--", "sh", "-c", write, project=project, stdin=ENVIRONMENT)
        for _ in range(RUNS):
            runs["empty cache"].append(boot(project, with_cache=False))
            runs["filled cache"].append(boot(project, with_cache=True))
    finally:
        remove_project(project)
    median = {
        name: {key: statistics.median(run[key] for run in found) for key in ("wall", "cpu")}
        for name, found in runs.items()
    }
    ratio = {
        key: round(median["filled cache"][key] / median["empty cache"][key], 2)
        for key in ("wall", "cpu")
    }
    keep("agent_boot", {"runs": runs, "median": median, "ratio": ratio})


if __name__ == "__main__":
    main()
