"""Host: the doctor's checks with a fix where there is a safe one, and what is used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from nicegui import ui

from tinyagentos import __version__
from tinyagentos.agents.instances import pick_pool
from tinyagentos.host.check import Check, Verdict
from tinyagentos.host.facts import read_meminfo
from tinyagentos.host.room import read_room
from tinyagentos.host.setup import Result, examine_host
from tinyagentos.incus import IncusError
from tinyagentos.model.errors import TaosError
from tinyagentos.web import words
from tinyagentos.web.fixes import Fixes, FixRun
from tinyagentos.web.frame import Site, frame, put, show, tell
from tinyagentos.web.markup import Content, bar, el, facts, icon, notice
from tinyagentos.web.own_cost import measure_folder, measure_images, measure_kept, read_own_cost
from tinyagentos.web.refresh import Refresh, within_reason

VERDICTS = {
    Verdict.ok: ("ok", "ok", "Fine"),
    Verdict.warn: ("warn", "warn", "Works, at a cost"),
    Verdict.fail: ("fail", "fail", "Not as it must be"),
}
MEASURING = "being measured"
UNKNOWN = "not known while Incus does not answer"


def register(site: Site) -> None:
    """Make the page known."""
    fixes = Fixes(site.services.mend, site.services.explain)

    @ui.page("/host")
    async def page() -> None:
        HostPage(site, fixes).build()


class HostPage:
    """The page in one browser."""

    def __init__(self, site: Site, fixes: Fixes) -> None:
        self._site = site
        self._fixes = fixes
        self._rows: dict[str, FixRow] = {}
        self._running: frozenset[str] = frozenset()

    def build(self) -> None:
        """Build it; what has to be looked at comes when it was."""
        with frame("Host", "host") as beside:
            with beside:
                self._site.button("Look again", self._look_again)
            with ui.element("section").classes("card").props("aria-busy=true") as self._card:
                self._head = show(el("h2", "Looking at this host …"))
                self._list = ui.element("ul").classes("checks")
            with ui.element("div").classes("grid"):
                self._pool, self._memory, self._own = show(), show(), show()
        self._measure = Refresh(self._measure_all, "measure what is used")
        self._measure()
        self._look = Refresh(self._examine, "look at the host")
        self._look()
        client = ui.context.client

        def show_fixes() -> None:
            with client:
                self._show_fixes()

        client.on_delete(self._fixes.listen(show_fixes))

    def _look_again(self) -> None:
        self._card.props("aria-busy=true")
        put(self._head, el("h2", "Looking at this host …"))
        self._measure()
        self._look()

    async def _examine(self) -> None:
        results = await examine_host(self._site.services.settings)
        put(self._head, el("h2", summarize(results)))
        self._card.props("aria-busy=false")
        self._list.clear()
        self._rows.clear()
        with self._list:
            for one in results:
                self._row(one)

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
                self._rows[check.name] = FixRow(self._site, self._fixes, check)

    def _show_fixes(self) -> None:
        """Show how fixes go on; where one has ended, the host is looked at again."""
        running = frozenset(name for name, run in self._fixes.runs.items() if run.is_running)
        for row in self._rows.values():
            row.show()
        for name in self._running - running:
            if not self._fixes.runs[name].problem:
                tell(f"{name.capitalize()}: mended.")
            self._look_again()
        self._running = running

    async def _measure_all(self) -> None:
        """What is used of the pool and of the memory, and what taOS itself costs."""
        services = self._site.services
        memory = read_meminfo(Path("/proc/meminfo").read_text())
        total = memory["MemTotal"]
        put(self._memory, usage_card("Memory", total - memory["MemAvailable"], total, ""))
        data = MEASURING
        put(self._own, own_card(data, MEASURING, MEASURING))
        data = words.size(await measure_folder(services.settings.data_dir))
        put(self._own, own_card(data, MEASURING, MEASURING))
        try:
            pool = await within_reason(pick_pool(services.host))
            room = await within_reason(read_room(services.incus, pool.name))
            images = await within_reason(measure_images(services))
            kept = await within_reason(measure_kept(services))
        except (TaosError, IncusError) as error:
            put(self._pool, notice("fail", *self._site.explain(error)))
            put(self._own, own_card(data, UNKNOWN, UNKNOWN))
            return
        title = f"Storage pool {pool.name}"
        # What the disk under the pool lacks cannot be used, whatever the pool says.
        put(
            self._pool,
            usage_card(title, room.total_bytes - room.free_bytes, room.total_bytes, pool.driver),
        )
        put(self._own, own_card(data, words.size(images), words.size(kept)))


class FixRow:
    """The button that mends one thing, and how that goes."""

    def __init__(self, site: Site, fixes: Fixes, check: Check) -> None:
        self._fixes = fixes
        self._check = check
        self._button = site.button("Fix", self._begin, "small primary")
        self._lines = show().props("role=status").style("grid-column:2 / -1")
        self.show()

    def _begin(self) -> None:
        self._fixes.begin(self._check)

    def show(self) -> None:
        """Show how it goes, or how it ended."""
        run = self._fixes.runs.get(self._check.name)
        self._button.visible = not (run and run.is_running)
        put(self._lines, render_fix(run, self._fixes.clock()) if run else None)


def render_fix(run: FixRun, now: float) -> Markup:
    """What a fix said, how long it has been at it, or why it did not work."""
    head: Content = None
    if run.is_running:
        head = el("p", el("strong", "Being mended"), " for ", words.counting(now - run.began_at),
                  ". It goes on when you leave this page.")  # fmt: skip
    elif run.problem:
        head = notice("fail", run.problem.message, run.problem.hint)
    lines = el("ul", *(el("li", line) for line in run.lines), class_="plain quiet small")
    return el("div", head, lines if run.lines else None, class_="stack tight")


def summarize(results: Sequence[Result]) -> str:
    """All checks in a line."""
    bad = sum(one.finding.verdict is Verdict.fail for one in results)
    costly = sum(one.finding.verdict is Verdict.warn for one in results)
    if bad:
        return f"{bad} of {len(results)} checks fail"
    if costly:
        return f"Ready for agents, with {costly} remark{'s' if costly > 1 else ''}"
    return "This host is ready for agents"


def own_card(data: str, images: str, kept: str) -> Markup:
    """What taOS itself costs; data, images, kept: of the disk, as far as that is known."""
    own = read_own_cost()
    share = f"{own.cpu_share * 100:.1f} % of one on average"
    return el(
        "section",
        el("h2", "What taOS costs"),
        facts({
            "Memory": words.memory(own.memory_bytes),
            "Processor": f"{words.seconds(own.cpu_seconds)}, {share}",
            "Its data": data,
            "Images": images,
            "Kept states": kept,
            "Version": __version__,
        }),
        el("p", "Agents are not in it: each says on its page what it takes.",
           class_="quiet small"),
        class_="card",
    )  # fmt: skip


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
