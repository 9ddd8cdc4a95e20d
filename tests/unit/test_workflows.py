"""The workflows: sound by GitHub's schema, their commands ours, their secrets where they belong."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.documents import read_command, words_after_taos
from tinyagentos.factory.recipe import list_recipes, load_recipe
from tinyagentos.model.recipe import RecipeKind

WORKFLOWS = Path(__file__).parents[2] / ".github" / "workflows"
NAMES = sorted(path.name for path in WORKFLOWS.glob("*.yml"))


def read(name: str) -> dict[str, Any]:
    return YAML(typ="safe").load((WORKFLOWS / name).read_text())


def steps(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for job, content in read(name)["jobs"].items():
        for step in content["steps"]:
            yield job, step


def scripts(name: str) -> list[str]:
    return [step["run"] for _, step in steps(name) if "run" in step]


def test_the_images_have_a_workflow() -> None:
    assert "build-agent-images.yml" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_is_what_github_takes(name: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema",
         "vendor.github-workflows", str(WORKFLOWS / name)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_sound_and_take_nothing_by_text(name: str) -> None:
    for script in scripts(name):
        assert "${{" not in script  # what GitHub pastes into a script is run as one
        ended = subprocess.run(
            [str(Path(sys.executable).with_name("shellcheck")), "--shell=bash", "-"],
            input=script, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("name", NAMES)
def test_actions_are_pinned_to_a_commit(name: str) -> None:
    for _, step in steps(name):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step.get("uses", f"x@{'0' * 40}")), step


def commands(script: str) -> Iterator[tuple[str, ...]]:
    for line in script.replace("\\\n", " ").splitlines():
        command = line.strip().partition(" >")[0].replace(' "${against[@]}"', "")
        if (words := words_after_taos(command)) is not None:
            yield words


def test_every_command_is_one_that_the_command_line_takes() -> None:
    seen = []
    for words in (one for script in scripts("build-agent-images.yml") for one in commands(script)):
        read_command(words)
        seen.append(" ".join(words[:2]))
    assert seen == [
        "setup", "image build", "image report", "image report", "image smoke", "--version",
        "image publish",
    ]  # fmt: skip


def test_only_publishing_has_secrets_and_may_write() -> None:
    workflow = read("build-agent-images.yml")
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        is_publish = name == "publish"
        assert ("secrets." in str(job)) == is_publish, name
        assert ("github.token" in str(job)) == is_publish, name
        assert ("permissions" in job) == is_publish, name
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
    assert workflow["jobs"]["publish"]["permissions"] == {"contents": "write"}
    # Secrets are in the environment of one step, not of the job.
    assert "env" not in workflow["jobs"]["publish"]
    with_secrets = [one for _, one in steps("build-agent-images.yml") if "secrets." in str(one)]
    assert [one["name"] for one in with_secrets] == ["Publish"]


def test_images_are_built_natively_proven_and_then_published() -> None:
    jobs = read("build-agent-images.yml")["jobs"]
    machines = {
        one["arch"]: one["runner"] for one in jobs["build"]["strategy"]["matrix"]["include"]
    }
    assert machines == {"x64": "ubuntu-24.04", "arm64": "ubuntu-24.04-arm"}
    agents = [name for name in list_recipes() if load_recipe(name).kind is RecipeKind.agent]
    for job in ("build", "remember"):
        matrix = jobs[job]["strategy"]["matrix"]
        assert sorted(matrix["framework"]) == agents
        assert set(matrix["arch"]) == set(machines)
    assert jobs["publish"]["needs"] == "build"
    names = [one.get("name") for one in jobs["build"]["steps"]]
    assert names.index("Build") < names.index("Report") < names.index("Smoke test")
    assert "GITHUB_STEP_SUMMARY" in str(jobs["build"])


def test_it_runs_weekly_and_when_a_recipe_changes() -> None:
    when = YAML(typ="safe", pure=True).load(
        (WORKFLOWS / "build-agent-images.yml").read_text().replace("\non:", "\nwhen:")
    )["when"]
    assert re.fullmatch(r"\d+ \d+ \* \* \d", when["schedule"][0]["cron"])
    assert "tinyagentos/recipes/**" in when["push"]["paths"]
    assert when["push"]["branches"] == ["main"]
