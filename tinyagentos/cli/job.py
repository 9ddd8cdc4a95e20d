"""taos job: every piece of work with its steps."""

from __future__ import annotations

from typing import Annotated

import typer

from tinyagentos import wire
from tinyagentos.cli.common import Json, complete_jobs, connect
from tinyagentos.cli.progress import check_succeeded, follow, print_job, title
from tinyagentos.cli.render import print_json, print_line, print_table
from tinyagentos.client import Client

app = typer.Typer(no_args_is_help=True, help="Jobs: list, show, watch, cancel, retry.")

Id = Annotated[str, typer.Argument(help="The job's id.", autocompletion=complete_jobs)]


@app.command("list")
def list_jobs(as_json: Json = False) -> None:
    """The newest jobs."""
    jobs = connect().jobs()
    if as_json:
        print_json(jobs)
        return
    print_table(
        ("ID", "KIND", "SUBJECT", "STATE", "SECONDS", "ERROR"),
        (
            (
                job.id, job.kind, job.subject.partition(":")[2], job.state,
                f"{sum(step.seconds for step in job.steps):.1f}",
                next(iter(job.error.message.splitlines()), "") if job.error else "",
            )
            for job in jobs
        ),
        "No jobs yet.",
    )  # fmt: skip


@app.command()
def show(job_id: Id, as_json: Json = False) -> None:
    """One job with its steps."""
    job = connect().job(job_id)
    if as_json:
        print_json(job)
    else:
        print_job(job)


@app.command()
def watch(job_id: Id, as_json: Json = False) -> None:
    """Follow the job until it has ended."""
    client = connect()
    _watch(client, client.job(job_id), as_json=as_json)


@app.command()
def cancel(job_id: Id, as_json: Json = False) -> None:
    """Ask the job to stop; what it made is removed."""
    job = connect().cancel(job_id)
    if as_json:
        print_json(job)
    else:
        print_line(f"job {job.id} is being cancelled")


@app.command()
def retry(
    job_id: Id,
    wait: Annotated[bool, typer.Option(help="Wait until the job has ended.")] = True,
    as_json: Json = False,
) -> None:
    """Do again what a failed or cancelled job was to do."""
    client = connect()
    job = client.retry(job_id)
    if wait:
        _watch(client, job, as_json=as_json)
    elif as_json:
        print_json(job)
    else:
        print_line(f"job {job.id} begun; watch it with `taos job watch {job.id}`")


def _watch(client: Client, job: wire.Job, *, as_json: bool) -> None:
    job = follow(client, job, quiet=as_json)
    if as_json:
        print_json(job)
    else:
        print_line(f"{title(job)}: {job.state}")
    check_succeeded(job)
