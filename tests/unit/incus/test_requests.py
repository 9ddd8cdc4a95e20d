"""What the client would send, as whole values."""

from __future__ import annotations

from tinyagentos.incus import InstanceRequest
from tinyagentos.incus.exec import Command


def test_an_instance_of_an_image() -> None:
    request = InstanceRequest(
        "x",
        image="f" * 64,
        config={"user.a": "1"},
        devices={"root": {"type": "disk"}},
        profiles=("default", "agent"),
        description="d",
    )
    assert request.body(start=True) == {
        "name": "x",
        "type": "container",
        "source": {"type": "image", "fingerprint": "f" * 64},
        "config": {"user.a": "1"},
        "devices": {"root": {"type": "disk"}},
        "profiles": ["default", "agent"],
        "description": "d",
        "ephemeral": False,
        "start": True,
    }


def test_the_sources_of_an_instance() -> None:
    assert InstanceRequest("x", alias="a").source() == {"type": "image", "alias": "a"}
    assert InstanceRequest("x").source() == {"type": "none"}
    assert InstanceRequest("x", copy_of="y/s").source() == {
        "type": "copy",
        "source": "y/s",
        "instance_only": True,
    }


def test_incuss_own_profile_is_asked_for_by_saying_nothing() -> None:
    assert "profiles" not in InstanceRequest("x").body(start=False)
    assert InstanceRequest("x", profiles=()).body(start=False)["profiles"] == []


def test_a_command_on_a_terminal() -> None:
    assert Command(("sh",), terminal=(80, 24)).body() == {
        "command": ["sh"],
        "environment": {},
        "user": 0,
        "group": 0,
        "cwd": "",
        "wait-for-websocket": True,
        "interactive": True,
        "width": 80,
        "height": 24,
    }
