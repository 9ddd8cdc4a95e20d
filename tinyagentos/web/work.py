"""A job on a page: what can be done with it."""

from __future__ import annotations

from tinyagentos.agents.steps import DEPLOY
from tinyagentos.model.job import Job, JobState
from tinyagentos.web import words
from tinyagentos.web.frame import Site, show, tell
from tinyagentos.web.markup import el


def job_buttons(
    site: Site, job: Job, *, may_dismiss: bool = False, otherwise: bool = False
) -> None:
    """Cancel or retry it; may_dismiss: or be told of it no more; otherwise: or deploy anew."""
    jobs = site.services.jobs

    def cancel() -> None:
        jobs.cancel_job(job.id)

    async def retry() -> None:
        again = await jobs.retry_job(job.id)
        tell(f"{words.kind(again)}: begun again.")

    def dismiss() -> None:
        jobs.dismiss_job(job.id)

    if job.is_active and not job.cancel_requested:
        site.button("Cancel", cancel, "danger" if job.kind == DEPLOY else "")
    elif job.state in (JobState.failed, JobState.cancelled):
        site.button("Retry", retry, "primary")
        if otherwise:
            show(el("a", "Deploy otherwise", href="/?deploy=1", class_="button"))
        if may_dismiss:
            site.button("Dismiss", dismiss)
