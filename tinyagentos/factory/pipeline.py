"""Making an image: the story of the factory, from a recipe to a packed file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from tinyagentos.factory.build import carry_out, fetch_inputs, plan_build, remove_identity
from tinyagentos.factory.isolation import build_folder
from tinyagentos.factory.pack import PackedImage, pack
from tinyagentos.factory.rootfs import make_rootfs
from tinyagentos.factory.target import RootfsTarget
from tinyagentos.factory.trim import apply_trim, list_files, plan_trim
from tinyagentos.model.errors import BuildFailed
from tinyagentos.model.recipe import DebianPart, Recipe, RecipeKind

Report = Callable[[str], None]


async def make_image(
    recipe: Recipe,
    base: Recipe,
    arch: str,
    out: Path,
    *,
    cache: Path,
    level: str,
    report: Report,
) -> PackedImage:
    """Build the recipe on its base and pack it into the file out.

    level: `release`, `fast` or `local` compression. What was half-made is removed, whatever ends
    the build. Raises BuildFailed when a step fails, or an image of release compression is over
    its budget.
    """
    async with build_folder(cache) as work:
        root = work / "rootfs"
        report("making the Debian base and fetching what the recipe needs")
        archives, _ = await asyncio.gather(
            fetch_inputs(recipe, arch, cache), make_rootfs(_debian(recipe, base), arch, root)
        )
        await carry_out(plan_build(recipe, base), RootfsTarget(root), archives, report)
        await remove_identity(RootfsTarget(root))
        await trim(root, recipe, base, arch, report)
        report("packing")
        image = await pack(work, recipe, arch, out, level=level)
    if level == "release":
        check_budget(recipe, image)
    return image


async def trim(root: Path, recipe: Recipe, base: Recipe, arch: str, report: Report) -> None:
    """Remove what the rules of recipe and base name."""
    rules = base.trim if recipe.kind is RecipeKind.base else (*base.trim, *recipe.trim)
    files = await asyncio.to_thread(list_files, root)
    removals = plan_trim(files, rules, arch)
    await asyncio.to_thread(apply_trim, root, removals)
    before, saved = sum(size for _, size in files), sum(one.size_bytes for one in removals)
    report(f"trimmed {saved / 1e6:.0f} of {before / 1e6:.0f} MB")


def check_budget(recipe: Recipe, image: PackedImage) -> None:
    """Return when the image keeps to the recipe's budget, else raise BuildFailed."""
    most = recipe.budget.packed_bytes
    if most and image.size_bytes > most:
        image.path.unlink()
        raise BuildFailed(
            f"The image has {image.size_bytes / 1e6:.1f} MB; its budget is {most / 1e6:.1f} MB.",
            hint="Trim more, or raise the budget in the recipe with a reason.",
        )


def _debian(recipe: Recipe, base: Recipe) -> DebianPart:
    return DebianPart(
        suite=base.debian.suite,
        packages=tuple(sorted({*base.debian.packages, *recipe.debian.packages})),
        path_rules=(*base.debian.path_rules, *recipe.debian.path_rules),
    )
