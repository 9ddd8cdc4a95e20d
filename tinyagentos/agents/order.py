"""A deploy order: the checked request, as it is kept with the job and turned into Incus's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tinyagentos.agents.plan import LaunchPlan
from tinyagentos.gateway.tokens import agent_token, model_token
from tinyagentos.incus import InstanceRequest
from tinyagentos.model.agent import AgentSpec, SnapshotSchedule, Source
from tinyagentos.model.network import NetworkPolicy
from tinyagentos.model.recipe import Recipe

AGENT_KEY = "user.taos.agent"
FRAMEWORK_KEY = "user.taos.framework"
VERSION_KEY = "user.taos.version"
SOURCE_KEY = "user.taos.source"
JOB_KEY = "user.taos.job"
STAGE_KEY = "user.taos.stage"
NETWORK_KEY = "user.taos.network"
MODEL_KEY = "user.taos.model"
KEPT_KEY = "user.taos.kept"
TITLE_KEY = "user.taos.title"
IDLE_KEY = "user.taos.idle_stop"
FALLBACK_KEY = "user.taos.fallback"
BUDGET_KEY = "user.taos.budget"
NESTING = "security.nesting"
AUTOSTART = "boot.autostart"
# How long Incus keeps what it took by each schedule.
KEPT_FOR = {"hourly": "2d", "daily": "2w", "weekly": "8w"}
PATTERN = "auto-{{ creation_date|date:'20060102-1504' }}"

HOME = "/home/agent"
ENV_FILE = "/etc/taos/agent.env"
UNIT = "agent.service"
DOOR = "agent"
MODEL_DOOR = "model"
MODEL_PORT = 4000


@dataclass(frozen=True)
class DeployOrder:
    """Everything a deploy needs to know; a job started again after a crash reads the same."""

    agent: str
    framework: str
    instance: str
    source: Source
    model: str
    memory_bytes: int
    cpus: int
    disk_bytes: int
    state_bytes: int
    network: str
    kept: str
    nesting: bool
    fallbacks: str
    monthly_tokens: int
    title: str
    autostart: bool
    idle_stop_minutes: int
    snapshots: SnapshotSchedule

    @property
    def volume(self) -> str:
        """The custom volume that holds the agent's state."""
        return f"{self.instance}-state"

    def to_params(self) -> dict[str, str]:
        """As a job keeps it."""
        return {name: str(value) for name, value in vars(self).items()}

    @classmethod
    def from_params(cls, params: Mapping[str, str]) -> DeployOrder:
        """Read back what to_params() wrote."""
        return cls(
            agent=params["agent"],
            framework=params["framework"],
            instance=params["instance"],
            source=Source(params["source"]),
            model=params["model"],
            memory_bytes=int(params["memory_bytes"]),
            cpus=int(params["cpus"]),
            disk_bytes=int(params["disk_bytes"]),
            # What a job of an older taOS does not say; 0: no limit.
            state_bytes=int(params.get("state_bytes", "0")),
            network=params["network"],
            kept=params["kept"],
            nesting=params.get("nesting") == "True",
            fallbacks=params.get("fallbacks", ""),
            monthly_tokens=int(params.get("monthly_tokens", "0")),
            title=params.get("title", ""),
            autostart=params.get("autostart") != "False",
            idle_stop_minutes=int(params.get("idle_stop_minutes", "0")),
            snapshots=SnapshotSchedule(params.get("snapshots", "off")),
        )


def make_order(
    spec: AgentSpec, recipe: Recipe, suffix: str, kept: str = "", kept_bytes: int = 0
) -> DeployOrder:
    """The order for a checked spec; what the spec leaves open is the recipe's default.

    kept: the volume of the state it begins with; empty: a new one. kept_bytes: the least limit
    that leaves that state room.
    """
    agent = recipe.agent
    return DeployOrder(
        agent=spec.name,
        framework=spec.framework,
        instance=f"{spec.name}-{suffix}",
        source=spec.source,
        model=spec.model,
        memory_bytes=spec.memory_bytes or agent.memory_limit_bytes,
        cpus=spec.cpus or agent.cpus,
        disk_bytes=spec.disk_bytes or agent.disk_bytes,
        state_bytes=spec.state_bytes or max(agent.state_bytes, kept_bytes),
        network=str(NetworkPolicy.parse(spec.network)),
        kept=kept,
        nesting=spec.nesting,
        fallbacks=",".join(spec.fallbacks),
        monthly_tokens=spec.monthly_tokens,
        title=spec.title.strip(),
        autostart=spec.autostart,
        idle_stop_minutes=spec.idle_stop_minutes,
        snapshots=spec.snapshots,
    )


def volume_config(order: DeployOrder, *, has_quota: bool) -> Mapping[str, str]:
    """What the agent's state volume has, new or taken up; has_quota: as in instance_request()."""
    size = {"size": str(order.state_bytes)} if has_quota and order.state_bytes else {}
    off = order.snapshots is SnapshotSchedule.off
    return size if off else {**size, **schedule_keys(order.snapshots)}


def schedule_keys(schedule: SnapshotSchedule) -> Mapping[str, str]:
    """The schedule as a state volume's config has it; empty values unset a key."""
    if schedule is SnapshotSchedule.off:
        return {"snapshots.schedule": "", "snapshots.expiry": "", "snapshots.pattern": ""}
    return {
        "snapshots.schedule": f"@{schedule}",
        "snapshots.expiry": KEPT_FOR[schedule],
        "snapshots.pattern": PATTERN,
    }


def instance_request(
    order: DeployOrder,
    recipe: Recipe,
    plan: LaunchPlan,
    *,
    fingerprint: str,
    job_id: str,
    pool: str,
    has_quota: bool,
    devices: Mapping[str, Mapping[str, str]],
    restarts: bool,
) -> InstanceRequest:
    """What Incus is asked to create: one request with limits, devices and our keys.

    devices: those besides root and state. restarts: whether this Incus can start an instance again
    that ended by itself.
    has_quota: whether the pool's driver can limit the size of the root.
    """
    root = {"type": "disk", "path": "/", "pool": pool}
    if has_quota:
        root["size"] = str(order.disk_bytes)
    config = {
        AGENT_KEY: order.agent,
        FRAMEWORK_KEY: order.framework,
        VERSION_KEY: recipe.version,
        SOURCE_KEY: plan.source,
        JOB_KEY: job_id,
        MODEL_KEY: order.model,
        NETWORK_KEY: order.network,
        "limits.memory": str(order.memory_bytes),
        "limits.processes": str(recipe.agent.processes),
        "security.idmap.isolated": "true",
        # Nothing of ours asks Incus from inside, and a device of the host less is a door less.
        "security.guestapi": "false",
    }
    asked = {
        FALLBACK_KEY: order.fallbacks,
        BUDGET_KEY: str(order.monthly_tokens or ""),
        TITLE_KEY: order.title,
        IDLE_KEY: str(order.idle_stop_minutes or ""),
        # Unset: Incus starts at boot what ran before.
        AUTOSTART: "" if order.autostart else "false",
        NESTING: "true" if order.nesting else "",
    }
    config |= {key: value for key, value in asked.items() if value}
    if restarts:
        config["boot.autorestart"] = "true"
    if order.cpus:
        config["limits.cpu"] = str(order.cpus)
    return InstanceRequest(
        name=order.instance,
        image=fingerprint,
        description=f"taOS agent {order.agent} ({order.framework} {recipe.version})",
        config=config,
        devices={
            "root": root,
            "state": {"type": "disk", "pool": pool, "source": order.volume, "path": HOME},
            **devices,
        },
    )


def door_device(recipe: Recipe, socket: Path) -> Mapping[str, str]:
    """The proxy device through which the host reaches the agent's port at the socket."""
    return {
        "type": "proxy",
        "bind": "host",
        "listen": f"unix:{socket}",
        "connect": f"tcp:127.0.0.1:{recipe.agent.port}",
        "mode": "0600",
    }


def model_device(socket: Path) -> Mapping[str, str]:
    """The proxy device through which the agent reaches the model gateway's socket."""
    return {
        "type": "proxy",
        "bind": "instance",
        "listen": f"tcp:127.0.0.1:{MODEL_PORT}",
        "connect": f"unix:{socket}",
    }


def redact(text: str, instance: str, key: bytes) -> str:
    """The text without the tokens of the agent with that instance."""
    for token in (agent_token(key, instance), model_token(key, instance)):
        text = text.replace(token, "[a token of the agent]")
    return text


def render_env(agent: str, instance: str, key: bytes) -> bytes:
    """The environment file of the agent's unit: its name, its tokens, where its model is.

    Every value is letters, digits, hyphens and dots, so systemd's quoting does not matter.
    """
    lines = {
        "TAOS_AGENT_NAME": agent,
        "TAOS_AGENT_TOKEN": agent_token(key, instance),
        "TAOS_MODEL_URL": f"http://127.0.0.1:{MODEL_PORT}/v1",
        "TAOS_MODEL_TOKEN": model_token(key, instance),
        "TAOS_MODEL": "default",
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items()).encode()
