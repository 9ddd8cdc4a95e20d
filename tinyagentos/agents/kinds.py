"""The job kinds of the agents' side, bound to their host. A new kind is a row here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tinyagentos.agents import deploy, keep, lifecycle
from tinyagentos.agents.host import Host
from tinyagentos.jobs.context import JobContext
from tinyagentos.jobs.runner import JobKind, Work


def agent_kinds(host: Host) -> tuple[JobKind, ...]:
    """Every kind of job about agents and the images that their builds leave."""

    def bind(work: Callable[[JobContext, Host], Awaitable[None]]) -> Work:
        async def bound(job: JobContext) -> None:
            await work(job, host)

        return bound

    return (
        JobKind(
            deploy.DEPLOY,
            bind(deploy.deploy_agent),
            bind(deploy.undo_deploy),
            steps=deploy.ALL_STEPS,
            at_once=host.settings.max_jobs,
        ),
        JobKind(keep.KEEP, bind(keep.keep_image), bind(keep.undo_keep), keep.STEPS, at_once=1),
        JobKind("start", bind(lifecycle.start_agent), steps=(lifecycle.START, deploy.READY)),
        JobKind("stop", bind(lifecycle.stop_agent), steps=(lifecycle.STOP,)),
        JobKind(
            "restart",
            bind(lifecycle.restart_agent),
            steps=(lifecycle.STOP, lifecycle.START, deploy.READY),
        ),
        JobKind("delete", bind(lifecycle.delete_agent), steps=(lifecycle.REMOVE,)),
    )
