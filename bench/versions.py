"""Two versions of taOS side by side, alternating: deploys by image, pages, API and gateway.

`python -m bench.versions CHECKOUT` compares this checkout with the one in the folder CHECKOUT,
which the same Python environment must be able to run.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import sync_playwright

from bench.common import Server, incus, keep, server
from bench.gateway import CLIENT
from bench.web import CHROMIUM, PASSWORD, find_address, log_in, time_to_useful
from tests.fakes.provider import KEY, serving_provider

FRAMEWORK = "opencode"  # the quickest to boot: a difference shows soonest
LIMIT = 1.05
DEPLOYS, PAGES, ASKS = 7, 15, 200


def main() -> None:
    """Measure both and print the medians and their ratios."""
    other = Path(sys.argv[1]).resolve()
    with ExitStack() as stack:
        stub = stack.enter_context(serving_provider(says=("Hel", "lo")))
        pair = [stack.enter_context(server(root)) for root in (other, Path.cwd())]
        playwright = stack.enter_context(sync_playwright())
        for one in pair:
            one.start()
            prepare(one, stub.url)
        figures = {
            "deploy_by_image_seconds": alternate(pair, DEPLOYS, deploy_by_image),
            "api_seconds": alternate(pair, ASKS, list_agents),
            "gateway_seconds": ask_models(pair, stub.port),
        }
        path = next(path for path in map(shutil.which, CHROMIUM) if path)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        addresses = {one.project: find_address(one) for one in pair}
        pages = {one.project: log_in(browser, addresses[one.project]) for one in pair}
        figures["page_seconds"] = alternate(
            pair, PAGES, lambda one: time_to_useful(pages[one.project], addresses[one.project])
        )
        browser.close()
    keep("versions", {"ratio_limit": LIMIT, **figures})


def prepare(taos: Server, provider_url: str) -> None:
    """Have a password, a provider, an agent and the framework's image."""
    taos.http.put("/api/web/password", json={"password": PASSWORD}).raise_for_status()
    job = taos.wait(taos.deploy("first", "build", framework=FRAMEWORK)["id"])
    assert job["state"] == "succeeded", job["error"]
    taos.wait_all()
    provider = {"name": "stub", "kind": "openai", "url": provider_url, "model": "m", "key": KEY}
    taos.http.post("/api/providers", json=provider).raise_for_status()


def alternate(
    pair: list[Server], rounds: int, measure: Callable[[Server], float]
) -> dict[str, float]:
    """The medians of both, the other one's first, and the ratio of this one's to it."""
    seconds: dict[str, list[float]] = {one.project: [] for one in pair}
    for turn in range(rounds):
        for one in pair if turn % 2 else pair[::-1]:
            seconds[one.project].append(measure(one))
    return compare(*seconds.values())


def compare(before: list[float], after: list[float]) -> dict[str, float]:
    """Medians in seconds and their ratio."""
    first, second = statistics.median(before), statistics.median(after)
    return {
        "before": round(first, 5), "after": round(second, 5), "ratio": round(second / first, 3),
    }  # fmt: skip


def deploy_by_image(taos: Server) -> float:
    """Seconds from the request to an agent that is ready."""
    begun = time.monotonic()
    job = taos.wait(taos.deploy("again", "image", framework=FRAMEWORK)["id"])
    seconds = time.monotonic() - begun
    assert job["state"] == "succeeded", job["error"]
    taos.delete("again")
    return seconds


def list_agents(taos: Server) -> float:
    """Seconds for the list of agents over the Unix socket."""
    begun = time.monotonic()
    taos.http.get("/api/agents").raise_for_status()
    return time.monotonic() - begun


def ask_models(pair: list[Server], port: int) -> dict[str, float]:
    """Seconds to a model's first token through each gateway, from this host."""

    def ask(taos: Server) -> float:
        door = str(taos.folder / "data" / "gateway.sock")
        said = subprocess.run(
            [sys.executable, "-c", CLIENT, str(port), KEY, door, tokens[taos.project], "10"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        return statistics.median(through for _, through in json.loads(said))

    tokens = {one.project: model_token(one) for one in pair}
    return alternate(pair, 20, ask)


def model_token(taos: Server) -> str:
    """The token of the agent `first`."""
    instance = taos.http.get("/api/agents/first").json()["instance"]
    argv = ("sed", "-n", "s/^TAOS_MODEL_TOKEN=//p", "/etc/taos/agent.env")
    return incus("exec", instance, "--", *argv, project=taos.project).strip()


if __name__ == "__main__":
    main()
