"""Making an image: the story of the factory, from a recipe to a packed file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from tinyagentos.factory.budget import check_packed, check_unpacked
from tinyagentos.factory.build import carry_out, fetch_inputs, plan_build, remove_identity
from tinyagentos.factory.components import measure_root
from tinyagentos.factory.inventory import Inventory, read_inventory
from tinyagentos.factory.isolation import build_folder
from tinyagentos.factory.lock import (
    Lock,
    beside,
    check_lock,
    check_lock_early,
    resolve_lock,
)
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
    held_to: Lock | None = None,
) -> PackedImage:
    """Build the recipe on its base and pack it into the file out, its lock and SBOM beside it.

    level: `release`, `fast` or `local` compression; `local` images are for this host only, and
    have neither documents nor a budget. held_to: the lock the build has to come out as. What was
    half-made is removed, whatever ends the build. Raises BuildFailed when a step fails, something
    is not as locked, or the image is over its budget (packed: with release compression only).
    """
    if held_to:
        check_lock_early(held_to, recipe, base, arch)
    async with build_folder(cache) as work:
        root = work / "rootfs"
        report("making the Debian base and fetching what the recipe needs")
        archives, _ = await asyncio.gather(
            fetch_inputs(recipe, arch, cache), make_rootfs(_debian(recipe, base), arch, root)
        )
        await carry_out(plan_build(recipe, base), RootfsTarget(root), archives, report)
        await remove_identity(RootfsTarget(root))
        found = await asyncio.to_thread(read_inventory, root, recipe.npm)
        lock = resolve_lock(recipe, base, arch, found)
        if held_to:
            check_lock(held_to, lock)
        await trim(root, recipe, base, arch, report)
        report("packing")
        if level == "local":
            return await pack(work, recipe, arch, out, level=level)
        image = await pack_within_budget(work, recipe, arch, out, level=level)
    write_documents(image, recipe, base, found, lock)
    return image


async def trim(root: Path, recipe: Recipe, base: Recipe, arch: str, report: Report) -> None:
    """Remove what the rules of recipe and base name."""
    rules = base.trim if recipe.kind is RecipeKind.base else (*base.trim, *recipe.trim)
    files = await asyncio.to_thread(list_files, root)
    removals = plan_trim(files, rules, arch)
    await asyncio.to_thread(apply_trim, root, removals)
    before, saved = sum(size for _, size in files), sum(one.size_bytes for one in removals)
    report(f"trimmed {saved / 1e6:.0f} of {before / 1e6:.0f} MB")


async def pack_within_budget(
    work: Path, recipe: Recipe, arch: str, out: Path, *, level: str
) -> PackedImage:
    """Pack `work/rootfs`; BuildFailed, and no file, when it is over the recipe's budget."""
    sizes = await asyncio.to_thread(measure_root, work / "rootfs")
    check_unpacked(recipe.budget, sizes)
    image = await pack(work, recipe, arch, out, level=level)
    if level == "release":
        try:
            check_packed(recipe.budget, image.size_bytes, sizes)
        except BuildFailed:
            image.path.unlink()
            raise
    return image


def write_documents(
    image: PackedImage, recipe: Recipe, base: Recipe, found: Inventory, lock: Lock
) -> None:
    """Have the image's lock and SBOM beside it."""
    # Half a second to import, and only makers of images need it.
    from tinyagentos.factory.sbom import render_sbom

    documents = {
        "lock.json": lock.render(),
        "cdx.json": render_sbom(recipe, base.debian.suite, found, lock, image.fingerprint),
    }
    for kind, text in documents.items():
        part = beside(image.path, f"{kind}.part")
        part.write_text(text)
        part.replace(beside(image.path, kind))


def _debian(recipe: Recipe, base: Recipe) -> DebianPart:
    return DebianPart(
        suite=base.debian.suite,
        packages=tuple(sorted({*base.debian.packages, *recipe.debian.packages})),
        path_rules=(*base.debian.path_rules, *recipe.debian.path_rules),
    )
