"""The table of jobs: one row per job, its steps and parameters as JSON in the row."""

from __future__ import annotations

import sqlite3
from typing import Literal

from pydantic import TypeAdapter

from tinyagentos.model.errors import Conflict, NotFound, StoreFailed
from tinyagentos.model.job import ACTIVE, Accepted, Job
from tinyagentos.store.database import Database

_JOB = TypeAdapter(Job)
_ACTIVE = ", ".join(f"'{state}'" for state in sorted(ACTIVE))
KEPT_JOBS = 1000


class JobTable:
    """Jobs on disk. A returned job is a value: change it, then `save` it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._late = database.late(self._write_job)
        self._late_answers = database.late(self._write_accepted)
        self._refused = database.late(self._remove)

    def add(self, job: Job, *, vital: bool = False) -> Job:
        """Keep a new job; vital: the reserve of disk space is given up for it.

        Returns the earlier job instead when one has the same idempotency key. Raises Conflict
        when another job is at work on the same subject, NoSpace or StoreFailed when it cannot be
        kept.
        """
        # One that ended, or was refused, holds its subject until that is written.
        self._late.flush()
        self._refused.flush()
        if job.idempotency_key and (earlier := self.find_by_key(job.idempotency_key)):
            return earlier
        try:
            self._database.execute(
                "INSERT INTO jobs (id, kind, subject, state, created_at, idempotency_key, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                job.id,
                job.kind,
                job.subject,
                job.state,
                job.created_at.isoformat(),
                job.idempotency_key,
                _JOB.dump_json(job).decode(),
                vital=vital,
            )
        except sqlite3.IntegrityError as error:
            busy = self.find_active(job.subject)
            if busy is None:
                raise
            raise Conflict(
                f"A {busy.kind} job is at work on {job.subject.replace(':', ' ')} already.",
                hint=f"Watch it with `taos job watch {busy.id}`, or cancel it first.",
            ) from error
        except StoreFailed as error:
            # A write that was not synced may come to light after a crash.
            self._refused.put(job.id, error)
            raise
        return job

    def save(self, job: Job) -> None:
        """Have the job's new value on disk; NoSpace or StoreFailed when that is not possible."""
        self._write_job(job.id, job)
        self._late.forget(job.id)

    def keep(self, job: Job) -> None:
        """Keep the job's new value, and write it as soon as that is possible."""
        self._late.put(job.id, job)

    def get(self, job_id: str) -> Job:
        """The job; NotFound when there is none of that id."""
        if job := self._late.get(job_id) or self._find("id", job_id):
            return job
        raise NotFound(f"There is no job {job_id!r}.", hint="`taos job list` shows the jobs.")

    def find_by_key(self, idempotency_key: str) -> Job | None:
        """The job made with the idempotency key, if any."""
        return self._find("idempotency_key", idempotency_key)

    def find_active(self, subject: str) -> Job | None:
        """The job at work on the subject, if any."""
        rows = self._database.execute(
            f"SELECT body FROM jobs WHERE subject = ? AND state IN ({_ACTIVE})",  # noqa: S608
            subject,
        )
        return _JOB.validate_json(rows[0]["body"]) if rows else None

    def list_active(self) -> tuple[Job, ...]:
        """Jobs that still have work to do, oldest first."""
        return self._list(f"WHERE state IN ({_ACTIVE}) ORDER BY created_at, rowid")

    def list_newest(self, limit: int = 200) -> tuple[Job, ...]:
        """The newest jobs, newest first."""
        return self._list(f"ORDER BY created_at DESC, rowid DESC LIMIT {int(limit)}")

    def find_accepted(self, key: str) -> Accepted | None:
        """The request that came with this idempotency key and began a job, if any."""
        if late := self._late_answers.get(key):
            return late
        rows = self._database.execute("SELECT * FROM accepted WHERE key = ?", key)
        return Accepted(**dict(rows[0])) if rows else None

    def keep_accepted(self, accepted: Accepted) -> None:
        """Keep what a request was answered, for as long as its job is kept.

        It is written as soon as that is possible: its job has begun.
        """
        self._late_answers.put(accepted.key, accepted)

    def prune(self) -> None:
        """Forget all but the newest ended jobs; NoSpace or StoreFailed."""
        self._database.execute(
            f"DELETE FROM jobs WHERE state NOT IN ({_ACTIVE}) AND id NOT IN"  # noqa: S608
            " (SELECT id FROM jobs ORDER BY created_at DESC LIMIT ?)",
            KEPT_JOBS,
        )
        self._database.execute("DELETE FROM accepted WHERE job_id NOT IN (SELECT id FROM jobs)")

    def _write_job(self, job_id: str, job: Job) -> None:
        self._database.execute(
            "UPDATE jobs SET state = ?, body = ? WHERE id = ?",
            job.state,
            _JOB.dump_json(job).decode(),
            job_id,
            vital=True,
        )

    def _remove(self, job_id: str, _: StoreFailed) -> None:
        self._database.execute("DELETE FROM jobs WHERE id = ?", job_id)

    def _write_accepted(self, key: str, accepted: Accepted) -> None:
        self._database.execute(
            "INSERT INTO accepted (key, request, job_id, answer) VALUES (?, ?, ?, ?)",
            key,
            accepted.request,
            accepted.job_id,
            accepted.answer,
            vital=True,
        )

    def _find(self, column: Literal["id", "idempotency_key"], value: str) -> Job | None:
        rows = self._database.execute(
            f"SELECT body FROM jobs WHERE {column} = ?",  # noqa: S608
            value,
        )
        return _JOB.validate_json(rows[0]["body"]) if rows else None

    def _list(self, condition: str) -> tuple[Job, ...]:
        rows = self._database.execute(f"SELECT body FROM jobs {condition}")  # noqa: S608
        read = (_JOB.validate_json(row["body"]) for row in rows)
        return tuple(self._late.get(job.id) or job for job in read)
