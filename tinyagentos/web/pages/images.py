"""Images: what is here, what could be, what it costs to get it or to do without."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import count

from markupsafe import Markup
from nicegui import ui

from tinyagentos.agents.steps import DEPLOY
from tinyagentos.config import SETTINGS_FILE
from tinyagentos.images.download import DOWNLOAD
from tinyagentos.images.service import ABSENT
from tinyagentos.images.weigh import WEIGH, weigh_subject
from tinyagentos.incus import IncusError
from tinyagentos.model.agent import Framework
from tinyagentos.model.errors import TaosError
from tinyagentos.model.image import POLICIES, ImagePolicy, ImageRow, ImageState
from tinyagentos.model.job import Job
from tinyagentos.web import costs, timeline, words
from tinyagentos.web.feed import Change, find_job
from tinyagentos.web.frame import (
    Site,
    announcer,
    choices,
    confirm,
    frame,
    put,
    show,
    tell,
    trouble,
)
from tinyagentos.web.markup import Content, bar, el, facts, icon, notice
from tinyagentos.web.refresh import Refresh, within_reason
from tinyagentos.web.weights import render_weight

_log = logging.getLogger(__name__)
_numbers = count()
HERE = (ImageState.ready, ImageState.stale)
ORIGINS = {"built here": "made by a deploy on this host", "channel": "downloaded, signed"}
WAYS = {"deploy.image": "by image", "deploy.build": "built"}
HISTORY = 12
HOW = "how-to-set-a-channel"


def register(site: Site) -> None:
    """Make the page known."""

    @ui.page("/images")
    async def page() -> None:
        ImagesPage(site).build()


class ImagesPage:
    """The page in one browser."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._cards: dict[str, ImageCard] = {}
        self._seen: dict[str, object] = {}

    def build(self) -> None:
        """Build it; what Incus and the channel have to tell comes when they did."""
        site = self._site
        with frame("Images", "images"):
            show(el(
                "p",
                "An image is an agent framework made ready to start: with it a deploy takes "
                "seconds, without it taOS builds the same on this host.",
                class_="quiet",
            ))  # fmt: skip
            self._trouble = show()
            with ui.element("div").classes("row") as self._again:
                site.button("Look again", self._look)
            self._again.visible = False
            with ui.element("div").classes("stack").props("aria-busy=true") as self._grid:
                self._looking = show(el("p", "Asking Incus for its images …", class_="quiet"))
            self._policy = PolicyCard(site)
            self._history = show()
            if not site.services.settings.image_channel:
                show(render_how_to())
        self._show_history()
        self._refresh = Refresh(self._look, "look at the images")
        self._refresh()
        Refresh(self._ask_channel, "ask what is newest")()
        site.listen(self._changed)

    def _changed(self, change: Change) -> None:
        for job in filter(None, map(self._job, change.jobs)):
            if job.kind == DEPLOY and not job.is_active:
                self._show_history()
            if job.kind != WEIGH and "image:" not in job.subject and job.kind != DEPLOY:
                continue
            # Incus is asked again only where it may tell something else, not for each byte.
            step = timeline.current(job)
            seen = (job.state, step and step.name)
            if self._seen.get(job.id) != seen:
                self._seen[job.id] = seen
                self._refresh()
        for card in self._cards.values():
            card.show()

    def _job(self, job_id: str) -> Job | None:
        try:
            return self._site.services.jobs.get_job(job_id)
        except TaosError:
            return None

    async def _look(self) -> None:
        """Show what is here now, and what each framework costs."""
        services = self._site.services
        try:
            rows = await within_reason(services.images.list_images())
        except (TaosError, IncusError) as error:
            put(self._trouble, trouble(self._site, error))
            put(self._looking, None)
            self._again.visible = True
        else:
            put(self._trouble, None)
            self._again.visible = False
            self._show_rows({row.alias or row.fingerprint: row for row in rows})
        self._grid.props("aria-busy=false")
        self._policy.show(await services.agents.list_frameworks())

    async def _ask_channel(self) -> None:
        """Have sizes and versions known of what is not here; a silent channel is no trouble."""
        try:
            if await self._site.services.images.ask_channel():
                self._refresh()
        except TaosError as error:
            _log.info("the channel was not asked: %s", error.message)

    def _show_rows(self, rows: dict[str, ImageRow]) -> None:
        put(self._looking, None)
        for key in self._cards.keys() - rows.keys():
            self._cards.pop(key).box.delete()
        for key, row in rows.items():
            if key not in self._cards:
                with self._grid:
                    self._cards[key] = ImageCard(self._site, row, self._refresh)
            self._cards[key].show(row)

    def _show_history(self) -> None:
        """How long deploys took here, by the way they went."""
        host = self._site.services.host
        rows = host.timings.list_recent("deploy.", HISTORY)
        if not rows:
            return
        longest = max(row.seconds for row in rows)
        items = (
            el(
                "li",
                el("span", f"{row.subject.partition('/')[0]}, {WAYS.get(row.what, row.what)}"),
                el("span", words.seconds(row.seconds), class_="num"),
                el("span", words.ago(row.at, host.now()), class_="quiet small"),
                bar(
                    row.seconds / longest if longest else 0,
                    f"{words.seconds(row.seconds)} of {words.seconds(longest)}",
                    "calm",
                ),
            )
            for row in rows
        )
        put(self._history, el(
            "section", el("h2", "How long deploys took"), el("ul", *items, class_="history"),
            class_="card",
        ))  # fmt: skip


class PolicyCard:
    """When images are fetched: every policy with what it costs."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._chosen = site.services.images.policy
        options = {one.value: (one.capitalize(), POLICIES[one]) for one in ImagePolicy}
        with ui.element("section").classes("card").props('aria-label="Policy"'):
            show("When images are fetched", tag="h2")
            if not site.services.settings.image_channel:
                show(notice(
                    "warn", "No channel of images is configured.",
                    "Whatever the policy, deploys build on this host until there is one. ",
                    how_to(),
                ))  # fmt: skip
            self._costs = show().classes("stack tight")
            choices("Policy", options, self._chosen.value, self._choose)
            with ui.element("div").classes("row"):
                # Not at once: arrow keys pass over policies that would begin to fetch.
                site.button("Use this policy", self._use)

    def show(self, frameworks: Sequence[Framework]) -> None:
        """Say what both ways cost on this host."""
        has_channel = bool(self._site.services.settings.image_channel)
        said = (costs.compare(one, has_channel=has_channel) for one in frameworks)
        put(self._costs, Markup("").join([
            el("p", "On this host, as measured or else estimated:", class_="quiet"),
            el("ul", *(el("li", one) for one in said), class_="plain"),
        ]))  # fmt: skip

    def _choose(self, policy: str) -> None:
        self._chosen = ImagePolicy(policy)

    def _use(self) -> None:
        self._site.services.images.choose_policy(self._chosen)
        tell(f"The policy is {self._chosen} from now on.")


def how_to() -> Markup:
    """The way to how a channel is set."""
    return el("p", el("a", "How to set a channel", href=f"#{HOW}"))


def render_how_to() -> Markup:
    """How a channel is set, for a host that has none."""
    return el(
        "section",
        el("h2", "How to set a channel", id=HOW, tabindex="-1"),
        el("p", "A channel is a signed folder of released images: a web address, or a folder such "
           "as a USB stick. Name it in ", el("code", str(SETTINGS_FILE)),
           " and start the server again:"),
        el("pre", 'image_channel = "https://images.example.org/stable"', class_="code",
           tabindex="0"),
        el("p", "Only what its publisher has signed is ever used. Where images come from, how they "
           "are trusted and how one comes without a network stands in ",
           el("code", "docs/images.md"), ".", class_="quiet"),
        class_="card",
    )  # fmt: skip


class ImageCard:
    """One image."""

    def __init__(self, site: Site, row: ImageRow, again: Refresh) -> None:
        self._site = site
        self._again = again
        self._row = row
        self._wanted: object = None
        recipe = site.services.host.recipes.get(row.framework)
        name = recipe.title if recipe else row.framework or "Image"
        self._most = recipe.budget.packed_bytes if recipe else 0
        with ui.element("section").classes("card").props(f'aria-label="{row.alias}"') as self.box:
            with ui.element("div").classes("head"):
                show(
                    Markup("").join([name, " ", el("span", row.arch, class_="quiet small")]),
                    tag="h2",
                )
                self._chip = show()
            self._body = show().classes("stack")
            self._said = announcer()
            self._buttons = ui.element("div").classes("row")

    def show(self, row: ImageRow | None = None) -> None:
        """Show the image as it is now. row: what is known of it now, if that was looked at."""
        services = self._site.services
        row = self._row = row or self._row
        job = find_job(services, f"image:{row.alias}")
        put(self._chip, words.image_chip(row.state))
        parts: list[Content] = [render_facts(row, self._most)]
        if job and job.is_active:
            parts.append(timeline.render_job(job))
            put(self._said, timeline.said(job))
        else:
            parts.append(render_rest(row, job))
            if job and self._said.content:
                put(self._said, timeline.said(job))
        weighing = services.jobs.find_active(weigh_subject(row.fingerprint))
        weight = services.images.find_weight(row.fingerprint) if row.fingerprint else None
        if weighing:
            parts.append(timeline.render_brief(weighing))
        elif weight:
            parts.append(render_weight(row, weight))
        put(self._body, Markup("").join(part for part in parts if part is not None))
        wanted = (
            row.state, bool(row.partial_bytes), bool(weight), bool(weighing),
            services.images.policy, job and (job.id, job.is_active, job.cancel_requested),
        )  # fmt: skip
        if wanted != self._wanted:
            self._wanted = wanted
            self._buttons.clear()
            with self._buttons:
                self._build_buttons(row, job)

    def _build_buttons(self, row: ImageRow, job: Job | None) -> None:
        site, images = self._site, self._site.services.images
        if job and job.is_active:
            if job.kind == DOWNLOAD and not job.cancel_requested:
                self._build_stops(row, job)
            return
        if row.framework not in site.services.host.recipes:
            return

        def weigh() -> None:
            images.start_weighing(row.fingerprint)

        async def remove() -> None:
            await images.remove(row.framework)
            self._again()

        def discard() -> None:
            images.discard(row.framework)
            self._again()

        self._build_download(row)
        if row.partial_bytes:
            site.button("Discard", discard, "danger")
        if row.fingerprint and not images.find_weight(row.fingerprint):
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

    def _build_stops(self, row: ImageRow, job: Job) -> None:
        """The two ways to stop a download."""
        site = self._site

        def pause() -> None:
            site.services.jobs.cancel_job(job.id)

        def cancel() -> None:
            site.services.images.discard(row.framework)

        site.button("Pause", pause)
        site.button("Cancel", cancel, "danger")
        show(el("p", "Pause keeps what has come, Cancel removes it.", class_="hint"))

    def _build_download(self, row: ImageRow) -> None:
        """The button that fetches; where nothing can be fetched it stays, and says why."""
        site, services = self._site, self._site.services

        def download() -> None:
            services.images.start_download(row.framework)

        kind = "" if row.state in HERE else "primary"
        label = (
            "Go on downloading" if row.partial_bytes
            else "Look for a newer one" if row.state in HERE
            else "Download fast-deploy image"
        )  # fmt: skip
        if not services.settings.image_channel:
            why: Content = Markup("").join([
                "Needs a channel of images, and none is configured. ",
                el("a", "How to set a channel", href=f"#{HOW}"),
            ])  # fmt: skip
        elif services.images.policy is ImagePolicy.off:
            why = "The policy is off: images are never fetched. Choose another one below."
        else:
            site.button(label, download, kind, "download")
            return
        disabled_button(label, why, kind, "download")


def disabled_button(label: str, why: Content, kind: str = "", drawing: str = "") -> None:
    """A button that does nothing now. It can be reached by keyboard, and says why beside it."""
    name = f"why-{next(_numbers)}"
    inside = Markup("").join([icon(drawing) if drawing else "", label])
    made = show(inside, tag="button").classes(f"button {kind}")
    made.props(f"type=button aria-disabled=true aria-describedby={name}")
    show(el("p", why, class_="hint", id=name))


def render_facts(row: ImageRow, most: int = 0) -> Markup:
    """Versions and sizes of the image. most: what it may weigh by its recipe, in bytes; 0: any."""
    is_here = row.state in HERE
    guess = f"at most {words.size(most)}" if most else "not known yet"
    return facts({
        "Installed": row.version if is_here else "none",
        "Newest": row.newest,
        "Packed": words.size(row.size_bytes) or guess,
        "Unpacked": words.size(row.unpacked_bytes),
        "Comes from": ORIGINS.get(row.origin, row.origin) if is_here else "",
    })  # fmt: skip


def render_rest(row: ImageRow, job: Job | None) -> Markup | None:
    """What is to say of an image that nobody is fetching now."""
    if job and job.kind == DOWNLOAD and job.error and row.state not in HERE:
        failure = notice("fail", job.error.message, job.error.hint)
        return el("div", failure, render_partial(row), class_="stack")
    if row.partial_bytes:
        return render_partial(row)
    if not row.reason or row.reason == ABSENT:
        return None
    return el("p", f"{row.reason[:1].upper()}{row.reason[1:]}.", class_="quiet")


def render_partial(row: ImageRow) -> Markup | None:
    """How much of the image has come."""
    if not row.partial_bytes:
        return None
    whole = row.size_bytes if row.state not in HERE else None
    total = f" of {words.size(whole)}" if whole else ""
    said = f"{words.size(row.partial_bytes)}{total} are here."
    share = row.partial_bytes / whole if whole else None
    return el(
        "div", el("p", said), bar(share, said, "calm") if share else None, class_="stack tight"
    )
