"""An agent's network policy: where it begins, how it changes, what is left of it."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.world import Taos, with_image
from tests.fakes.fake_incus import FakeIncus
from tinyagentos.agents.network import (
    NIC,
    STEPS,
    refresh_bridges,
    refresh_when_changed,
    tidy_bridges,
)
from tinyagentos.model.agent import AgentSpec, AgentState
from tinyagentos.model.errors import InvalidInput, NotFound
from tinyagentos.model.job import JobState

LAN = "lan:192.168.9.0/24"


async def deployed(folder: Path, fake: FakeIncus, policy: str = "internet") -> Taos:
    with_image(fake)
    taos = Taos(folder, fake).start()
    job = await taos.deploy("hello", network=policy)
    assert job.state is JobState.succeeded, job.error
    return taos


async def seen(taos: Taos) -> dict[str, Any]:
    """The agent's instance as Incus has it."""
    agent = await taos.agents.get_agent("hello")
    return taos.fake.project().instances[agent.instance].json


@pytest.mark.parametrize("policy", ["internet", "none", LAN])
@pytest.mark.parametrize("source", ["image", "build"])
async def test_an_agent_begins_on_its_policys_bridge(
    folder: Path, fake: FakeIncus, policy: str, source: str
) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    job = await taos.deploy("hello", network=policy, source=source)
    assert job.state is JobState.succeeded, job.error
    instance = await seen(taos)
    bridge = instance["devices"][NIC]["network"]
    assert instance["devices"][NIC]["security.port_isolation"] == "true"
    assert fake.networks[bridge]["description"] == f"taOS network policy {policy}"
    assert fake.networks[bridge]["config"]["security.acls"] == bridge
    egress = fake.acls[bridge]["egress"]
    assert bool(egress) == (policy != "none")
    forwards = fake.networks[bridge]["config"]["raw.dnsmasq"] == ""
    assert forwards == (policy != "none")
    if egress:
        assert "192.168.7.7/32" in egress[0]["destination"] or "192.168.0.0/16" in str(egress)
    assert (await taos.agents.get_agent("hello")).network == policy
    await taos.close()


async def test_a_build_is_not_hindered_by_the_policy(folder: Path, fake: FakeIncus) -> None:
    taos = Taos(folder, fake).start()
    taos.builder.go_on.clear()
    job = await taos.agents.start_deploy(AgentSpec("hello", network="none"))
    await taos.until(job.id, "install framework")
    [instance] = fake.project().instances.values()
    assert NIC not in instance.json["devices"]
    taos.builder.go_on.set()
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    assert (await seen(taos))["devices"][NIC]["network"] == "taos-none"
    await taos.close()


@pytest.mark.parametrize("step", ["", *STEPS])
async def test_it_changes_while_the_agent_runs_after_a_crash_in_each_step(
    folder: Path, fake: FakeIncus, step: str
) -> None:
    taos = await deployed(folder, fake)
    job = await taos.agents.start_network("hello", LAN)
    if step:
        await taos.until(job.id, step)
        await taos.die()
        taos = Taos(folder, fake).start()
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    instance = await seen(taos)
    assert instance["config"]["user.taos.network"] == LAN
    assert fake.networks[instance["devices"][NIC]["network"]]["description"].endswith(LAN)
    agent = await taos.agents.get_agent("hello")
    assert (agent.state, agent.network) == (AgentState.ready, LAN)
    await taos.close()


async def test_a_cancelled_change_leaves_the_old_policy(folder: Path, fake: FakeIncus) -> None:
    taos = await deployed(folder, fake, "none")
    job = await taos.agents.start_network("hello", "internet")
    taos.runner.cancel_job(job.id)
    await taos.runner.wait_job(job.id)
    assert (await taos.agents.get_agent("hello")).network == "none"
    assert (await seen(taos))["devices"][NIC]["network"] == "taos-none"
    await taos.close()


async def test_an_upgrade_and_its_undo_keep_the_policy_of_now(
    folder: Path, fake: FakeIncus
) -> None:
    taos = await deployed(folder, fake, LAN)
    (await seen(taos))["config"]["user.taos.version"] = "0"
    job = await taos.agents.start_upgrade("hello")
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    assert (await taos.agents.get_agent("hello")).network == LAN
    job = await taos.agents.start_network("hello", "none")
    await taos.runner.wait_job(job.id)
    job = await taos.agents.start_undo("hello")
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    assert (await seen(taos))["devices"][NIC]["network"] == "taos-none"
    await taos.close()


async def test_an_agent_from_before_policies_gets_one_when_it_starts(
    folder: Path, fake: FakeIncus
) -> None:
    taos = await deployed(folder, fake)
    instance = await seen(taos)
    del instance["devices"][NIC]
    del instance["config"]["user.taos.network"]
    job = await taos.agents.start_power("hello", "restart")
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    assert (await seen(taos))["devices"][NIC]["network"] == "taos-internet"
    await taos.close()


async def test_a_bridge_goes_when_it_was_unused_for_two_looks(
    folder: Path, fake: FakeIncus
) -> None:
    taos = await deployed(folder, fake, LAN)
    first = await tidy_bridges(taos.host, frozenset())
    assert first == frozenset()
    job = await taos.agents.start_network("hello", "none")
    await taos.runner.wait_job(job.id)
    unused = await tidy_bridges(taos.host, first)
    assert len(unused) == 1
    assert unused < set(fake.networks)
    assert await tidy_bridges(taos.host, unused) == frozenset()
    assert set(fake.networks) == {"taosbr0", "taos-none"}
    assert set(fake.acls) == {"taos-none"}
    await taos.close()


async def test_a_bridge_that_was_made_otherwise_is_put_right(folder: Path, fake: FakeIncus) -> None:
    taos = await deployed(folder, fake, "none")
    config = fake.networks["taos-none"]["config"]
    address = config["ipv4.address"]
    del config["raw.dnsmasq"]
    config["security.acls.default.egress.action"] = "allow"
    await refresh_bridges(taos.host)
    config = fake.networks["taos-none"]["config"]
    assert (config["raw.dnsmasq"], config["ipv4.address"]) == ("port=0", address)
    assert config["security.acls.default.egress.action"] == "reject"
    asked = len(fake.calls)
    await refresh_bridges(taos.host)
    assert not any(one.startswith("PUT") for one in fake.calls[asked:])
    await taos.close()


async def test_an_address_that_the_host_got_is_closed_and_looking_costs_incus_nothing(
    folder: Path, fake: FakeIncus
) -> None:
    taos = await deployed(folder, fake)
    mine = [IPv4Address("192.168.7.7")]

    async def addresses() -> tuple[IPv4Address, ...]:
        return tuple(mine)

    object.__setattr__(taos.host, "addresses", addresses)
    known = await refresh_when_changed((), taos.host)
    asked = len(fake.calls)
    assert await refresh_when_changed(known, taos.host) == known
    assert len(fake.calls) == asked
    mine.append(IPv4Address("203.0.113.9"))
    known = await refresh_when_changed(known, taos.host)
    assert "203.0.113.9/32" in fake.acls["taos-internet"]["egress"][0]["destination"]
    assert len(known) == 2
    await taos.close()


@pytest.mark.parametrize("written", ["", "all", "lan:", "lan:8.8.8.0/24", "lan:x", "none,internet"])
async def test_what_is_no_policy(folder: Path, fake: FakeIncus, written: str) -> None:
    taos = await deployed(folder, fake)
    with pytest.raises(InvalidInput):
        await taos.agents.start_network("hello", written)
    with pytest.raises(InvalidInput):
        await taos.agents.start_deploy(AgentSpec("other", network=written))
    with pytest.raises(NotFound):
        await taos.agents.start_network("nobody", "none")
    await taos.close()
