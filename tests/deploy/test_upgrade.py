"""Upgrades: a new root with the old state, back by themselves when the agent does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.deploy.world import ARCH, IMAGE_PRINT, Taos, left_over, with_image
from tests.fakes.fake_incus import FakeFile, FakeIncus
from tinyagentos.agents.order import ENV_FILE
from tinyagentos.agents.upgrade import FORGET, STEPS, UNDO_STEPS, find_newest, plan_upgrade
from tinyagentos.model.agent import AgentState
from tinyagentos.model.errors import Conflict
from tinyagentos.model.job import Job, JobState
from tinyagentos.model.version import is_newer

NEW_PRINT = "d" * 64
OLD, NEW = "2026.1.1", "2099.1.1"
VERSIONS = st.from_regex(r"[0-9]{1,2}(\.[0-9]{1,2}){0,3}(-rc[0-9])?\Z")


def newer_image(fake: FakeIncus) -> None:
    """The framework's alias stands for a newer image."""
    del fake.project().aliases[f"openclaw/{ARCH}"]
    fake.add_image("taos", NEW_PRINT, f"openclaw/{ARCH}", properties={"taos.version": NEW})


async def deployed(folder: Path, fake: FakeIncus, **spec: object) -> Taos:
    """A server with the agent hello, and a newer image than its own."""
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello", **spec)
    newer_image(fake)
    return taos


async def upgraded(taos: Taos) -> Job:
    job = await taos.agents.start_upgrade("hello")
    return await taos.runner.wait_job(job.id)


def roots(fake: FakeIncus) -> dict[str, str]:
    """The image of each instance."""
    return {
        name: str(one.json["config"]["volatile.base_image"])[0]
        for name, one in fake.project().instances.items()
    }


class TestPlan:
    def test_the_image_on_the_host_when_it_is_another(self) -> None:
        target = plan_upgrade("openclaw", "x64", current=OLD, recipe_version=OLD, image_version=NEW)
        assert (target.plan.source, target.version) == ("image", NEW)

    def test_the_recipe_when_only_it_is_newer(self) -> None:
        for image in ("", OLD):
            target = plan_upgrade(
                "openclaw", "x64", current=OLD, recipe_version=NEW, image_version=image
            )
            assert (target.plan.source, target.version) == ("build", NEW)
            assert target.plan.image == "debian-13/x64"

    def test_never_backwards_to_an_older_image_or_recipe(self) -> None:
        for image, recipe in (("2026.9.5", "2026.9.6"), ("2026.9.6", "2026.9.5"), ("", "1.0")):
            with pytest.raises(Conflict, match="newest"):
                plan_upgrade(
                    "openclaw", "x64",
                    current="2026.9.6", recipe_version=recipe, image_version=image,
                )  # fmt: skip

    def test_the_newer_one_of_image_and_recipe(self) -> None:
        target = plan_upgrade(
            "openclaw", "x64",
            current="2026.9.4", recipe_version="2026.10.1", image_version="2026.9.6",
        )  # fmt: skip
        assert (target.plan.source, target.version) == ("build", "2026.10.1")

    @given(current=VERSIONS, recipe=VERSIONS, image=st.one_of(st.just(""), VERSIONS))
    def test_what_is_offered_is_what_is_planned_and_newest(
        self, current: str, recipe: str, image: str
    ) -> None:
        versions = {"current": current, "recipe_version": recipe, "image_version": image}
        offered = find_newest("openclaw", "x64", **versions)
        if offered is None:
            assert not is_newer(recipe, current)
            assert not is_newer(image, current)
            with pytest.raises(Conflict):
                plan_upgrade("openclaw", "x64", **versions)
            return
        assert plan_upgrade("openclaw", "x64", **versions) == offered
        assert is_newer(offered.version, current)
        assert offered.version == (image if offered.plan.source == "image" else recipe)
        assert not is_newer(recipe, offered.version)
        assert not is_newer(image, offered.version)

    def test_nothing_newer_is_a_conflict(self) -> None:
        with pytest.raises(Conflict, match="newest"):
            plan_upgrade("openclaw", "x64", current=NEW, recipe_version=NEW, image_version=NEW)


async def test_a_new_root_with_the_same_state(folder: Path, fake: FakeIncus) -> None:
    taos = await deployed(folder, fake)
    before = await taos.agents.get_agent("hello")
    assert (await upgraded(taos)).state is JobState.succeeded
    after = await taos.agents.get_agent("hello")
    assert (after.state, after.instance, after.version) == (AgentState.ready, before.instance, NEW)
    assert after.undo_version == before.version
    assert roots(fake) == {before.instance: "d", f"{before.instance}-previous": "c"}
    assert left_over(fake, folder)["volumes"] == [f"{before.instance}-state"]
    assert [one.name for one in await taos.agents.list_agents()] == ["hello"]
    await taos.close()


async def test_a_new_root_gets_its_tokens_from_the_host_and_not_from_the_old_root(
    folder: Path, fake: FakeIncus
) -> None:
    taos = await deployed(folder, fake)
    instance = (await taos.agents.get_agent("hello")).instance
    files = fake.project().instances[instance].files
    given = files[ENV_FILE].content
    files[ENV_FILE] = FakeFile(b"/proc/1/environ", type="symlink")
    asked = len(fake.calls)
    assert (await upgraded(taos)).state is JobState.succeeded
    new = fake.project().instances[instance].files[ENV_FILE]
    assert (new.content, new.mode, new.uid) == (given, 0o600, 0)
    assert not any(one.startswith("GET") and one.endswith("/files") for one in fake.calls[asked:])
    await taos.close()


async def test_a_new_root_may_what_the_old_one_might(folder: Path, fake: FakeIncus) -> None:
    taos = await deployed(folder, fake, nesting=True)
    assert (await upgraded(taos)).state is JobState.succeeded
    assert (await taos.agents.get_agent("hello")).nesting
    await taos.close()


async def test_an_image_newer_than_the_recipe_is_offered(folder: Path, fake: FakeIncus) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    assert (await taos.agents.get_agent("hello")).newest == ""
    newer_image(fake)
    await taos.deploy("other")  # a job that ends has images looked at again
    assert {one.name: one.newest for one in await taos.agents.list_agents()}["hello"] == NEW
    await upgraded(taos)
    assert (await taos.agents.get_agent("hello")).newest == ""
    await taos.close()


async def test_an_agent_is_of_its_images_version(folder: Path, fake: FakeIncus) -> None:
    with_image(fake)
    fake.project().images[IMAGE_PRINT]["properties"] = {"taos.version": OLD}
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    agent = await taos.agents.get_agent("hello")
    assert (agent.version, agent.newest) == (OLD, taos.host.recipes["openclaw"].version)
    await taos.close()


async def test_an_older_image_is_neither_offered_nor_taken(folder: Path, fake: FakeIncus) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    fake.project().images[IMAGE_PRINT]["properties"] = {"taos.version": OLD}
    assert (await taos.agents.get_agent("hello")).newest == ""
    with pytest.raises(Conflict, match="newest"):
        await taos.agents.start_upgrade("hello")
    await taos.close()


async def test_one_that_does_not_answer_returns_by_itself(folder: Path, fake: FakeIncus) -> None:
    taos = await deployed(folder, fake)
    before = await taos.agents.get_agent("hello")
    fake.ready_after = None
    job = await taos.agents.start_upgrade("hello")
    await taos.until(job.id, "roll back")
    fake.ready_after = 0
    ended = await taos.runner.wait_job(job.id)
    assert (ended.state, ended.error and ended.error.code) == (JobState.failed, "not_ready")
    after = await taos.agents.get_agent("hello")
    assert (after.version, after.state) == (before.version, AgentState.ready)
    assert roots(fake) == {before.instance: "c"}
    assert await taos.agents.list_snapshots("hello") == ()
    await taos.close()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("cancel", [False, True])
async def test_it_survives_a_crash_in_each_step(
    step: str, cancel: bool, folder: Path, fake: FakeIncus
) -> None:
    taos = await deployed(folder, fake)
    before = await taos.agents.get_agent("hello")
    fake.ready_after = 1
    job = await taos.agents.start_upgrade("hello")
    await taos.until(job.id, step if step not in ("base image", "install framework") else "plan")
    if cancel and taos.runner.get_job(job.id).is_active:
        taos.runner.cancel_job(job.id)
    await taos.die()
    second = Taos(folder, fake).start()
    ended = await second.runner.wait_job(job.id)
    after = await second.agents.get_agent("hello")
    assert after.instance == before.instance
    assert after.state in (AgentState.ready, AgentState.unhealthy)
    if ended.state is JobState.succeeded:
        assert roots(fake) == {before.instance: "d", f"{before.instance}-previous": "c"}
        assert not cancel or step == STEPS[-1]
    else:
        assert ended.state is JobState.cancelled
        assert roots(fake) == {before.instance: "c"}
        assert await second.agents.list_snapshots("hello") == ()
    assert left_over(fake, folder)["volumes"] == [f"{before.instance}-state"]
    await second.close()


async def test_by_the_build_path_the_old_root_works_on_meanwhile(
    folder: Path, fake: FakeIncus
) -> None:
    with_image(fake)
    taos = Taos(folder, fake).start()
    await taos.deploy("hello")
    before = await taos.agents.get_agent("hello")
    fake.project().instances[before.instance].json["config"]["user.taos.version"] = OLD
    fake.project().images[IMAGE_PRINT]["properties"] = {"taos.version": OLD}
    taos.builder.go_on.clear()
    job = await taos.agents.start_upgrade("hello")
    await taos.until(job.id, "install framework")
    assert (await taos.agents.get_agent("hello")).state is AgentState.ready
    taos.builder.go_on.set()
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    assert roots(fake) == {before.instance: "b", f"{before.instance}-previous": "c"}
    await taos.close()


@pytest.mark.parametrize("step", ["", *UNDO_STEPS])
async def test_an_upgrade_can_be_undone(step: str, folder: Path, fake: FakeIncus) -> None:
    taos = await deployed(folder, fake)
    before = await taos.agents.get_agent("hello")
    await upgraded(taos)
    job = await taos.agents.start_undo("hello")
    if step:
        await taos.until(job.id, step)
        await taos.die()
        taos = Taos(folder, fake).start()
    assert (await taos.runner.wait_job(job.id)).state is JobState.succeeded
    after = await taos.agents.get_agent("hello")
    assert (after.version, after.state, after.undo_version) == (
        before.version, AgentState.ready, "",
    )  # fmt: skip
    assert roots(fake) == {before.instance: "c"}
    kept = [one.name for one in await taos.agents.list_snapshots("hello")]
    assert f"undone-{job.id}" in kept
    with pytest.raises(Conflict, match="undo"):
        await taos.agents.start_undo("hello")
    await taos.close()


async def test_the_undo_window_ends(folder: Path, fake: FakeIncus) -> None:
    taos = await deployed(folder, fake)
    await upgraded(taos)
    await taos.agents.end_undo_windows()
    assert taos.runner.list_active() == ()
    [previous] = [n for n in fake.project().instances if n.endswith("-previous")]
    fake.project().instances[previous].json["config"]["user.taos.replaced_at"] = (
        "2026-01-01T00:00:00+00:00"
    )
    await taos.agents.end_undo_windows()
    [job] = taos.runner.list_active()
    assert job.kind == FORGET
    await taos.idle()
    assert len(fake.project().instances) == 1
    assert await taos.agents.list_snapshots("hello") == ()
    await taos.close()


async def test_deleting_the_agent_takes_the_old_root_along(folder: Path, fake: FakeIncus) -> None:
    taos = await deployed(folder, fake)
    await upgraded(taos)
    job = await taos.agents.start_delete("hello")
    await taos.runner.wait_job(job.id)
    assert left_over(fake, folder) == {"instances": [], "volumes": [], "sockets": []}
    await taos.close()
