"""Jobs: every piece of work, each with its timeline."""

from __future__ import annotations

from markupsafe import Markup
from nicegui import ui

from tinyagentos.model.errors import NotFound
from tinyagentos.model.job import Job
from tinyagentos.web import timeline, words
from tinyagentos.web.deploy import expected_seconds
from tinyagentos.web.feed import Change
from tinyagentos.web.frame import Site, announcer, empty, frame, put, show
from tinyagentos.web.markup import el
from tinyagentos.web.work import job_buttons

SHOWN = 60


def register(site: Site) -> None:
    """Make both pages known."""

    @ui.page("/jobs")
    async def list_page() -> None:
        build_list(site)

    @ui.page("/jobs/{job_id}")
    async def job_page(job_id: str) -> None:
        JobPage(site, job_id).build()


def build_list(site: Site) -> None:
    """The newest jobs, kept up to date."""

    def redraw(change: Change) -> None:
        if change.jobs:
            put(rows, render_rows(site))

    with frame("Jobs", "jobs"):
        jobs = site.services.jobs.list_jobs()
        if not jobs:
            with empty("jobs", "No job yet", "Each deploy, download and upgrade is a job."):
                show(el("a", "Deploy an agent", href="/?deploy=1", class_="button primary"))
        rows = show(render_rows(site) if jobs else "").classes("card" if jobs else "")
    site.listen(redraw)


def render_rows(site: Site) -> Markup:
    """One line for each job."""
    now = site.services.host.now()
    jobs = site.services.jobs.list_jobs()[:SHOWN]
    return el("ul", *(render_row(job, words.ago(job.created_at, now)) for job in jobs),
              class_="jobs")  # fmt: skip


def render_row(job: Job, when: str) -> Markup:
    """One line."""
    spent = sum(step.seconds for step in job.steps)
    step = timeline.current(job)
    why = timeline.first_line(job.error.message) if job.error else ""
    below = f"{when} · {step.name if step and job.is_active else why or words.seconds(spent)}"
    return el(
        "li",
        el(
            "a",
            el("span", words.kind(job), class_="what"),
            el("span", words.job_chip(job), class_="end"),
            el("span", below, class_="when"),
            href=f"/jobs/{job.id}",
        ),
    )


class JobPage:
    """One job in one browser."""

    def __init__(self, site: Site, job_id: str) -> None:
        self._site = site
        self._id = job_id
        self._wanted: object = None

    def build(self) -> None:
        """Build it, then keep it up to date."""
        site = self._site
        try:
            job = site.services.jobs.get_job(self._id)
        except NotFound:
            with frame("Job", "jobs", back=("/jobs", "Jobs")):
                empty("jobs", "There is no such job", "Old jobs are forgotten after a while.")
            return
        with frame(words.kind(job), "jobs", back=("/jobs", "Jobs")) as beside:
            with beside:
                self._chip = show()
            self._said = announcer()
            with ui.element("section").classes("card").props('aria-label="Timeline"'):
                self._body = show()
                self._buttons = ui.element("div").classes("row")
            if job.subject.startswith("agent:"):
                name = words.subject(job)
                show(el("p", el("a", f"To the agent {name}", href=f"/agents/{name}")))
        self._show(job)
        site.listen(self._changed)

    def _changed(self, change: Change) -> None:
        if self._id in change.jobs:
            self._show(self._site.services.jobs.get_job(self._id))

    def _show(self, job: Job) -> None:
        put(self._chip, words.job_chip(job))
        put(self._body, timeline.render_job(job, expected_seconds(self._site, job)))
        put(self._said, timeline.said(job))
        wanted = (job.state, job.cancel_requested)
        if wanted != self._wanted:
            self._wanted = wanted
            self._buttons.clear()
            with self._buttons:
                job_buttons(self._site, job)
