"""The acts: each a frozen value that says what is asked for, and one function that does it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

from tinyagentos.config import Settings
from tinyagentos.factory.base import make_base_here
from tinyagentos.factory.recipe import list_recipes, load_recipe
from tinyagentos.host.checks import CHECKS
from tinyagentos.host.setup import mend_check
from tinyagentos.incus import Incus
from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.image import INCUS_ARCH
from tinyagentos.model.recipe import RecipeKind

Report = Callable[[str], None]
PROJECT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Act(Protocol):
    """Something that needs root. name: its name in a request; within: seconds it may take."""

    name: ClassVar[str]
    within: ClassVar[float]

    async def do(self, settings: Settings, report: Report) -> str:
        """Do it and return its result; TaosError when it does not work."""
        ...


@dataclass(frozen=True)
class MakeBase:
    """Make the Debian base of a recipe on this host and have it in the Incus project.

    The result is its fingerprint. InvalidInput for what is no base, architecture or project name.
    """

    recipe: str
    arch: str
    project: str
    name: ClassVar[str] = "make-base"
    within: ClassVar[float] = 3600.0

    async def do(self, settings: Settings, report: Report) -> str:
        """Make the base from the recipe that taOS ships."""
        if self.recipe not in list_recipes() or self.arch not in INCUS_ARCH:
            raise InvalidInput(f"There is no base {self.recipe[:40]!r} for {self.arch[:20]!r}.")
        base = load_recipe(self.recipe)
        if base.kind is not RecipeKind.base or not PROJECT.fullmatch(self.project):
            raise InvalidInput(f"No base can be made of {self.recipe} for {self.project[:40]!r}.")
        async with Incus.unix(settings.incus_socket, project=self.project) as incus:
            return await make_base_here(incus, base, self.arch, report, cache=settings.cache_dir)


@dataclass(frozen=True)
class MendCheck:
    """Make one of the checks of `taos doctor` pass: packages, pool, bridge, and so on."""

    check: str
    name: ClassVar[str] = "mend-check"
    within: ClassVar[float] = 1800.0

    async def do(self, settings: Settings, report: Report) -> str:
        """Mend the check, as `taos setup` does."""
        found = next((one for one in CHECKS if one.name == self.check), None)
        if found is None:
            raise InvalidInput(f"There is no check {self.check[:40]!r}.")
        await mend_check(settings, found, report=report)
        return ""


ACTS: Mapping[str, type[MakeBase] | type[MendCheck]] = {
    one.name: one for one in (MakeBase, MendCheck)
}


def parse_act(asked: object) -> Act:
    """The act that a request asks for; InvalidInput unless it is on the list, with all it needs."""
    given: dict[str, Any] = dict(asked) if isinstance(asked, dict) else {}
    kind = ACTS.get(str(given.pop("act", "")))
    if kind is None:
        raise InvalidInput("There is no such act.", hint=f"There are: {', '.join(ACTS)}.")
    wanted = {field.name for field in fields(kind)}
    if set(given) != wanted or not all(isinstance(value, str) for value in given.values()):
        raise InvalidInput(f"{kind.name} takes {', '.join(sorted(wanted))}, each a text.")
    return kind(**given)
