"""Numbers for Prometheus."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from tinyagentos.api.services import Services, Use
from tinyagentos.model.agent import AgentState
from tinyagentos.model.job import JobState

router = APIRouter(tags=["server"])
AGENTS_WITHIN = 5.0
_log = logging.getLogger(__name__)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(services: Use) -> str:
    """Jobs by state, of those the server remembers; agents by state while Incus answers."""
    jobs = Counter(job.state for job in services.jobs.list_jobs())
    lines = ["# HELP taos_jobs Jobs by state.", "# TYPE taos_jobs gauge"]
    lines += [f'taos_jobs{{state="{state}"}} {jobs[state]}' for state in JobState]
    record = services.agents.walls
    lines += [
        "# HELP taos_walls_repaired_total How often removed firewall rules were put back.",
        "# TYPE taos_walls_repaired_total counter",
        f"taos_walls_repaired_total {record.repaired}",
        "# HELP taos_unplugged_interfaces Interfaces switched off as agents could not be confined.",
        "# TYPE taos_unplugged_interfaces gauge",
        f"taos_unplugged_interfaces {len(record.unplugged)}",
    ]
    agents = await _count_agents(services)
    lines += ["# HELP taos_incus_up Whether Incus answers.", "# TYPE taos_incus_up gauge"]
    lines += [f"taos_incus_up {int(agents is not None)}"]
    if agents is not None:
        lines += ["# HELP taos_agents Agents by state.", "# TYPE taos_agents gauge"]
        lines += [f'taos_agents{{state="{state}"}} {agents[state]}' for state in AgentState]
    return "\n".join(lines) + "\n"


async def _count_agents(services: Services) -> Counter[AgentState] | None:
    """Agents by state; None when they cannot be asked for. The other numbers are still true."""
    try:
        async with asyncio.timeout(AGENTS_WITHIN):
            return Counter(agent.state for agent in await services.agents.list_agents())
    except Exception as error:
        _log.debug("agents not counted", extra={"because": services.explain(error).message})
        return None
