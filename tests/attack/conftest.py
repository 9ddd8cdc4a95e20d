"""The attacks run against real servers (bench.common) and the real Incus of this machine."""

from tests.fakes.fixtures import *  # noqa: F403 - pytest finds fixtures by their names here
