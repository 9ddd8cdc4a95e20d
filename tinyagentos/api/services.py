"""What the routes need of the real objects; app.py and tests provide it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal, Protocol, cast

from fastapi import Depends, Request

from tinyagentos.config import Settings
from tinyagentos.model.agent import Agent, AgentSpec, Framework
from tinyagentos.model.image import ImageRow
from tinyagentos.model.job import Job, Problem


class AgentService(Protocol):
    """Agents: checks, then hands back a job."""

    async def start_deploy(self, spec: AgentSpec, *, idempotency_key: str = "") -> Job: ...
    async def list_agents(self) -> tuple[Agent, ...]: ...
    async def get_agent(self, name: str) -> Agent: ...
    async def start_power(self, name: str, action: Literal["start", "stop", "restart"]) -> Job: ...
    async def start_delete(self, name: str) -> Job: ...
    async def open_log(
        self, name: str, *, follow: bool, lines: int
    ) -> AsyncIterator[str]: ...
    def list_frameworks(self) -> tuple[Framework, ...]: ...


class ImageService(Protocol):
    """Images of this host."""

    async def list_images(self) -> tuple[ImageRow, ...]: ...


class JobService(Protocol):
    """Jobs of this server."""

    def list_jobs(self) -> tuple[Job, ...]: ...
    def get_job(self, job_id: str) -> Job: ...
    def cancel_job(self, job_id: str) -> Job: ...
    def retry_job(self, job_id: str) -> Job: ...
    def watch_job(self, job_id: str) -> AsyncIterator[Job]: ...


class Services(Protocol):
    """Everything the faces work with."""

    @property
    def settings(self) -> Settings: ...
    @property
    def token(self) -> str: ...
    @property
    def agents(self) -> AgentService: ...
    @property
    def images(self) -> ImageService: ...
    @property
    def jobs(self) -> JobService: ...
    async def missing(self) -> tuple[Problem, ...]: ...
    def explain(self, error: BaseException) -> Problem: ...


def _services(request: Request) -> Services:
    return cast(Services, request.app.state.services)  # Starlette's state is untyped


Use = Annotated[Services, Depends(_services)]
