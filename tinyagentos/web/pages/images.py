"""Images: what is here, what could be, what it costs to get it or to do without."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from markupsafe import Markup
from nicegui import ui

from tinyagentos.images.download import DOWNLOAD
from tinyagentos.images.weigh import WEIGH, Weight, weigh_subject
from tinyagentos.incus import IncusError
from tinyagentos.model.errors import TaosError
from tinyagentos.model.image import POLICIES, ImagePolicy, ImageRow, ImageState
from tinyagentos.model.job import Job
from tinyagentos.web import timeline, words
from tinyagentos.web.feed import Change, find_job
from tinyagentos.web.frame import Site, announcer, confirm, frame, put, show, trouble
from tinyagentos.web.markup import bar, el, facts, notice

HERE = (ImageState.ready, ImageState.stale)
ORIGINS = {"build": "made by a deploy on this host", "channel": "downloaded"}


Again = Callable[[], Awaitable[None]]


def register(site: Site) -> None:
    """Make the page known."""

    @ui.page("/images")
    async def page() -> None:
        await ImagesPage(site).build()


class ImagesPage:
    """The page in one browser."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._rows: dict[str, ImageCard] = {}

    async def build(self) -> None:
        """Build it, then keep it up to date."""
        site = self._site
        with frame("Images", "images"):
            show(el(
                "p",
                "An image is an agent framework made ready to start: with it a deploy takes "
                "seconds, without it taOS builds the same on this host.",
                class_="quiet",
            ))  # fmt: skip
            self._trouble = show()
            self._grid = ui.element("div").classes("stack")
            self._policy()
            self._history()
        await self._show()
        site.listen(self._changed)

    async def _changed(self, change: Change) -> None:
        jobs = [job for job in map(self._job, change.jobs) if job]
        if any("image:" in job.subject or job.kind == WEIGH for job in jobs):
            await self._show()

    def _job(self, job_id: str) -> Job | None:
        try:
            return self._site.services.jobs.get_job(job_id)
        except TaosError:
            return None

    async def _show(self) -> None:
        site = self._site
        try:
            rows = await site.services.images.list_images()
        except (TaosError, IncusError) as error:
            put(self._trouble, trouble(site, error))
            return
        put(self._trouble, None)
        keys = {row.alias or row.fingerprint: row for row in rows}
        for key in self._rows.keys() - keys.keys():
            self._rows.pop(key).box.delete()
        for key, row in keys.items():
            if key not in self._rows:
                with self._grid:
                    self._rows[key] = ImageCard(site, row, self._show)
            self._rows[key].show(row)

    def _policy(self) -> None:
        with ui.element("section").classes("card"):
            show(el("h2", "When images are fetched"))
            self._chosen = show()
            self._choices = ui.element("div").classes("row").props('role="group"')
            self._show_policy()

    def _show_policy(self) -> None:
        site = self._site
        policy = site.services.images.policy
        put(self._chosen, Markup("").join([
            el("p", el("strong", policy.capitalize()), ": ", POLICIES[policy]),
            el("p", self._typical(), class_="quiet"),
            "" if site.services.settings.image_channel else notice(
                "warn", "No channel of images is configured.",
                "Set image_channel in taos.toml. Until then deploys build on this host."),
        ]))  # fmt: skip
        self._choices.clear()
        with self._choices:
            for one in ImagePolicy:
                if one is not policy:
                    site.button(one.capitalize(), self._choose(one))

    def _choose(self, policy: ImagePolicy) -> Callable[[], None]:
        def choose() -> None:
            self._site.services.images.choose_policy(policy)
            self._show_policy()

        return choose

    def _typical(self) -> str:
        """The price of both ways on this host."""
        parts = []
        for one in self._site.services.agents.list_frameworks():
            image, build = (
                words.about(one.expected_seconds.get(way)) for way in ("image", "build")
            )
            if image or build:
                known = [
                    f"{took} {way}" for took, way in ((image, "by image"), (build, "built")) if took
                ]
                parts.append(f"{one.title} on this host: {', '.join(known)}.")
        return " ".join(parts) or "How long each way takes here is known after the first deploys."

    def _history(self) -> None:
        """How long deploys took here, by the way they went."""
        host = self._site.services.host
        rows = host.timings.list_recent("deploy.")
        if not rows:
            return
        with ui.element("section").classes("card"):
            show(el("h2", "How long deploys took"))
            longest = max(row.seconds for row in rows)
            items = [
                el(
                    "li",
                    el("span", f"{row.subject.partition('/')[0]}, {WAYS.get(row.what, row.what)}"),
                    el("span", words.seconds(row.seconds), class_="num"),
                    el("span", words.ago(row.at, host.now()), class_="quiet small"),
                    bar(
                        row.seconds / longest,
                        f"{words.seconds(row.seconds)} of {words.seconds(longest)}",
                        "calm",
                    ),
                )
                for row in rows[:12]
            ]
            show(el("ul", *items, class_="history"))


HEAVIEST = 12
WAYS = {"deploy.image": "by image", "deploy.build": "built"}


class ImageCard:
    """One image."""

    def __init__(self, site: Site, row: ImageRow, again: Again) -> None:
        self._site = site
        self._again = again
        self._wanted: object = None
        with ui.element("section").classes("card") as self.box:
            with ui.element("div").classes("head"):
                show(Markup("").join([
                    row.framework or "Image ", " ", el("span", row.arch, class_="quiet small"),
                ]), tag="h2")  # fmt: skip
                self._chip = show()
            self._body = show().classes("stack")
            self._said = announcer()
            self._buttons = ui.element("div").classes("row")

    def show(self, row: ImageRow) -> None:
        """Show the image as it is now."""
        services = self._site.services
        job = find_job(services, f"image:{row.alias}")
        put(self._chip, words.image_chip(row.state))
        pairs = {
            "Installed": row.version,
            "Newest": row.newest,
            "Size": words.size(row.size_bytes),
            "Comes from": ORIGINS.get(row.origin, row.origin),
        }
        is_fetch = job is not None and job.kind == DOWNLOAD
        failed = is_fetch and job is not None and job.error is not None
        parts = [facts(dict(pairs))]
        if job and job.is_active:
            parts.append(timeline.render_job(job))
            put(self._said, timeline.said(job))
        elif failed and job and job.error and row.state not in HERE:
            parts.append(notice("fail", job.error.message, job.error.hint))
        elif row.reason:
            parts.append(el("p", row.reason[:1].upper() + row.reason[1:] + ".", class_="quiet"))
        weighing = services.jobs.find_active(weigh_subject(row.fingerprint))
        weight = services.images.find_weight(row.fingerprint) if row.fingerprint else None
        if weighing:
            parts.append(timeline.render_brief(weighing))
        elif weight:
            parts.append(render_weight(row, weight))
        put(self._body, Markup("").join(parts))
        wanted = (
            row.state,
            job.id if job else "",
            bool(job and job.is_active),
            job and job.cancel_requested,
        )
        if wanted != self._wanted:
            self._wanted = wanted
            self._buttons.clear()
            with self._buttons:
                self._build_buttons(row, job)

    def _build_buttons(self, row: ImageRow, job: Job | None) -> None:
        site = self._site
        if job and job.is_active:
            if job.kind == DOWNLOAD and not job.cancel_requested:
                site.button("Pause", lambda: self._cancel(job))
                show(el("p", "What has come is kept.", class_="hint"))
            return
        frameworks = {one.name for one in site.services.agents.list_frameworks()}
        if row.framework not in frameworks:
            return

        def download() -> None:
            site.services.images.start_download(row.framework)

        def weigh() -> None:
            site.services.images.start_weighing(row.fingerprint)

        async def remove() -> None:
            await site.services.images.remove(row.framework)
            await self._again()

        settings = site.services.settings
        if settings.image_channel and site.services.images.policy is not ImagePolicy.off:
            if row.state in HERE:
                site.button("Look for a newer one", download, "", "download")
            else:
                begun = job and job.kind == DOWNLOAD
                label = "Go on downloading" if begun else "Download fast-deploy image"
                site.button(label, download, "primary", "download")
        if row.fingerprint and not site.services.images.find_weight(row.fingerprint):
            weighing = site.services.jobs.find_active(weigh_subject(row.fingerprint))
            if not weighing:
                site.button("What is in it", weigh)
        if row.state in HERE:
            ask = confirm(
                site, f"Remove the image of {row.framework}?",
                "Agents stay. The next deploy builds on this host, or fetches it again.",
                "Remove", remove,
            )  # fmt: skip
            site.button("Remove", ask.open, "danger")

    def _cancel(self, job: Job) -> None:
        self._site.services.jobs.cancel_job(job.id)


def render_weight(row: ImageRow, weight: Weight) -> Markup:
    """What is in the image: the picture, and the heaviest parts in words."""
    report = json.loads(weight.report.read_text())
    heaviest = sorted(report["components"], key=lambda one: -one["packed_bytes"])[:HEAVIEST]
    rows = (
        el("tr", el("td", one["name"].partition(":")[2] or one["name"]),
           el("td", words.size(one["packed_bytes"]), class_="num"),
           el("td", words.size(one["unpacked_bytes"]), class_="num"))
        for one in heaviest
    )  # fmt: skip
    heads = el("tr", *(el("th", name, scope="col") for name in ("Part", "Packed", "Unpacked")))
    total = f"{words.size(report['packed_bytes'])}, {words.size(report['unpacked_bytes'])} unpacked"
    return el(
        "details",
        el("summary", f"What is in it: {total}"),
        el("img", src=f"/images/weights/{row.fingerprint}.svg", class_="picture",
           alt=f"The parts of {row.framework} by size; the heaviest are in the table below"),
        el("table", el("thead", heads), el("tbody", *rows), class_="table"),
    )  # fmt: skip
