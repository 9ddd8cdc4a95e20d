"""Choosing a deploy's way while an image is coming: look at the download, wait for it, or build.

What is decided is decided in plan.py; here is what the decisions are made from.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from tinyagentos.agents import instances, keep
from tinyagentos.agents.expect import (
    expect_build,
    expect_rest,
    left_seconds,
    read_speed,
    start_seconds,
)
from tinyagentos.agents.host import Host
from tinyagentos.agents.order import SOURCE_KEY, STAGE_KEY, DeployOrder
from tinyagentos.agents.plan import (
    LaunchPlan,
    Outlook,
    expect_image,
    expect_settle,
    is_too_slow,
    plan_launch,
)
from tinyagentos.agents.steps import (
    BASE,
    BUILD_STEPS,
    BUILT,
    DEPLOY,
    IMAGE_STEPS,
    INSTALL,
    PLAN,
    WAIT_BUILD,
    WAIT_IMAGE,
    WAIT_STEPS,
)
from tinyagentos.images.download import FETCH, SETTLE
from tinyagentos.images.supply import is_image_present
from tinyagentos.jobs.context import JobContext
from tinyagentos.model.agent import Source
from tinyagentos.model.image import image_alias
from tinyagentos.model.job import Job, JobState, Step

# How long a deploy looks at a download that has just begun before it chooses.
LOOK_WITHIN = 2.5
LOOK_EVERY = 0.1
WATCH_EVERY = 0.5


async def choose_way(order: DeployOrder, job: JobContext, host: Host) -> LaunchPlan:
    """Decide between image and build, and wait for what is being made or fetched already.

    Several deploys at once would else each build the same thing, and each more slowly.
    """
    refused = waited = ""
    while True:
        with job.step(PLAN):
            speed = await read_speed(host)
            if begun := await _begun_earlier(order, job, host):
                plan, other = begun, None
            else:
                download = None if refused else await _begin_download(order, host)
                plan = await _plan(order, download, refused, host)
                if waited and plan.source == "image":
                    plan = replace(plan, reason=waited)
                other = find_builder(order, job.job, host) if plan.source == "build" else None
            if other is None:
                # Nothing waits between the look and the choice: only one deploy becomes builder.
                rest = expect_rest(plan, order.framework, host, speed)
                job.choose_source(plan.source, plan.reason)
                # What was begun before a crash is not expected to take all of it again.
                if begun is None or job.job.expected_seconds is None:
                    job.expect(rest)
                job.plan_steps(*_steps(plan))
                if not plan.wait:
                    return plan
        if other:
            with job.step(WAIT_BUILD):
                if (left := left_seconds(other)) is not None:
                    job.expect(left + start_seconds(order.framework, host, speed))
                job.note(f"{other.kind} of {other.subject.partition(':')[2]} makes it")
                await host.runner.wait_job(other.id)
        elif download:
            waited = plan.reason
            refused = await _wait_for(download, order, job, host)


def find_builder(order: DeployOrder, mine: Job, host: Host) -> Job | None:
    """Another job that is making an image of the order's framework now."""
    if order.source == "build":
        return None
    if kept := host.runner.find_active(keep.keep_subject(order.framework, host.arch)):
        return kept
    for job in host.runner.list_active():
        if (
            is_building(job)
            and job.id != mine.id
            and job.params.get("framework") == order.framework
        ):
            return job
    return None


def is_building(job: Job) -> bool:
    """Whether the job is a deploy by the build path."""
    return job.kind == DEPLOY and job.source == "build"


def needs_line(job: Job) -> bool:
    """Whether the job is a build that fetches what it installs, at this moment."""
    return is_building(job) and any(
        step.state == "running" and step.name in (BASE, INSTALL) for step in job.steps
    )


async def _begun_earlier(order: DeployOrder, job: JobContext, host: Host) -> LaunchPlan | None:
    """The way that a run before a crash went, as far as it can be gone on with."""
    found = await host.incus.instances.find(order.instance)
    if found is None:
        return None
    source = found.config.get(SOURCE_KEY, "")
    if source == "image":
        return LaunchPlan("image", image_alias(order.framework, host.arch), "begun earlier")
    if found.config.get(STAGE_KEY) == BUILT:
        return LaunchPlan("build", "", job.job.source_reason or "begun earlier")
    # Half an installation cannot be trusted.
    await instances.remove_roots(order.instance, host)
    return None


async def _begin_download(order: DeployOrder, host: Host) -> Job | None:
    """The download of the framework's image, begun if it is to be fetched and is not here.

    A deploy that was to be a build begins it too: the next one is the quicker for it.
    """
    if await is_image_present(host.incus, order.framework, host.arch):
        return None
    if order.source is Source.image:
        return host.images.start_download(order.framework)
    return host.images.want(order.framework)


async def _plan(order: DeployOrder, download: Job | None, refused: str, host: Host) -> LaunchPlan:
    """The plan by what is known after a look at the download; a failed one is no way."""
    outlook = None
    if download and order.source is Source.image:
        outlook = Outlook(None, 0.0)
        refused = why_refused(host.runner.get_job(download.id))
    elif download and order.source is Source.fastest:
        build = await expect_build(order.framework, host)
        until = time.monotonic() + LOOK_WITHIN
        while True:
            now = host.runner.get_job(download.id)
            outlook = look(now, order.framework, build, host)
            if not now.is_active or outlook.is_clear or time.monotonic() > until:
                break
            await asyncio.sleep(LOOK_EVERY)  # the line has to be looked at for a while
        refused = why_refused(now)
    return plan_launch(
        order.framework,
        host.arch,
        wanted=order.source,
        image_present=await is_image_present(host.incus, order.framework, host.arch),
        outlook=outlook,
        refused=refused,
        build_seconds=host.timings.typical_seconds(
            "deploy.build", image_alias(order.framework, host.arch)
        ),
    )


def look(download: Job, framework: str, build_seconds: float, host: Host) -> Outlook:
    """Both ways from now on, by the download as it is at this moment."""
    fetch = next((step for step in download.steps if step.name == FETCH), Step(FETCH))
    size = fetch.total_bytes or 0
    if not size:
        return Outlook(None, build_seconds)
    measured = host.timings.typical_seconds(SETTLE, image_alias(framework, host.arch))
    settle = expect_settle(size, measured, host.slowness())
    rate = host.line.rate if fetch.state == "running" else None
    left = 0 if fetch.state == "succeeded" else size - (fetch.done_bytes or 0)
    return Outlook(expect_image(left, rate, settle), build_seconds, rate)


def why_refused(download: Job) -> str:
    """Why the download is no way to an image, if it has ended without one."""
    if download.is_active or download.state is JobState.succeeded:
        return ""
    return download.error.message if download.error else "the download was cancelled"


async def _wait_for(download: Job, order: DeployOrder, job: JobContext, host: Host) -> str:
    """Show the download's progress until it is over; why it is left for the build, if it is."""
    build = await expect_build(order.framework, host)
    ended = asyncio.ensure_future(host.runner.wait_job(download.id))
    try:
        with job.step(WAIT_IMAGE):
            while not ended.done():
                await asyncio.wait({ended}, timeout=WATCH_EVERY)
                now = host.runner.get_job(download.id)
                _show(now, job)
                outlook = look(now, order.framework, build, host)
                if order.source is not Source.image and is_too_slow(outlook):
                    return f"the download slowed down: {outlook.words}"
    finally:
        ended.cancel()
    return why_refused(host.runner.get_job(download.id))


def _show(download: Job, job: JobContext) -> None:
    """The download's current step as this job's."""
    running = [step for step in download.steps if step.state == "running"]
    if running:
        step = running[-1]
        job.note(f"{step.name}: {step.detail}" if step.detail else step.name)
    if fetch := next((step for step in download.steps if step.name == FETCH), None):
        job.progress(fetch.done_bytes or 0, fetch.total_bytes)


def _steps(plan: LaunchPlan) -> tuple[str, ...]:
    if plan.source == "build":
        return BUILD_STEPS
    return WAIT_STEPS if plan.wait else IMAGE_STEPS


async def image_came(order: DeployOrder, host: Host) -> bool:
    """Wait for the download under way, if any; whether it ended well."""
    if order.source is Source.build:
        return False
    download = host.images.find_download(order.framework)
    if download is None:
        return False
    return (await host.runner.wait_job(download.id)).state is JobState.succeeded
