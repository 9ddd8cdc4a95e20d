"""A request that begins a job, carried out once however often it arrives.

A caller whose connection broke cannot know whether its request was heard. It sends the same again
with the same Idempotency-Key and gets the same job (draft-ietf-httpapi-idempotency-key-header).
"""

from __future__ import annotations

import hashlib
import inspect
from asyncio import Lock
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar, cast
from weakref import WeakValueDictionary

from fastapi import Depends, Header, Request, Response

from tinyagentos import wire
from tinyagentos.api.services import JobService, Use
from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.job import Accepted, Job

A = TypeVar("A", bound=wire.JobAnswer)
Locks = WeakValueDictionary[str, Lock]
KEY = Header(
    max_length=200,
    description="The same key with the same request gives the same job; with another one 422",
)


def accepted(job: Job, response: Response) -> wire.JobAnswer:
    """The answer with a job, and its address."""
    response.headers["Location"] = f"/api/jobs/{job.id}"
    return wire.JobAnswer.of_job(job)


class Once:
    """One request, by its key (empty: it has none) and the digest of all it says."""

    def __init__(
        self, key: str, digest: str, jobs: JobService, response: Response, locks: Locks
    ) -> None:
        self._key = key
        self._digest = digest
        self._jobs = jobs
        self._response = response
        self._locks = locks

    async def job(self, begin: Callable[[], Awaitable[Job] | Job]) -> wire.JobAnswer:
        """The answer to what begins a job, or the one that was given to the same request before."""

        async def answer() -> wire.JobAnswer:
            begun = begin()
            return wire.JobAnswer.of_job(await begun if inspect.isawaitable(begun) else begun)

        return await self.answer(answer, wire.JobAnswer)

    async def answer(self, give: Callable[[], Awaitable[A]], kind: type[A]) -> A:
        """The same for an answer that says more than the job.

        Raises InvalidInput when the key belongs to another request.
        """
        if not self._key:
            answer = await give()
        else:
            # One that comes while the first is still looked at gets the same answer as that.
            async with self._locks.setdefault(self._key, Lock()):
                answer = self._find(kind) or self._keep(await give())
        self._response.headers["Location"] = f"/api/jobs/{answer.job.id}"
        return answer

    def _find(self, kind: type[A]) -> A | None:
        kept = self._jobs.find_accepted(self._key)
        if kept is None:
            return None
        if kept.request != self._digest:
            raise InvalidInput(
                "This Idempotency-Key is already used for another request.",
                hint="A key must not be reused for a different request: send a new one.",
            )
        now = wire.Job.of(self._jobs.get_job(kept.job_id))
        return kind.model_validate_json(kept.answer).model_copy(update={"job": now})

    def _keep(self, answer: A) -> A:
        self._jobs.keep_accepted(
            Accepted(self._key, self._digest, answer.job.id, answer.model_dump_json())
        )
        return answer


async def _once(
    request: Request,
    response: Response,
    services: Use,
    idempotency_key: Annotated[str, KEY] = "",
) -> Once:
    said = (request.method, request.url.path, request.url.query)
    digest = hashlib.sha256("\0".join(said).encode() + b"\0" + await request.body())
    # Starlette's state is untyped.
    locks = cast(Locks, request.app.state.idempotency_locks)
    return Once(idempotency_key, digest.hexdigest(), services.jobs, response, locks)


BeginOnce = Annotated[Once, Depends(_once)]
