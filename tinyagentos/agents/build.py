"""The build path's two acts: have a base image, carry a recipe out in a running instance."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from tinyagentos.model.recipe import Recipe

Report = Callable[[str], None]


class Builder(Protocol):
    """Carries recipes out; the tests' builder does it in no time."""

    async def ensure_base(self, recipe: Recipe, report: Report) -> str:
        """Have the fallback base in Incus, the recipe's downloads under way; its fingerprint."""
        ...

    async def build(self, recipe: Recipe, instance: str, report: Report) -> None:
        """Install the recipe in the running instance; BuildFailed when it does not work."""
        ...

    def without_identity(self, instance: str) -> AbstractAsyncContextManager[None]:
        """While inside, a snapshot of the running instance is nobody's in particular."""
        ...
