"""The recipes at work: the real Builder of the build path, and image files made and imported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from tinyagentos.config import Settings
from tinyagentos.factory.base import BaseMaker, ensure_base_image
from tinyagentos.factory.build import carry_out, fetch_inputs, plan_build, without_identity
from tinyagentos.factory.lock import read_lock
from tinyagentos.factory.pipeline import BuiltImage, make_image
from tinyagentos.factory.recipe import list_recipes, load_recipe
from tinyagentos.factory.target import InstanceTarget
from tinyagentos.host.facts import host_arch
from tinyagentos.images.importer import ImageFile, import_file
from tinyagentos.incus import Incus
from tinyagentos.model.agent import DEFAULT_FRAMEWORK
from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.image import INCUS_ARCH
from tinyagentos.model.recipe import Recipe, RecipeKind

Report = Callable[[str], None]
ONLINE_WITHIN = 30.0


def agent_recipes() -> Mapping[str, Recipe]:
    """Every framework that can be deployed, by name, in the order that people see."""
    return {recipe.name: recipe for recipe in in_order(map(load_recipe, list_recipes()))}


def in_order(recipes: Iterable[Recipe]) -> tuple[Recipe, ...]:
    """The agents among them: the default first, the others by title."""
    agents = (recipe for recipe in recipes if recipe.kind is RecipeKind.agent)
    return tuple(sorted(agents, key=lambda one: (one.name != DEFAULT_FRAMEWORK, one.title)))


class RecipeBuilder:
    """The build path's Builder: recipes carried out for real."""

    def __init__(self, incus: Incus, settings: Settings, arch: str, make_base: BaseMaker) -> None:
        self._incus = incus
        self._settings = settings
        self._arch = arch
        self._make_base = make_base
        self._base = asyncio.Lock()

    async def ensure_base(self, recipe: Recipe, report: Report) -> str:
        """Have the base in Incus; the recipe's downloads are done beside it."""
        async with self._base:
            fingerprint, _ = await asyncio.gather(
                ensure_base_image(
                    self._incus,
                    load_recipe(recipe.base),
                    self._arch,
                    server=self._settings.image_server,
                    make=self._make_base,
                    report=report,
                ),
                fetch_inputs(recipe, self._arch, self._settings.cache_dir),
            )
        return fingerprint

    async def build(self, recipe: Recipe, instance: str, report: Report) -> None:
        """Install the recipe in the running instance."""
        archives = await fetch_inputs(recipe, self._arch, self._settings.cache_dir)
        plan = plan_build(recipe, load_recipe(recipe.base))
        target = InstanceTarget(self._incus, instance)
        await target.wait_online(within=ONLINE_WITHIN)
        await carry_out(plan, target, archives, report)

    def without_identity(self, instance: str) -> AbstractAsyncContextManager[None]:
        """While inside, a snapshot of the running instance is nobody's in particular."""
        return without_identity(InstanceTarget(self._incus, instance))


async def build_image(
    name: str,
    arch: str,
    folder: Path,
    *,
    fast: bool,
    settings: Settings,
    report: Report,
    lock: Path | None = None,
) -> BuiltImage:
    """Make the framework's image file in the folder; lock: the file the build is held to."""
    arch = arch or host_arch()
    if arch not in INCUS_ARCH:
        raise InvalidInput(f"There is no architecture {arch[:20]!r}.", hint="Say x64 or arm64.")
    recipe = load_recipe(name)
    base = load_recipe(recipe.base) if recipe.base else recipe
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{recipe.name}-{recipe.version}-{arch}.tar.zst"
    level = "fast" if fast else "release"
    return await make_image(
        recipe,
        base,
        arch,
        out,
        cache=settings.cache_dir,
        level=level,
        report=report,
        held_to=read_lock(lock) if lock else None,
    )


async def import_image_file(path: Path, settings: Settings) -> ImageFile:
    """Have the file's image in this host's Incus."""
    async with Incus.unix(settings.incus_socket, project=settings.incus_project) as incus:
        return await import_file(path, incus)
