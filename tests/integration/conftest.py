"""Every test here runs on the fake, and on the real Incus where the marker `incus` is selected."""

from tests.fakes.fixtures import *  # noqa: F403 - pytest finds fixtures by their names here
