"""A job as a timeline: what was done, what runs now, what is to come, and why it failed."""

from __future__ import annotations

from markupsafe import Markup

from tinyagentos.model.job import Job, JobState, Step, StepState
from tinyagentos.web import words
from tinyagentos.web.markup import bar, el, icon, notice

SOURCES = {"image": "By image", "build": "Built on this host"}


def render_job(job: Job, expected: float | None = None) -> Markup:
    """All of the job. expected: seconds that it usually takes."""
    return el(
        "div",
        _summary(job, expected),
        _failure(job),
        el("ol", *(_step(step) for step in job.steps), class_="timeline", aria_label="Steps"),
        class_="stack",
    )


def render_brief(job: Job, expected: float | None = None) -> Markup:
    """Where the job is, in one line and one bar."""
    step = current(job)
    spent = sum(one.seconds for one in job.steps)
    where = f"Step {_number(job, step)} of {len(job.steps)}: {step.name}" if step else "Waiting"
    more = el("span", " · ", words.counting(spent)) if step else None
    usual = f" of {words.about(expected)}" if expected else ""
    return el(
        "div",
        el("p", where, more, usual, class_="small quiet"),
        bar(progress(job, expected), f"{words.kind(job)}: progress"),
        class_="stack tight",
    )


def said(job: Job) -> str:
    """The job for a screen reader: only what is worth interrupting for."""
    step = current(job)
    if job.is_active:
        return f"{words.kind(job)}: {step.name}" if step else f"{words.kind(job)}: waiting"
    # Below the first line may stand the end of an agent's log: nobody wants that read out.
    why = f": {first_line(job.error.message)}" if job.error else ""
    return f"{words.kind(job)}: {words.JOB_STATES[job.state][2]}{why}"


def first_line(message: str) -> str:
    """What an error says, without the log below it."""
    return message.partition("\n")[0]


def current(job: Job) -> Step | None:
    """The step that runs."""
    running = [step for step in job.steps if step.state is StepState.running]
    return running[-1] if running else None


def progress(job: Job, expected: float | None) -> float | None:
    """How far the job is: by its bytes, else by the usual time; None when nobody knows."""
    step = current(job)
    if step and step.total_bytes and step.done_bytes is not None:
        return step.done_bytes / step.total_bytes
    if not step or not expected:
        return None
    return min(0.97, sum(one.seconds for one in job.steps) / expected)


def _number(job: Job, step: Step) -> int:
    return job.steps.index(step) + 1


def _summary(job: Job, expected: float | None) -> Markup | None:
    spent = sum(step.seconds for step in job.steps)
    way = SOURCES.get(job.source, "")
    reason = f"{way}: {job.source_reason}." if way and job.source_reason else way
    if job.is_active:
        usual = f"Usually {words.about(expected)}." if expected else ""
        time = el("p", "So far ", words.counting(spent), f". {usual}") if job.steps else None
    else:
        time = el("p", f"Took {words.seconds(spent)}.") if job.steps else None
    again = f"Attempt {job.attempt}: the server was restarted meanwhile." if job.attempt > 1 else ""
    return el("div", el("p", reason) if reason else None, time,
              el("p", again) if again else None, class_="quiet stack tight")  # fmt: skip


def _failure(job: Job) -> Markup | None:
    if job.error is None:
        return None
    first, _, rest = job.error.message.partition("\n")
    log = _log_tail(rest) if rest else None
    if job.state is JobState.failed:
        return notice("fail", first, job.error.hint, log)
    return notice("warn", first, "What was done is being undone.", log)


def _log_tail(lines: str) -> Markup:
    """The end of a log. The style sheet has it scrolled to its last line, which says most."""
    label = "Last lines of the log"
    return el("pre", el("span", lines), class_="tail", tabindex="0", aria_label=label)


def _step(step: Step) -> Markup:
    colour, drawing = words.STEP_STATES[step.state]
    if step.state is StepState.running:
        time: Markup | str = words.counting(step.seconds)
    else:
        time = "" if step.state is StepState.pending else words.seconds(step.seconds)
    said_state = el("span", f" ({step.state.value})", class_="hidden-words")
    return el(
        "li",
        el("span", icon(drawing), class_="dot"),
        el("span", step.name, said_state, class_="name"),
        el("span", time, class_="time"),
        _more(step),
        class_=colour,
    )


def _more(step: Step) -> Markup | None:
    parts = []
    if step.detail:
        parts.append(el("p", step.detail))
    if step.done_bytes is not None and step.state is not StepState.pending:
        total = f" of {words.size(step.total_bytes)}" if step.total_bytes else ""
        parts.append(el("p", f"{words.size(step.done_bytes)}{total}"))
        if step.state is StepState.running and step.total_bytes:
            parts.append(bar(step.done_bytes / step.total_bytes, f"{step.name}: progress"))
    return el("div", *parts, class_="more") if parts else None
