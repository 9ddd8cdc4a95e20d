"""The job kinds of the agents' side, bound to their host. A new kind is a row here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tinyagentos.agents import (
    bundle,
    deploy,
    keep,
    lifecycle,
    network,
    reconcile,
    settings,
    snapshots,
    upgrade,
)
from tinyagentos.agents.host import Host
from tinyagentos.agents.steps import ALL_STEPS, CONNECT, DEPLOY, READY
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
            DEPLOY,
            bind(deploy.deploy_agent),
            bind(deploy.undo_deploy),
            steps=ALL_STEPS,
            at_once=host.settings.max_jobs,
        ),
        JobKind(keep.KEEP, bind(keep.keep_image), bind(keep.undo_keep), keep.STEPS, at_once=1),
        JobKind("start", bind(lifecycle.start_agent), steps=(lifecycle.START, CONNECT, READY)),
        JobKind("stop", bind(lifecycle.stop_agent), steps=(lifecycle.STOP,)),
        JobKind(
            "restart",
            bind(lifecycle.restart_agent),
            steps=(lifecycle.STOP, lifecycle.START, CONNECT, READY),
        ),
        JobKind(
            network.NETWORK,
            bind(network.change_network),
            bind(network.undo_change),
            steps=network.STEPS,
        ),
        JobKind(
            settings.CHANGE,
            bind(settings.change_agent),
            bind(settings.undo_change),
            steps=(settings.APPLY,),
        ),
        JobKind(
            bundle.EXPORT,
            bind(bundle.export_agent),
            bind(bundle.undo_export),
            steps=bundle.EXPORT_STEPS,
            at_once=1,
        ),
        JobKind(
            bundle.IMPORT,
            bind(bundle.import_state),
            bind(bundle.undo_import),
            steps=bundle.IMPORT_STEPS,
            at_once=1,
        ),
        JobKind(reconcile.LEFTOVER, bind(reconcile.remove_leftover), steps=(reconcile.REMOVE,)),
        JobKind("delete", bind(lifecycle.delete_agent), steps=(lifecycle.REMOVE,)),
        JobKind(
            upgrade.UPGRADE,
            bind(upgrade.upgrade_agent),
            bind(upgrade.undo_upgrade),
            steps=upgrade.STEPS,
            at_once=1,
        ),
        JobKind(upgrade.UNDO, bind(upgrade.return_agent), steps=upgrade.UNDO_STEPS),
        JobKind(upgrade.FORGET, bind(upgrade.remove_previous), steps=(upgrade.TIDY,)),
        JobKind(
            snapshots.SNAPSHOT,
            bind(snapshots.snapshot_agent),
            bind(snapshots.undo_snapshot),
            steps=(snapshots.KEEP,),
        ),
        JobKind(
            snapshots.RESTORE,
            bind(snapshots.restore_agent),
            bind(snapshots.undo_restore),
            steps=snapshots.RESTORE_STEPS,
        ),
        JobKind(snapshots.DROP, bind(snapshots.drop_snapshot), steps=(snapshots.REMOVE,)),
    )
