"""Deploys on the fake Incus: both paths, failure, cancel, crowds, and what is left afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from aiohttp import web

from tests.deploy.world import NOTHING, Taos, left_over, with_image
from tests.fakes.fake_incus import FakeExec, FakeIncus
from tinyagentos.agents.order import ENV_FILE
from tinyagentos.agents.steps import BUILD_STEPS, IMAGE_STEPS
from tinyagentos.gateway.tokens import agent_token, model_token
from tinyagentos.incus import IncusUnreachable
from tinyagentos.model.agent import AgentSpec, AgentState, Source
from tinyagentos.model.errors import Conflict, HostNotReady, InvalidInput, NoSpace, NotFound
from tinyagentos.model.job import JobState

GIB = 1024**3


async def test_a_deploy_with_an_image_takes_the_image_path(taos: Taos, fake: FakeIncus) -> None:
    with_image(fake)
    job = await taos.deploy("hello")
    assert (job.state, job.source) == (JobState.succeeded, "image")
    assert tuple(step.name for step in job.steps) == IMAGE_STEPS
    agent = await taos.agents.get_agent("hello")
    assert (agent.state, agent.source) == (AgentState.ready, "image")


async def test_a_deploy_without_an_image_builds_and_keeps_the_result(
    taos: Taos, fake: FakeIncus
) -> None:
    job = await taos.deploy("hello")
    assert (job.state, job.source) == (JobState.succeeded, "build")
    assert tuple(step.name for step in job.steps) == BUILD_STEPS
    await taos.idle()
    assert fake.project().instances[job.params["instance"]].snapshots == {}
    second = await taos.deploy("second")
    assert (second.source, taos.builder.builds) == ("image", 1)
    rows = {row.framework: row.state for row in await taos.images.list_images()}
    assert rows["openclaw"] == "ready"


async def test_the_tokens_are_in_a_file_of_root_and_in_no_config(
    taos: Taos, fake: FakeIncus
) -> None:
    with_image(fake)
    job = await taos.deploy("hello")
    instance = fake.project().instances[job.params["instance"]]
    file = instance.files[ENV_FILE]
    assert (file.uid, file.mode) == (0, 0o600)
    values = dict(line.split("=", 1) for line in file.content.decode().splitlines())
    secrets = {values["TAOS_AGENT_TOKEN"], values["TAOS_MODEL_TOKEN"]}
    assert len(secrets) == 2
    assert not any(secret in str(instance.json) for secret in secrets)


@pytest.mark.parametrize("source", ["image", "build"])
@pytest.mark.parametrize("nesting", [False, True])
async def test_containers_inside_only_when_asked_and_incus_never(
    taos: Taos, fake: FakeIncus, source: str, nesting: bool
) -> None:
    with_image(fake)
    asked = {"nesting": True} if nesting else {}
    job = await taos.deploy("hello", source=source, **asked)
    config = fake.project().instances[job.params["instance"]].json["config"]
    assert config.get("security.nesting") == ("true" if nesting else None)
    assert "security.privileged" not in config
    assert (config["security.idmap.isolated"], config["security.guestapi"]) == ("true", "false")
    assert (await taos.agents.get_agent("hello")).nesting is nesting


async def test_a_failed_build_leaves_nothing(taos: Taos, fake: FakeIncus, folder: Path) -> None:
    taos.builder.fail = True
    job = await taos.deploy("hello")
    assert job.state is JobState.failed
    assert job.error
    assert (job.error.code, job.error.message) == ("build_failed", "npm said no")
    assert left_over(fake, folder) == NOTHING
    with pytest.raises(NotFound):
        await taos.agents.get_agent("hello")


async def test_what_a_failing_agent_wrote_is_told_without_its_tokens_and_not_for_ever(
    taos: Taos, fake: FakeIncus
) -> None:
    with_image(fake)
    fake.ready_after = None

    async def journal(run: FakeExec) -> int:
        if run.argv[0] == "systemctl":
            for _ in range(50):
                await run.write(b"ActiveState=failed\nNRestarts=" + b"9" * 9_999)
            return 0
        env = run.instance.files[ENV_FILE].content
        await run.write(b"first " + env)
        with contextlib.suppress(ConnectionError):
            while True:
                await run.write(b"x" * 99_999)
        return 0

    fake.on_exec = journal
    job = await taos.deploy("hello")
    assert job.error
    assert job.error.code == "not_ready"
    assert "TAOS_AGENT_TOKEN=[a token of the agent]" in job.error.message
    instance = job.params["instance"]
    for token in (agent_token(taos.host.key, instance), model_token(taos.host.key, instance)):
        assert token not in str(job)
    assert len(job.error.message) < 5000


async def test_an_agent_that_shows_its_token_when_asked_for_its_health_is_told_without_it(
    taos: Taos, fake: FakeIncus
) -> None:
    with_image(fake)

    async def tell(_: web.Request, instance: str) -> web.StreamResponse:
        return web.Response(status=500, text=f"token {agent_token(taos.host.key, instance)}")

    fake.answer = tell
    object.__setattr__(taos.settings, "ready_within", 1)
    job = await taos.deploy("hello")
    assert job.error
    assert "500 token [a token of the agent]" in job.error.message


async def test_an_agent_that_never_answers_is_a_failed_deploy(
    taos: Taos, fake: FakeIncus, folder: Path
) -> None:
    with_image(fake)
    fake.ready_after = None
    job = await taos.deploy("hello")
    assert job.error
    assert job.error.code == "not_ready"
    assert "503 starting" in job.error.message
    assert left_over(fake, folder) == NOTHING


async def test_a_cancelled_deploy_leaves_nothing(taos: Taos, fake: FakeIncus, folder: Path) -> None:
    taos.builder.go_on.clear()
    job = await taos.agents.start_deploy(AgentSpec("hello"))
    await taos.until(job.id, "install framework")
    assert (await taos.agents.get_agent("hello")).state is AgentState.deploying
    taos.runner.cancel_job(job.id)
    ended = await taos.runner.wait_job(job.id)
    assert ended.state is JobState.cancelled
    assert left_over(fake, folder) == NOTHING


async def test_deploys_that_come_during_a_build_wait_for_its_image(
    taos: Taos, fake: FakeIncus
) -> None:
    taos.builder.go_on.clear()
    jobs = [await taos.agents.start_deploy(AgentSpec(f"a{i}")) for i in range(10)]
    await taos.until(jobs[0].id, "install framework")
    taos.builder.go_on.set()
    ended = [await taos.runner.wait_job(job.id) for job in jobs]
    assert [job.state for job in ended] == [JobState.succeeded] * 10
    assert sorted(job.source for job in ended) == ["build"] + ["image"] * 9
    assert taos.builder.builds == 1


async def test_when_the_builder_fails_the_next_one_builds(taos: Taos) -> None:
    taos.builder.go_on.clear()
    taos.builder.fail = True
    jobs = [await taos.agents.start_deploy(AgentSpec(f"a{i}")) for i in range(3)]
    await taos.until(jobs[0].id, "install framework")
    await taos.until(jobs[1].id, "wait for the image being made")
    taos.builder.go_on.set()
    assert (await taos.runner.wait_job(jobs[0].id)).state is JobState.failed
    taos.builder.fail = False
    rest = [await taos.runner.wait_job(job.id) for job in jobs[1:]]
    assert {job.state for job in rest} <= {JobState.succeeded, JobState.failed}
    assert rest[-1].state is JobState.succeeded


async def test_one_name_is_one_agent(taos: Taos, fake: FakeIncus) -> None:
    with_image(fake)
    first, second = await asyncio.gather(
        taos.agents.start_deploy(AgentSpec("twin")),
        taos.agents.start_deploy(AgentSpec("twin")),
        return_exceptions=True,
    )
    assert {type(first).__name__, type(second).__name__} == {"Job", "Conflict"}
    await taos.idle()
    with pytest.raises(Conflict, match="agent 'twin' already"):
        await taos.agents.start_deploy(AgentSpec("twin"))


@pytest.mark.parametrize(
    "spec",
    [
        AgentSpec(""),
        AgentSpec("../x"),
        AgentSpec("x" * 200),
        AgentSpec("ok", framework="nothing"),
        AgentSpec("ok", memory_bytes=-1),
        AgentSpec("ok", memory_bytes=10**18),
        AgentSpec("ok", cpus=0),
        AgentSpec("ok", disk_bytes=1),
        AgentSpec("ok", state_bytes=1),
    ],
)
async def test_bad_requests_never_reach_incus(taos: Taos, fake: FakeIncus, spec: AgentSpec) -> None:
    with pytest.raises(InvalidInput) as refused:
        await taos.agents.start_deploy(spec)
    assert refused.value.hint
    assert fake.calls == []


async def test_memory_that_deploys_under_way_will_take_is_counted(
    folder: Path, fake: FakeIncus
) -> None:
    taos = Taos(folder, fake, memory=2 * GIB).start()
    taos.builder.go_on.clear()
    await taos.agents.start_deploy(AgentSpec("one"))
    await taos.agents.start_deploy(AgentSpec("two"))
    with pytest.raises(NoSpace, match=r"1400 MiB go to deploys under way"):
        await taos.agents.start_deploy(AgentSpec("three"))
    taos.builder.go_on.set()
    await taos.idle()
    await taos.close()


async def test_a_full_pool_is_refused_with_numbers(taos: Taos, fake: FakeIncus) -> None:
    fake.add_pool("taos", total_bytes=GIB)
    with pytest.raises(NoSpace, match="taos has"):
        await taos.agents.start_deploy(AgentSpec("one"))


async def test_incus_away_is_an_error_of_the_request_and_no_job(
    taos: Taos, fake: FakeIncus
) -> None:
    await fake.stop()
    with pytest.raises(IncusUnreachable):
        await taos.agents.start_deploy(AgentSpec("one"))
    assert taos.runner.list_jobs() == ()


async def test_the_image_alone_is_refused_where_it_cannot_come_from(taos: Taos) -> None:
    with pytest.raises(HostNotReady, match="No channel"):
        await taos.agents.start_deploy(AgentSpec("hello", source=Source.image))
    assert taos.runner.list_jobs() == ()


async def test_an_agents_life(taos: Taos, fake: FakeIncus, folder: Path) -> None:
    with_image(fake)
    await taos.deploy("hello")
    for action, state in (("stop", "stopped"), ("start", "ready"), ("restart", "ready")):
        job = await taos.agents.start_power("hello", action)  # type: ignore[arg-type]
        assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
        assert (await taos.agents.get_agent("hello")).state == state
    job = await taos.agents.start_delete("hello")
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    assert left_over(fake, folder) == NOTHING
    assert await taos.agents.list_agents() == ()
    with pytest.raises(NotFound):
        await taos.agents.start_delete("hello")


async def test_a_delete_while_the_image_is_kept_ends_well(taos: Taos, fake: FakeIncus) -> None:
    held = fake.hold_next("POST /1.0/images")
    await taos.deploy("hello")
    job = await taos.agents.start_delete("hello")
    held.set()
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    await taos.idle()
    assert fake.project().instances == {}


@pytest.mark.parametrize(
    "route",
    [
        "POST /1.0/instances",
        "POST /1.0/storage-pools/taos/volumes/custom",
        "PUT /1.0/instances/{name}/state",
        "PATCH /1.0/instances/{name}",
    ],
)
async def test_incus_failing_at_any_call_leaves_nothing(
    taos: Taos, fake: FakeIncus, folder: Path, route: str
) -> None:
    with_image(fake)
    job = await taos.agents.start_deploy(AgentSpec("hello"))
    fake.fail_next(route.replace("{name}", job.params["instance"]), 500, "it broke")
    ended = await taos.runner.wait_job(job.id)
    assert ended.state is JobState.failed
    assert ended.error
    assert "it broke" in ended.error.message
    assert left_over(fake, folder) == NOTHING


async def test_a_disk_that_fills_up_is_said_as_such(
    taos: Taos, fake: FakeIncus, folder: Path
) -> None:
    with_image(fake)
    fake.fail_next("POST /1.0/instances", 500, "no space left on device", in_work=True)
    job = await taos.deploy("hello")
    assert job.error
    assert job.error.code == "no_space"
    assert left_over(fake, folder) == NOTHING
