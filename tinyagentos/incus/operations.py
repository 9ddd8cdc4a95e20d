"""Incus's background work: submit it, wait until it is over, cancel it when the caller goes."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from tinyagentos.incus.errors import (
    IncusError,
    IncusTimeout,
    IncusUnreachable,
    NotFound,
    OperationCancelled,
    OperationFailed,
    OperationLost,
    error_of,
)
from tinyagentos.incus.parse import Object, as_object, child, flag, integer, strings, text, texts
from tinyagentos.incus.transport import NONE, Reply, Texts, Transport

SUCCESS, CANCELLED = 200, 401
GONE = "Operation not found"
SLICE_OVER = "context deadline exceeded"  # what a wait says when the work goes on
SLICE = 10.0
GRACE = 10.0  # for the answer of a wait on top of its slice; Incus is local or on the LAN
SETTLE = 5.0  # how long a caller that goes may be held until the work it leaves is over
OPERATION_WITHIN = 600.0

OnProgress = Callable[["Operation"], None]


@dataclass(frozen=True)
class Operation:
    """Incus's background work as it stood when last looked at."""

    id: str
    description: str
    status: str
    status_code: int
    may_cancel: bool
    error: str
    metadata: Object
    resources: Mapping[str, tuple[str, ...]]

    @property
    def is_over(self) -> bool:
        """Whether the status is final."""
        return self.status_code >= SUCCESS

    @classmethod
    def parse(cls, seen: Object) -> Operation:
        """Read Incus's JSON."""
        resources = child(seen, "resources")
        return cls(
            id=text(seen, "id"),
            description=text(seen, "description"),
            status=text(seen, "status"),
            status_code=integer(seen, "status_code"),
            may_cancel=flag(seen, "may_cancel"),
            error=text(seen, "err"),
            metadata=child(seen, "metadata"),
            resources={kind: texts(resources, kind) for kind in resources},
        )


@dataclass(frozen=True)
class Api:
    """The transport as one project sees it; what the modules of nouns speak through."""

    transport: Transport
    project: str
    slice_seconds: float = SLICE

    def query(self, more: Texts = NONE) -> Texts:
        """The query of a call in this project."""
        return {"project": self.project, **more}

    async def call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Texts = NONE,
        etag: str = "",
        within: float | None = None,
    ) -> Reply:
        """The answer to a call that is no background work."""
        headers = {"If-Match": etag} if etag else NONE
        return await self.transport.request(
            method, path, query=self.query(query), headers=headers, body=body, within=within
        )

    async def get(self, path: str, *, query: Texts = NONE, within: float | None = None) -> object:
        """What is at the path."""
        return (await self.call("GET", path, query=query, within=within)).metadata

    async def run(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Texts = NONE,
        etag: str = "",
        within: float = OPERATION_WITHIN,
    ) -> Operation:
        """Submit background work and return when it succeeded.

        Raises OperationFailed (or what its sentence says), IncusTimeout after `within` seconds,
        OperationLost. A caller that is cancelled has the work cancelled.
        """
        operation = await self.submit(method, path, body, query=query, etag=etag)
        return await self.wait(operation, within=within)

    async def merge(self, path: str, config: Texts) -> None:
        """Change these config keys of the object and leave all else; an empty value unsets a key.

        Incus's own PATCH (6.0.4) empties descriptions, and replaces the config of a project.
        PreconditionFailed when somebody else changed the object at the same moment.
        """
        reply = await self.call("GET", path)
        held = as_object(reply.metadata)
        merged = {**strings(held, "config"), **config}
        body = {
            "description": text(held, "description"),
            "config": {key: value for key, value in merged.items() if value},
        }
        await self.run("PUT", path, body, etag=reply.etag)

    async def submit(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Texts = NONE,
        etag: str = "",
        settle: float = SETTLE,
    ) -> Operation:
        """Submit background work; the operation may be over already.

        settle: seconds that a cancelled caller is held until the work it began is over.
        """
        asked = asyncio.ensure_future(self.call(method, path, body, query=query, etag=etag))
        try:
            reply = await asyncio.shield(asked)
        except asyncio.CancelledError:
            # Incus may have begun: learn which operation it is, so that it can be cancelled.
            with contextlib.suppress(IncusError, TimeoutError):
                reply = await asyncio.wait_for(asked, SETTLE)
                await self.settle(submitted(reply), within=settle)
            raise
        return submitted(reply)

    async def wait(
        self,
        operation: Operation,
        *,
        within: float = OPERATION_WITHIN,
        stall: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Operation:
        """Return the operation when it succeeded; see run() for what is raised.

        stall: seconds without any change after which the work counts as stuck; then `within` is
        not looked at. on_progress: called with every change.
        """
        clock = asyncio.get_running_loop().time
        limit = within if stall is None else stall
        deadline = clock() + limit
        longest = 1.0 if on_progress or stall is not None else self.slice_seconds
        try:
            while not operation.is_over:
                left = deadline - clock()
                if left <= 0:
                    raise IncusTimeout(f"{operation.description} not over after {limit:g} s")
                try:
                    # Incus counts in whole seconds; this deadline need not.
                    async with asyncio.timeout(None if left == math.inf else left):
                        seen = await self._look(operation, min(longest, left), deadline)
                except TimeoutError:
                    continue
                if seen.metadata != operation.metadata:
                    if stall is not None:
                        deadline = clock() + stall
                    if on_progress:
                        on_progress(seen)
                operation = seen
        except (asyncio.CancelledError, IncusTimeout):
            with contextlib.suppress(IncusError):
                await self.settle(operation)
            raise
        return succeeded(operation)

    async def settle(self, operation: Operation, *, within: float = SETTLE) -> None:
        """Cancel the operation, or wait that long for its end where Incus does not allow that.

        So what the caller finds afterwards does not appear or change behind its back.
        """
        if operation.is_over:
            return
        path = f"/1.0/operations/{operation.id}"
        with contextlib.suppress(IncusError):
            await self.call("DELETE", path, within=within)
        with contextlib.suppress(IncusError):
            query = {"timeout": str(max(1, round(within)))}
            await self.call("GET", f"{path}/wait", query=query, within=within)

    async def _look(self, operation: Operation, seconds: float, deadline: float) -> Operation:
        """The operation after up to so many seconds; reconnects until the deadline."""
        path = f"/1.0/operations/{quote(operation.id)}/wait"
        query = {"timeout": str(max(1, round(seconds)))}
        pause = 0.1
        while True:
            try:
                seen = await self.get(path, query=query, within=seconds + GRACE)
                return Operation.parse(as_object(seen))
            except NotFound as error:
                if error.sentence != GONE:
                    raise
                raise OperationLost(f"{operation.description}: {error.sentence}", 404) from error
            except IncusUnreachable:
                if asyncio.get_running_loop().time() + pause > deadline:
                    raise
                await asyncio.sleep(pause)
                pause = min(2.0, pause * 2)
            except IncusError as error:
                if error.sentence == SLICE_OVER:
                    return await self._glance(operation)
                # A failed operation is answered with its error instead of its status.
                raise failed(error) from error

    async def _glance(self, operation: Operation) -> Operation:
        """The operation as it is now."""
        try:
            seen = await self.get(f"/1.0/operations/{quote(operation.id)}")
        except NotFound as error:
            raise OperationLost(f"{operation.description}: {error.sentence}", 404) from error
        return Operation.parse(as_object(seen))


def submitted(reply: Reply) -> Operation:
    """The operation an answer tells of; one that is over when Incus did the work at once."""
    if text(reply.envelope, "type") != "async":
        return Operation("", "", "Success", SUCCESS, False, "", as_object(reply.metadata), {})
    return Operation.parse(as_object(reply.metadata))


def failed(error: IncusError) -> IncusError:
    """The error of an operation whose wait was answered with this error."""
    if error.code == CANCELLED:
        return OperationCancelled(error.sentence, CANCELLED)
    return OperationFailed(error.sentence, error.code) if type(error) is IncusError else error


def succeeded(operation: Operation) -> Operation:
    """The operation that is over if it succeeded; raises what its failure was."""
    if operation.status_code == SUCCESS:
        return operation
    if operation.status_code == CANCELLED:
        raise OperationCancelled(f"{operation.description}: cancelled in Incus", CANCELLED)
    raise error_of(operation.error, 0, fallback=OperationFailed)
