"""Deploying an agent: from a checked order to an agent that answers, or to nothing at all.

Every step may run twice: after a crash the job starts from the top and finds what is there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from tinyagentos.agents import instances, keep, kept
from tinyagentos.agents.choice import choose_way, image_came
from tinyagentos.agents.expect import expect_build, expect_rest, read_speed
from tinyagentos.agents.host import Host
from tinyagentos.agents.network import NIC, ensure_bridge, ensure_nic, nic_of
from tinyagentos.agents.order import (
    DOOR,
    ENV_FILE,
    MODEL_DOOR,
    STAGE_KEY,
    UNIT,
    DeployOrder,
    door_device,
    instance_request,
    model_device,
    redact,
    render_env,
)
from tinyagentos.agents.plan import LaunchPlan, is_worth_switching
from tinyagentos.agents.readiness import Answer, ask, open_agent, wait_ready
from tinyagentos.agents.steps import (
    BASE,
    BUILD_STEPS,
    BUILT,
    CONFIGURE,
    CONNECT,
    CREATE,
    DEPLOYED,
    IMAGE_STEPS,
    INSTALL,
    INSTALLED,
    MAKE_BASE,
    READY,
    START,
)
from tinyagentos.images.supply import find_image, is_image_present
from tinyagentos.incus import Instance
from tinyagentos.jobs.context import JobContext
from tinyagentos.model.errors import HostNotReady, NotReady
from tinyagentos.model.image import image_alias
from tinyagentos.model.network import NetworkPolicy
from tinyagentos.model.recipe import Recipe


async def deploy_agent(job: JobContext, host: Host) -> None:
    """Carry the job's order out until the agent answers."""
    order = DeployOrder.from_params(job.params)
    recipe = host.recipes[order.framework]
    plan = await choose_way(order, job, host)
    if plan.source == "build":
        plan = await ensure_root_built(order, recipe, plan, job, host)
    if plan.source == "build":
        await ensure_configured(order, job, host)
        await ensure_unit_started(order, job, host)
    else:
        await ensure_instance(order, recipe, plan, job, host)
        await ensure_configured(order, job, host)
        await ensure_started(order, job, host)
    await ensure_door(order.instance, recipe, job, host)
    await ensure_answering(order.instance, recipe, job, host)
    await record_deployed(order, plan, job, host)


async def undo_deploy(job: JobContext, host: Host) -> None:
    """Remove all that the order's deploy may have made."""
    order = DeployOrder.from_params(job.params)
    if order.kept:
        await instances.remove_roots(order.instance, host)
        await kept.give_back(order, host)
    await instances.remove(order.instance, host)


async def ensure_root_built(
    order: DeployOrder, recipe: Recipe, plan: LaunchPlan, job: JobContext, host: Host
) -> LaunchPlan:
    """Have the agent's root built; or the plan for the image, if that comes first and saves time.

    The build's last act, marking the root as whole, is the point of no return.
    """
    begun = time.monotonic()
    whole = await expect_build(order.framework, host)
    building = asyncio.ensure_future(_build_root(order, recipe, plan, job, host))
    coming = asyncio.ensure_future(image_came(order, host))
    try:
        await asyncio.wait({building, coming}, return_when=asyncio.FIRST_COMPLETED)
        left = whole - (time.monotonic() - begun)
        if building.done() or not coming.result() or not is_worth_switching(left):
            await building
            return plan
    finally:
        for task in (building, coming):
            task.cancel()
        await asyncio.gather(building, coming, return_exceptions=True)
    await instances.remove_roots(order.instance, host)
    image = image_alias(order.framework, host.arch)
    reason = f"the image came about {left:.0f} s before the build would have been done"
    plan = LaunchPlan("image", image, reason)
    job.choose_source(plan.source, reason)
    job.expect(expect_rest(plan, order.framework, host, await read_speed(host)))
    job.plan_steps(*IMAGE_STEPS)
    return plan


async def _build_root(
    order: DeployOrder, recipe: Recipe, plan: LaunchPlan, job: JobContext, host: Host
) -> None:
    await ensure_base(recipe, job, host)
    await ensure_instance(order, recipe, plan, job, host)
    await ensure_framework(order, recipe, job, host)


async def ensure_base(recipe: Recipe, job: JobContext, host: Host) -> None:
    """Have the fallback base on this host, and the recipe's downloads under way."""
    base = image_alias(recipe.base, host.arch)
    with job.step(BASE):
        present = await is_image_present(host.incus, recipe.base, host.arch)
        begun = time.monotonic()
        await host.builder.ensure_base(recipe, job.note)
        if not present:
            host.timings.add(MAKE_BASE, base, time.monotonic() - begun, host.now())


async def ensure_instance(
    order: DeployOrder, recipe: Recipe, plan: LaunchPlan, job: JobContext, host: Host
) -> Instance:
    """The agent's instance with its state volume; created from the plan's image if not there."""
    with job.step(CREATE):
        if found := await host.incus.instances.find(order.instance):
            return found
        image = await find_image(host.incus, plan.image, host.arch)
        if image is None:
            raise HostNotReady(
                f"The image {plan.image} is gone.", hint="Deploy again; taOS takes another way."
            )
        pool = await instances.pick_pool(host)
        if order.kept:
            await kept.take_kept(order, pool, host)
        await instances.ensure_volume(order, pool, host)
        devices: dict[str, Mapping[str, str]] = {}
        # A build fetches from wherever this host does, which the policy may close; its NIC comes
        # before the agent does.
        if plan.source == "image":
            policy = NetworkPolicy.parse(order.network)
            await ensure_bridge(policy, host)
            devices[NIC] = nic_of(policy)
        # An image may be of another version than the recipe that is here.
        version = image.properties.get("taos.version") if plan.source == "image" else ""
        request = instance_request(
            order,
            replace(recipe, version=version or recipe.version),
            plan,
            fingerprint=image.fingerprint,
            job_id=job.job.id,
            pool=pool.name,
            has_quota=instances.has_quota(pool),
            devices=devices,
            restarts=await host.incus.has_extension("instance_auto_restart"),
        )
        return await host.incus.instances.create(request, start=plan.source == "build")


async def ensure_framework(order: DeployOrder, recipe: Recipe, job: JobContext, host: Host) -> None:
    """Carry the recipe out inside the running instance, and remember the result as a snapshot."""
    with job.step(INSTALL):
        instance = await host.incus.instances.get(order.instance)
        if instance.config.get(STAGE_KEY) == BUILT:
            return
        await host.builder.build(recipe, order.instance, job.note)
        async with host.builder.without_identity(order.instance):
            await host.incus.instances.create_snapshot(order.instance, keep.SNAPSHOT)
        await instances.set_config(order.instance, {STAGE_KEY: BUILT}, host)


async def ensure_configured(order: DeployOrder, job: JobContext, host: Host) -> None:
    """Give the agent its name and its tokens; without them its unit does not start."""
    with job.step(CONFIGURE):
        await push_env(order.agent, order.instance, host)


async def push_env(agent: str, instance: str, host: Host) -> None:
    """Write the agent's name and tokens into the instance.

    An instance that is renamed after this waits 15 s at its start: Incus then no longer finds the
    helper that wrote, and cannot end it.
    """
    env = render_env(agent, instance, host.key)
    await host.incus.files.push(instance, ENV_FILE, env, uid=0, gid=0, mode=0o600)


async def ensure_started(order: DeployOrder, job: JobContext, host: Host) -> None:
    """Start the instance; its unit starts with it."""
    with job.step(START):
        instance = await host.incus.instances.get(order.instance)
        if instance.status != "Running":
            await host.incus.instances.start(order.instance)


async def ensure_unit_started(order: DeployOrder, job: JobContext, host: Host) -> None:
    """Start the agent's unit in the instance that was built while it ran."""
    with job.step(START):
        instance = await host.incus.instances.get(order.instance)
        if instance.status != "Running":
            await host.incus.instances.start(order.instance)
        await ensure_nic(order.instance, host)
        for argv in (("systemctl", "daemon-reload"), ("systemctl", "start", "--no-block", UNIT)):
            result = await host.incus.instances.exec(order.instance, argv, within=60)
            if result.exit_code:
                raise NotReady(
                    f"{' '.join(argv)} ended with {result.exit_code}: "
                    f"{result.stderr.decode(errors='replace').strip()}",
                    hint=f"Look inside with `taos agent logs {order.agent}`.",
                )


async def ensure_door(instance: str, recipe: Recipe, job: JobContext, host: Host) -> None:
    """Have a way from the host to the agent's port, and one from the agent to its models.

    Added while the agent boots: Incus takes 1.1 s to start a proxy, and would make a start wait.
    """
    with job.step(CONNECT):
        await add_doors(instance, recipe, host)


async def add_doors(instance: str, recipe: Recipe, host: Host) -> None:
    """Add the doors that the instance lacks."""
    doors = {
        DOOR: door_device(recipe, host.socket(instance)),
        MODEL_DOOR: model_device(host.settings.gateway_socket),
    }
    found = await host.incus.instances.get(instance)
    if missing := {name: doors[name] for name in doors if name not in found.devices}:
        await host.incus.instances.update(instance, devices=missing)


async def ensure_answering(instance: str, recipe: Recipe, job: JobContext, host: Host) -> None:
    """Wait until the agent in the instance itself answers that it is ready."""
    with job.step(READY):
        within = host.settings.ready_within or recipe.agent.ready_within
        async with open_agent(host.socket(instance)) as agent:

            async def ask_agent() -> Answer:
                return await ask(agent, recipe.agent.ready_path)

            async def look() -> str:
                return await instances.why_failing(instance, host)

            try:
                await wait_ready(ask_agent, look, within=within, report=_once(job.note))
            except NotReady as error:
                tail = await instances.log_tail(instance, host)
                said = redact(error.message, instance, host.key)
                raise NotReady(f"{said}\n{tail}".strip(), hint=error.hint) from error
        host.watch.note(instance, Answer(200, "200"))


async def record_deployed(
    order: DeployOrder, plan: LaunchPlan, job: JobContext, host: Host
) -> None:
    """Mark the agent as deployed, keep the timing, and have a build's result kept as an image."""
    await instances.set_config(order.instance, {STAGE_KEY: DEPLOYED}, host)
    subject = image_alias(order.framework, host.arch)
    took = {step.name: step.seconds for step in job.job.steps}
    seconds = sum(took[name] for name in took if name in (*BUILD_STEPS, *IMAGE_STEPS))
    if plan.source == "image":
        seconds -= took.get(BASE, 0.0) + took.get(INSTALL, 0.0)
    host.timings.add(f"deploy.{plan.source}", subject, seconds, host.now())
    if plan.source == "build":
        host.timings.add(INSTALLED, subject, took[CREATE] + took[INSTALL], host.now())
        if not keep.submit_keep(order.framework, order.instance, host):
            await keep.remove_snapshot(order.instance, host)


def _once(report: Callable[[str], None]) -> Callable[[str], None]:
    """A report that passes a sentence on only when it changed."""
    last = ""

    def changed(said: str) -> None:
        nonlocal last
        if said != last:
            last = said
            report(said)

    return changed
