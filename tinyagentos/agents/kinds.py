"""The job kinds of the agents' side, bound to their host. A new kind is a row here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields

from tinyagentos.agents import (
    bundle,
    deploy,
    keep,
    lifecycle,
    network,
    reconcile,
    requests,
    settings,
    snapshots,
    upgrade,
    upgrade_all,
)
from tinyagentos.agents.host import Host
from tinyagentos.agents.order import DeployOrder
from tinyagentos.agents.steps import ALL_STEPS, CONNECT, DEPLOY, READY
from tinyagentos.jobs.context import JobContext
from tinyagentos.jobs.runner import JobKind, Recheck, Work
from tinyagentos.model.job import Job

ON_AGENT = ("instance", "agent", "was_running")


def agent_kinds(host: Host) -> tuple[JobKind, ...]:
    """Every kind of job about agents and the images that their builds leave."""

    def bind(work: Callable[[JobContext, Host], Awaitable[None]]) -> Work:
        async def bound(job: JobContext) -> None:
            await work(job, host)

        return bound

    def again(recheck: Callable[[Job, Host], Awaitable[requests.Params]]) -> Recheck:
        async def bound(job: Job) -> Mapping[str, str]:
            return await recheck(job, host)

        return bound

    def power(
        name: str, work: Callable[[JobContext, Host], Awaitable[None]], *steps: str
    ) -> JobKind:
        return JobKind(
            name,
            bind(work),
            bind(lifecycle.undo_power),
            steps,
            needs=ON_AGENT,
            recheck=again(requests.power_again),
            makes_room=name == requests.STOP,
        )

    return (
        JobKind(
            DEPLOY,
            bind(deploy.deploy_agent),
            bind(deploy.undo_deploy),
            ALL_STEPS,
            at_once=host.settings.max_jobs,
            needs=tuple(field.name for field in fields(DeployOrder)),
            recheck=again(requests.deploy_again),
        ),
        JobKind(
            keep.KEEP,
            bind(keep.keep_image),
            bind(keep.undo_keep),
            keep.STEPS,
            at_once=1,
            needs=("framework", "instance"),
            recheck=again(requests.keep_again),
        ),
        power(requests.START, lifecycle.start_agent, lifecycle.START, CONNECT, READY),
        power(requests.STOP, lifecycle.stop_agent, lifecycle.STOP),
        power(
            requests.RESTART,
            lifecycle.restart_agent,
            *(lifecycle.STOP, lifecycle.START, CONNECT, READY),
        ),
        JobKind(
            network.NETWORK,
            bind(network.change_network),
            bind(network.undo_change),
            network.STEPS,
            needs=(*ON_AGENT, "policy", "previous"),
            recheck=again(requests.network_again),
        ),
        JobKind(
            settings.CHANGE,
            bind(settings.change_agent),
            bind(settings.undo_change),
            (settings.APPLY,),
            needs=(*ON_AGENT, "change", "keys", "before"),
            recheck=again(requests.change_again),
        ),
        JobKind(
            bundle.EXPORT,
            bind(bundle.export_agent),
            bind(bundle.undo_export),
            bundle.EXPORT_STEPS,
            at_once=1,
            needs=(*ON_AGENT, "to", "agent_file"),
            recheck=again(requests.export_again),
        ),
        JobKind(
            bundle.IMPORT,
            bind(bundle.import_state),
            bind(bundle.undo_import),
            bundle.IMPORT_STEPS,
            at_once=1,
            needs=("from", "volume"),
            recheck=again(requests.import_again),
        ),
        JobKind(
            reconcile.LEFTOVER,
            bind(reconcile.remove_leftover),
            steps=(reconcile.REMOVE,),
            recheck=again(requests.leftover_again),
            makes_room=True,
        ),
        JobKind(
            reconcile.RETURN,
            bind(reconcile.bring_agent_back),
            steps=(reconcile.RENAME,),
            needs=("instance",),
            recheck=again(requests.return_again),
            makes_room=True,
        ),
        JobKind(
            requests.DELETE,
            bind(lifecycle.delete_agent),
            bind(lifecycle.undo_power),
            (lifecycle.REMOVE,),
            needs=(*ON_AGENT, "keep_state", "owner", "framework"),
            recheck=again(requests.delete_again),
            makes_room=True,
        ),
        JobKind(
            upgrade.UPGRADE,
            bind(upgrade.upgrade_agent),
            bind(upgrade.undo_upgrade),
            upgrade.STEPS,
            at_once=1,
            needs=(*ON_AGENT, "framework"),
            recheck=again(requests.upgrade_again),
        ),
        JobKind(
            requests.UPGRADE_ALL,
            bind(upgrade_all.upgrade_all),
            bind(upgrade_all.undo_upgrade_all),
            at_once=1,
            needs=("agents",),
            recheck=again(requests.upgrade_all_again),
        ),
        JobKind(
            upgrade.UNDO,
            bind(upgrade.return_agent),
            bind(upgrade.undo_return),
            upgrade.UNDO_STEPS,
            needs=(*ON_AGENT, "framework", "snapshot", "replaced_by"),
            recheck=again(requests.undo_again),
        ),
        JobKind(
            upgrade.FORGET,
            bind(upgrade.remove_previous),
            steps=(upgrade.TIDY,),
            needs=("instance",),
            recheck=again(requests.end_of_window_again),
            makes_room=True,
        ),
        JobKind(
            snapshots.SNAPSHOT,
            bind(snapshots.snapshot_agent),
            bind(snapshots.undo_snapshot),
            (snapshots.KEEP,),
            needs=(*ON_AGENT, "snapshot"),
            recheck=again(requests.snapshot_again),
        ),
        JobKind(
            snapshots.RESTORE,
            bind(snapshots.restore_agent),
            bind(snapshots.undo_restore),
            snapshots.RESTORE_STEPS,
            needs=(*ON_AGENT, "snapshot"),
            recheck=again(requests.restore_again),
        ),
        JobKind(
            snapshots.DROP,
            bind(snapshots.drop_snapshot),
            steps=(snapshots.REMOVE,),
            needs=(*ON_AGENT, "snapshot"),
            recheck=again(requests.drop_again),
            makes_room=True,
        ),
    )
