"""Numbers, times and states in words."""

from __future__ import annotations

from datetime import datetime

from markupsafe import Markup

from tinyagentos.model.agent import Agent, AgentState
from tinyagentos.model.image import ImageState
from tinyagentos.model.job import Job, JobState, StepState
from tinyagentos.web.markup import chip, el

AGENT_STATES = {
    AgentState.deploying: ("busy", "busy", "Deploying"),
    AgentState.starting: ("busy", "busy", "Starting"),
    AgentState.ready: ("ok", "ok", "Ready"),
    AgentState.unhealthy: ("warn", "warn", "Unhealthy"),
    AgentState.stopped: ("off", "stop", "Stopped"),
    AgentState.failed: ("fail", "fail", "Failed"),
}
JOB_STATES = {
    JobState.queued: ("busy", "wait", "Waiting"),
    JobState.running: ("busy", "busy", "Running"),
    JobState.interrupted: ("busy", "wait", "Waiting for the server"),
    JobState.succeeded: ("ok", "ok", "Done"),
    JobState.failed: ("fail", "fail", "Failed"),
    JobState.cancelled: ("off", "stop", "Cancelled"),
}
IMAGE_STATES = {
    ImageState.absent: ("off", "stop", "Not on this host"),
    ImageState.fetching: ("busy", "busy", "Downloading"),
    ImageState.verifying: ("busy", "busy", "Checking"),
    ImageState.importing: ("busy", "busy", "Being imported"),
    ImageState.warming: ("busy", "busy", "Unpacking"),
    ImageState.ready: ("ok", "ok", "Ready"),
    ImageState.rejected: ("fail", "fail", "Refused"),
    ImageState.stale: ("warn", "warn", "A newer one is out"),
}
STEP_STATES = {
    StepState.pending: ("pending", "wait"),
    StepState.running: ("busy", "busy"),
    StepState.succeeded: ("ok", "ok"),
    StepState.failed: ("fail", "fail"),
    StepState.cancelled: ("fail", "stop"),
}


def agent_chip(state: AgentState) -> Markup:
    """The agent's state."""
    return chip(*AGENT_STATES[state])


def reason(agent: Agent) -> str:
    """Why the agent is not well, as a sentence begins."""
    if agent.state is AgentState.failed:
        return f"{agent.reason[:1].upper()}{agent.reason[1:]}."
    return f"It does not answer as it should: {agent.reason}"


def job_chip(job: Job) -> Markup:
    """The job's state."""
    if job.is_active and job.cancel_requested:
        return chip("busy", "busy", "Cancelling")
    return chip(*JOB_STATES[job.state])


def image_chip(state: ImageState) -> Markup:
    """The image's state."""
    return chip(*IMAGE_STATES[state])


def size(count: float | None) -> str:
    """Bytes as people say them; empty when not known."""
    if count is None:
        return ""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            number = count / step
            return f"{number:.0f} {unit}" if number >= 100 else f"{number:.1f} {unit}"
    return f"{count:.0f} B"


def memory(count: float | None) -> str:
    """Bytes of memory or of a limit, in the units that limits are given in."""
    if count is None:
        return ""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def memory_of(used: float, limit: float | None) -> str:
    """Memory in use, of what may be used; the unit is said once where it is the same."""
    if limit is None:
        return memory(used)
    (number, unit), whole = memory(used).split(" "), memory(limit)
    return f"{number if whole.endswith(unit) else f'{number} {unit}'} of {whole}"


def seconds(count: float) -> str:
    """A duration."""
    if count < 10:
        return f"{count:.1f} s"
    if count < 60:
        return f"{count:.0f} s"
    if count < 3600:
        return f"{count // 60:.0f} min {count % 60:02.0f} s"
    return f"{count // 3600:.0f} h {count % 3600 // 60:02.0f} min"


def about(count: float | None) -> str:
    """An expected duration; empty when nothing is known."""
    return f"about {seconds(count if count < 10 else round(count))}" if count else ""


def counting(count: float) -> Markup:
    """A duration that goes on; the page counts it up by itself."""
    return el("span", f"{count:.0f} s", data_seconds=f"{count:.1f}")


def ago(then: datetime | None, now: datetime) -> str:
    """How long ago, roughly."""
    if then is None:
        return ""
    passed = (now - then).total_seconds()
    for unit, step in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= step:
            return f"{passed // step:.0f} {unit} ago"
    return "just now"


def subject(job: Job) -> str:
    """What the job is about, such as `hello`."""
    return job.subject.partition(":")[2] or job.subject


def network(policy: str) -> str:
    """A network policy in words."""
    kind, _, networks = policy.partition(":")
    known = {"internet": "the internet", "none": "nothing but its models"}
    return known.get(kind) or f"the internet, and at home {networks.replace(',', ', ')}"


def kind(job: Job) -> str:
    """What the job does to it, such as `Deploy hello`."""
    what = {
        "end undo window": "remove the old root of",
        "keep image": "keep image of",
        "weigh image": "weigh image",
    }
    words = what.get(job.kind, job.kind)
    return f"{words[:1].upper()}{words[1:]} {subject(job)}"
