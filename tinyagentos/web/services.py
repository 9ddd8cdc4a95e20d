"""What the pages need of the real objects; app.py and tests provide it."""

from __future__ import annotations

from typing import Protocol

from tinyagentos.access import Access
from tinyagentos.agents.chat import Chat
from tinyagentos.agents.host import Host
from tinyagentos.agents.models import Models
from tinyagentos.agents.service import Agents
from tinyagentos.agents.shell import Shells
from tinyagentos.config import Settings
from tinyagentos.gateway.providers import Providers
from tinyagentos.host.check import Check, Report
from tinyagentos.images.service import Images
from tinyagentos.incus import Incus
from tinyagentos.jobs.runner import Runner
from tinyagentos.model.job import Problem


class Services(Protocol):
    """Everything the pages work with."""

    @property
    def settings(self) -> Settings: ...
    @property
    def access(self) -> Access: ...
    @property
    def agents(self) -> Agents: ...
    @property
    def images(self) -> Images: ...
    @property
    def providers(self) -> Providers: ...
    @property
    def models(self) -> Models: ...
    @property
    def chat(self) -> Chat: ...
    @property
    def shells(self) -> Shells: ...
    @property
    def jobs(self) -> Runner: ...
    @property
    def host(self) -> Host: ...
    @property
    def incus(self) -> Incus: ...
    def explain(self, error: BaseException) -> Problem: ...
    async def mend(self, check: Check, report: Report) -> None: ...
