"""A real image, built once for all tests that want one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tinyagentos.agents.recipes import build_image
from tinyagentos.config import Settings


@pytest.fixture(scope="session")
def built_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of OpenClaw for this machine, with fast compression."""
    folder = tmp_path_factory.mktemp("image")
    settings = Settings(data_dir=folder / "data")
    built = asyncio.run(
        build_image("openclaw", "", folder, fast=True, settings=settings, report=lambda _: None)
    )
    return built.path
