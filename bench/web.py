"""The web pages: memory of an idle server, time to a useful page, and ten open pages on a deploy."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from bench.common import Server, keep, server

PASSWORD = "measured horse battery"
TABS = 10
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Measure with a real server, real Incus and a real browser."""
    with server() as taos, sync_playwright() as playwright:
        taos.start()
        taos.http.put("/api/web/password", json={"password": PASSWORD}).raise_for_status()
        address = find_address(taos)
        time.sleep(8)  # until the pages are loaded and the start's garbage is gone
        idle_mb = memory_mb(taos)
        path = next(path for path in map(shutil.which, CHROMIUM) if path)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = log_in(browser, address)
        useful = [time_to_useful(page, address) for _ in range(7)]
        deploys = {f"{tabs} tabs": deploy_watched(taos, page, address, tabs) for tabs in (0, TABS)}
        cpu_idle = cpu_share_idle(taos)
        keep("web", {
            "idle_mb": idle_mb, "idle_limit_mb": 120,
            "useful_seconds": useful, "useful_median": statistics.median(useful),
            "useful_limit": 1.0,
            "deploys": deploys, "tabs_cpu_limit": 0.25, "tabs_memory_limit_mb": 150,
            "ten_quiet_tabs_cpu": cpu_idle,
        })  # fmt: skip
        browser.close()


def find_address(taos: Server) -> str:
    """Where the server said that it serves."""
    for line in (taos.folder / "server.log").read_text().splitlines():
        if "serves on " in line:
            return line.rpartition(" ")[2]
    raise RuntimeError("no address in the server's log")


def log_in(browser: Browser, address: str) -> Page:
    """A page with a session."""
    page = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
    page.goto(f"{address}/login")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Agents", level=1).wait_for(timeout=20_000)
    return page


def time_to_useful(page: Page, address: str) -> float:
    """Seconds from asking for the agents until they, or the first step, can be used."""
    begun = time.monotonic()
    page.goto(address, wait_until="commit")
    page.get_by_role("button", name="Deploy").first.wait_for()
    return round(time.monotonic() - begun, 3)


def deploy_watched(taos: Server, page: Page, address: str, tabs: int) -> dict[str, object]:
    """A deploy by build, watched by so many pages: what the server took."""
    job = taos.deploy("watched", "build")
    opened = [page.context.new_page() for _ in range(tabs)]
    for number, one in enumerate(opened):
        one.goto(f"{address}/jobs/{job['id']}" if number % 2 else f"{address}/agents/watched")
    begun, spent = time.monotonic(), cpu_seconds(taos)
    most = memory_mb(taos)
    while taos.job(job["id"])["state"] in ("queued", "running"):
        most = max(most, memory_mb(taos))
        time.sleep(0.25)
    seconds, cpu = time.monotonic() - begun, cpu_seconds(taos) - spent
    taos.wait_all()
    for one in opened:
        one.goto(address)
    if not tabs:
        taos.delete("watched")
        taos.http.delete("/api/images/openclaw")
    return {
        "seconds": round(seconds, 1), "cpu_share": round(cpu / seconds, 3), "memory_mb": most,
        "state": taos.job(job["id"])["state"],
    }  # fmt: skip


def cpu_share_idle(taos: Server) -> float:
    """What ten pages that lie open take while nothing happens."""
    time.sleep(5)
    begun, spent = time.monotonic(), cpu_seconds(taos)
    time.sleep(30)
    return round((cpu_seconds(taos) - spent) / (time.monotonic() - begun), 3)


def memory_mb(taos: Server) -> int:
    """The server's resident memory."""
    assert taos.process
    status = Path(f"/proc/{taos.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def cpu_seconds(taos: Server) -> float:
    """The processor time of the server itself (proc(5), stat); its builds are other processes."""
    assert taos.process
    fields = Path(f"/proc/{taos.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
