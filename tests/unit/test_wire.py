"""The JSON contract: sizes in words, strict input, our own values out."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from tinyagentos import wire
from tinyagentos.model.agent import Agent, AgentSpec, AgentState, Source
from tinyagentos.model.job import Job, JobState, Problem, Step, StepState

MIB = 1024 * 1024
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (512 * MIB, 512 * MIB),
        ("536870912", 512 * MIB),
        ("512MiB", 512 * MIB),
        ("2GiB", 2048 * MIB),
        ("1.5G", 1536 * MIB),
        ("1 gib", 1024 * MIB),
        ("500MB", 500_000_000),
        ("64k", 65536),
        (" 7 B ", 7),
    ],
)
def test_a_size_is_a_number_or_words(written: object, size: int) -> None:
    assert wire.NewAgent.model_validate({"name": "a", "memory": written}).memory == size


@pytest.mark.parametrize(
    "written",
    ["", "lots", "-5MiB", "1e3", "1.2.3G", "5PB", "0", 0, -1, 1.5, True, [], "9" * 500],
)
def test_what_is_no_size_is_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        wire.NewAgent.model_validate({"name": "a", "memory": written})


def test_a_request_is_what_the_agents_side_takes() -> None:
    request = wire.NewAgent.model_validate(
        {
            "name": "a",
            "source": "fastest",
            "memory": "1G",
            "cpu": 2,
            "disk": "4GiB",
            "model": "p/m",
            "state_disk": "20GiB",
            "nesting": True,
        }
    )
    assert request.to_spec() == AgentSpec(
        name="a",
        source=Source.fastest,
        model="p/m",
        memory_bytes=1024 * MIB,
        cpus=2,
        disk_bytes=4096 * MIB,
        state_bytes=20480 * MIB,
        nesting=True,
    )


def test_what_was_not_given_is_the_recipes_to_say() -> None:
    assert wire.NewAgent(name="a").to_spec() == AgentSpec("a")


def test_a_request_survives_the_way_to_the_server() -> None:
    request = wire.NewAgent(name="a", source=Source.build, memory=MIB)
    assert wire.NewAgent.model_validate_json(request.model_dump_json()) == request


def test_a_job_is_written_as_the_contract_has_it() -> None:
    job = Job(
        "j1", "deploy", "agent:a", NOW,
        state=JobState.failed,
        params={"secret": "never shown"},
        source="build",
        source_reason="no image is here",
        steps=(Step("plan", StepState.succeeded, NOW, 0.5, 1, 2, "x"),),
        error=Problem("not_ready", "It did not answer.", "Read its log."),
        idempotency_key="k",
    )  # fmt: skip
    assert wire.Job.of(job).model_dump(mode="json") == {
        "id": "j1", "kind": "deploy", "subject": "agent:a", "state": "failed",
        "source": "build", "source_reason": "no image is here", "attempt": 0,
        "steps": [
            {
                "name": "plan", "state": "succeeded", "started_at": "2026-01-01T00:00:00Z",
                "seconds": 0.5, "done_bytes": 1, "total_bytes": 2, "detail": "x",
            }
        ],
        "created_at": "2026-01-01T00:00:00Z", "started_at": None, "finished_at": None,
        "error": {"code": "not_ready", "message": "It did not answer.", "hint": "Read its log."},
        "expected_seconds": None,
    }  # fmt: skip


def test_an_agent_is_written_with_its_state() -> None:
    agent = Agent("a", "openclaw", "1", AgentState.ready, "a-abcdef", undo_version="0")
    written = wire.Agent.of(agent).model_dump(mode="json")
    assert (written["state"], written["undo_version"]) == ("ready", "0")


def test_a_job_is_active_until_it_has_ended() -> None:
    job = wire.Job.of(Job("j", "deploy", "agent:a", NOW))
    assert job.is_active
    assert not job.model_copy(update={"state": JobState.cancelled}).is_active
