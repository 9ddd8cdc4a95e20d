"""Host: the doctor's checks with a fix where there is a safe one, and what is used."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

from markupsafe import Markup
from nicegui import background_tasks, ui

from tinyagentos import __version__
from tinyagentos.agents.instances import pick_pool
from tinyagentos.host.check import Verdict
from tinyagentos.host.facts import read_meminfo
from tinyagentos.host.setup import Result, examine_host, mend_check
from tinyagentos.incus import IncusError
from tinyagentos.model.errors import TaosError
from tinyagentos.web import words
from tinyagentos.web.frame import Site, frame, put, show, tell
from tinyagentos.web.markup import bar, el, facts, icon, notice

VERDICTS = {
    Verdict.ok: ("ok", "ok", "Fine"),
    Verdict.warn: ("warn", "warn", "Works, at a cost"),
    Verdict.fail: ("fail", "fail", "Not as it must be"),
}


def register(site: Site) -> None:
    """Make the page known."""

    @ui.page("/host")
    async def page() -> None:
        HostPage(site).build()


class HostPage:
    """The page in one browser."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def build(self) -> None:
        """Build it; what has to be looked at comes when it was."""
        with frame("Host", "host") as beside:
            with beside:
                self._site.button("Look again", self._look)
            with ui.element("section").classes("card").props("aria-busy=true") as self._card:
                self._head = show(el("h2", "Looking at this host …"))
                self._list = ui.element("ul").classes("checks")
            self._used = show().classes("grid")
        background_tasks.create(self._look(), name="look at the host")

    async def _look(self) -> None:
        results = await examine_host(self._site.services.settings)
        used = await render_used(self._site)
        if self._card.is_deleted:
            return
        bad = sum(one.finding.verdict is Verdict.fail for one in results)
        costly = sum(one.finding.verdict is Verdict.warn for one in results)
        title = (
            f"{bad} of {len(results)} checks fail" if bad
            else f"Ready for agents, with {costly} remark{'s' if costly > 1 else ''}" if costly
            else "This host is ready for agents"
        )  # fmt: skip
        put(self._head, el("h2", title))
        self._card.props("aria-busy=false")
        self._list.clear()
        with self._list:
            for one in results:
                self._row(one)
        put(self._used, used)

    def _row(self, result: Result) -> None:
        found, check = result.finding, result.check
        colour, drawing, word = VERDICTS[found.verdict]
        with ui.element("li"):
            show(Markup("").join([icon(drawing), el("span", word, class_="hidden-words")])).classes(
                f"chip {colour}"
            ).style("padding:4px;width:28px;height:28px;justify-content:center")
            more = None
            if found.verdict is not Verdict.ok:
                what = f"The fix: {found.plan}." if found.plan else found.hint
                more = el("p", f"Why it matters: {check.why}. ", what, class_="quiet small")
            show(Markup("").join([
                el("p", el("strong", check.name.capitalize()), ": ", found.said), more or "",
            ]))  # fmt: skip
            if found.plan and check.fix and os.geteuid() == 0:

                async def fix() -> None:
                    await mend_check(self._site.services.settings, check)
                    tell(f"{check.name.capitalize()}: mended.")
                    await self._look()

                self._site.button("Fix", fix, "small primary")


async def render_used(site: Site) -> Markup:
    """What is used of the pool, of the memory, of the disk, and by taOS itself."""
    services = site.services
    cards: list[Markup] = []
    try:
        pool = await pick_pool(services.host)
        room = await services.incus.storage.get_resources(pool.name)
        cards.append(
            usage_card(f"Storage pool {pool.name}", room.used_bytes, room.total_bytes, pool.driver)
        )
    except (TaosError, IncusError) as error:
        cards.append(notice("fail", *site.explain(error)))
    memory = read_meminfo(Path("/proc/meminfo").read_text())
    total = memory["MemTotal"]
    cards.append(usage_card("Memory", total - memory["MemAvailable"], total, ""))
    disk = shutil.disk_usage(services.settings.data_dir)
    cards.append(usage_card("Disk of taOS", disk.used, disk.total, str(services.settings.data_dir)))
    own = resource.getrusage(resource.RUSAGE_SELF)
    cards.append(
        el(
            "section",
            el("h2", "taOS itself"),
            facts({
                "Version": __version__,
                "Memory": words.memory(own_memory_bytes()),
                "Processor time": words.seconds(own.ru_utime + own.ru_stime),
            }),
            class_="card",
        )
    )  # fmt: skip
    return Markup("").join(cards)


def usage_card(title: str, used: float, total: float, note: str) -> Markup:
    """How much of something is used."""
    share = used / total if total else None
    return el(
        "section",
        el("h2", title),
        bar(share, f"{title}: used", "warn" if share and share > 0.9 else "calm"),
        el("p", f"{words.memory(used)} of {words.memory(total)} used"),
        el("p", note, class_="quiet small") if note else None,
        class_="card",
    )


def own_memory_bytes() -> int:
    """What this process holds in memory now (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
