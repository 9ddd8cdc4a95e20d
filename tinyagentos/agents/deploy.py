"""Deploying an agent: from a checked order to an agent that answers, or to nothing at all.

Every step may run twice: after a crash the job starts from the top and finds what is there.
"""

from __future__ import annotations

from collections.abc import Callable

from tinyagentos.agents import instances, keep
from tinyagentos.agents.host import Host
from tinyagentos.agents.order import (
    DOOR,
    ENV_FILE,
    SOURCE_KEY,
    STAGE_KEY,
    UNIT,
    DeployOrder,
    door_device,
    instance_request,
    render_env,
)
from tinyagentos.agents.plan import LaunchPlan, plan_launch
from tinyagentos.agents.readiness import Answer, ask, open_agent, wait_ready
from tinyagentos.images.supply import find_image, is_image_present
from tinyagentos.incus import Instance
from tinyagentos.jobs.context import JobContext
from tinyagentos.model.errors import HostNotReady, NotReady
from tinyagentos.model.image import image_alias
from tinyagentos.model.job import Job
from tinyagentos.model.recipe import Recipe

DEPLOY = "deploy"
BUILT = "built"
DEPLOYED = "deployed"

PLAN, BASE, CREATE, INSTALL = "plan", "base image", "create instance", "install framework"
CONFIGURE, START = "configure agent", "start agent"
CONNECT, READY = "connect to agent", "wait until ready"
WAIT_BUILD = "wait for the image being made"
IMAGE_STEPS = (PLAN, CREATE, CONFIGURE, START, CONNECT, READY)
BUILD_STEPS = (PLAN, BASE, CREATE, INSTALL, CONFIGURE, START, CONNECT, READY)
ALL_STEPS = (PLAN, WAIT_BUILD, BASE, CREATE, INSTALL, CONFIGURE, START, CONNECT, READY)


async def deploy_agent(job: JobContext, host: Host) -> None:
    """Carry the job's order out until the agent answers."""
    order = DeployOrder.from_params(job.params)
    recipe = host.recipes[order.framework]
    plan = await choose_way(order, job, host)
    if plan.source == "image":
        await ensure_instance(order, recipe, plan, job, host)
        await ensure_configured(order, job, host)
        await ensure_started(order, job, host)
    else:
        await ensure_base(recipe, job, host)
        await ensure_instance(order, recipe, plan, job, host)
        await ensure_framework(order, recipe, job, host)
        await ensure_configured(order, job, host)
        await ensure_unit_started(order, job, host)
    await ensure_door(order.instance, recipe, job, host)
    await ensure_answering(order.instance, recipe, job, host)
    await record_deployed(order, plan, job, host)


async def undo_deploy(job: JobContext, host: Host) -> None:
    """Remove all that the order's deploy may have made."""
    order = DeployOrder.from_params(job.params)
    await instances.remove(order.instance, host)


async def choose_way(order: DeployOrder, job: JobContext, host: Host) -> LaunchPlan:
    """Decide between image and build; a build of the same framework under way is waited for.

    Several deploys at once would else each build the same thing, and each more slowly.
    """
    while True:
        with job.step(PLAN):
            plan = await _plan(order, job, host)
            other = _find_builder(order, job.job, host) if plan.source == "build" else None
            if other is None:
                # Nothing waits between the look and the choice: only one deploy becomes builder.
                job.choose_source(plan.source, plan.reason)
                job.plan_steps(*(IMAGE_STEPS if plan.source == "image" else BUILD_STEPS))
                return plan
        with job.step(WAIT_BUILD):
            job.note(f"{other.kind} of {other.subject.replace(':', ' ')} makes it")
            await host.runner.wait_job(other.id)


async def _plan(order: DeployOrder, job: JobContext, host: Host) -> LaunchPlan:
    """The plan for the order; a run after a crash keeps to the way it went before."""
    if found := await host.incus.instances.find(order.instance):
        source = found.config.get(SOURCE_KEY, "")
        if source == "image":
            return LaunchPlan("image", image_alias(order.framework, host.arch), "begun earlier")
        if found.config.get(STAGE_KEY) == BUILT:
            return LaunchPlan("build", "", job.job.source_reason or "begun earlier")
        # Half an installation cannot be trusted.
        await instances.remove(order.instance, host)
    return plan_launch(
        order.framework,
        host.arch,
        wanted=order.source,
        image_present=await is_image_present(host.incus, order.framework, host.arch),
        build_seconds=host.timings.typical_seconds(
            "deploy.build", f"{order.framework}/{host.arch}"
        ),
    )


def _find_builder(order: DeployOrder, mine: Job, host: Host) -> Job | None:
    """Another job that is making an image of the order's framework now."""
    if order.source == "build":
        return None
    image_subject = keep.image_subject(order.framework, host.arch)
    if kept := host.runner.find_active(image_subject):
        return kept
    for job in host.runner.list_active():
        builds = job.kind == DEPLOY and job.source == "build" and job.id != mine.id
        if builds and job.params.get("framework") == order.framework:
            return job
    return None


async def ensure_base(recipe: Recipe, job: JobContext, host: Host) -> None:
    """Have the fallback base on this host, and the recipe's downloads under way."""
    with job.step(BASE):
        await host.builder.ensure_base(recipe, job.note)


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
        await instances.ensure_volume(order, pool.name, host)
        request = instance_request(
            order,
            recipe,
            plan,
            fingerprint=image.fingerprint,
            job_id=job.job.id,
            pool=pool.name,
            has_quota=pool.driver in instances.COW_DRIVERS,
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
        await host.incus.files.push(
            order.instance, ENV_FILE, render_env(order, host.key), uid=0, gid=0, mode=0o600
        )


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
        for argv in (("systemctl", "daemon-reload"), ("systemctl", "start", "--no-block", UNIT)):
            result = await host.incus.instances.exec(order.instance, argv, within=60)
            if result.exit_code:
                raise NotReady(
                    f"{' '.join(argv)} ended with {result.exit_code}: "
                    f"{result.stderr.decode(errors='replace').strip()}",
                    hint=f"Look inside with `taos agent logs {order.agent}`.",
                )


async def ensure_door(instance: str, recipe: Recipe, job: JobContext, host: Host) -> None:
    """Have a way from the host to the agent's port.

    Added while the agent boots: Incus takes 1.1 s to start a proxy, and would make a start wait.
    """
    with job.step(CONNECT):
        found = await host.incus.instances.get(instance)
        if DOOR not in found.devices:
            device = door_device(recipe, host.socket(instance))
            await host.incus.instances.update(instance, devices={DOOR: device})


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
                raise NotReady(f"{error.message}\n{tail}".strip(), hint=error.hint) from error


async def record_deployed(
    order: DeployOrder, plan: LaunchPlan, job: JobContext, host: Host
) -> None:
    """Mark the agent as deployed, keep the timing, and have a build's result kept as an image."""
    await instances.set_config(order.instance, {STAGE_KEY: DEPLOYED}, host)
    subject = f"{order.framework}/{host.arch}"
    seconds = sum(step.seconds for step in job.job.steps if step.name != WAIT_BUILD)
    host.timings.add(f"deploy.{plan.source}", subject, seconds, host.now())
    if plan.source == "build":
        keep.submit_keep(order.framework, order.instance, host)


def _once(report: Callable[[str], None]) -> Callable[[str], None]:
    """A report that passes a sentence on only when it changed."""
    last = ""

    def changed(said: str) -> None:
        nonlocal last
        if said != last:
            last = said
            report(said)

    return changed
