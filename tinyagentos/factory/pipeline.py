"""Making an image: the story of the factory, from a recipe to a packed file."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tinyagentos.factory.budget import check_packed, check_unpacked
from tinyagentos.factory.build import TOOLS, carry_out, fetch_inputs, plan_build, remove_identity
from tinyagentos.factory.components import measure_root
from tinyagentos.factory.foreign import bring_loader, check_runs
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
from tinyagentos.factory.shrink import store_zips, strip_programs
from tinyagentos.factory.target import RootfsTarget
from tinyagentos.factory.trim import Saving, apply_trim, list_files, plan_trim, sum_up
from tinyagentos.host.facts import host_arch
from tinyagentos.model.errors import BuildFailed
from tinyagentos.model.recipe import DebianPart, Recipe, RecipeKind

Report = Callable[[str], None]


@dataclass(frozen=True)
class BuiltImage(PackedImage):
    """An image file, and what became of the bytes on the way to it.

    before_bytes, unpacked_bytes: the root before and after trimming.
    """

    before_bytes: int
    unpacked_bytes: int
    savings: tuple[Saving, ...]
    seconds: float


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
) -> BuiltImage:
    """Build the recipe on its base and pack it into the file out, its documents beside it.

    level: `release`, `fast` or `local` compression; `local` images are for this host only, and
    have neither documents nor a budget. held_to: the lock the build has to come out as. What was
    half-made is removed, whatever ends the build. Raises BuildFailed when a step fails, something
    is not as locked, or the image is over its budget (packed: with release compression only).
    """
    begun = time.monotonic()
    if held_to:
        check_lock_early(held_to, recipe, base, arch)
    host = host_arch()
    if arch != host:
        await check_runs(arch)
    async with build_folder(cache) as work:
        root = work / "rootfs"
        report("making the Debian base and fetching what the recipe needs")
        archives, _ = await asyncio.gather(
            fetch_inputs(recipe, arch, cache, tool_arch=host),
            make_rootfs(_debian(recipe, base), arch, root),
        )
        if arch == host:
            plan = plan_build(recipe, base)
        else:
            run_tool = bring_loader(host, root, f"{TOOLS}/lib")
            plan = plan_build(recipe, base, run_tool=run_tool, npm_arch=arch)
        await carry_out(plan, RootfsTarget(root), archives, report)
        await remove_identity(RootfsTarget(root))
        found = await asyncio.to_thread(read_inventory, root, recipe)
        lock = resolve_lock(recipe, base, arch, found)
        if held_to:
            check_lock(held_to, lock)
        before = await asyncio.to_thread(_weigh, root)
        savings = await trim(root, recipe, base, arch)
        after = await asyncio.to_thread(_weigh, root)
        report(f"trimmed {(before - after) / 1e6:.0f} of {before / 1e6:.0f} MB")
        report("packing")
        packed = await (pack if level == "local" else pack_within_budget)(
            work, recipe, arch, out, level=level
        )
    image = BuiltImage(
        **asdict(packed), before_bytes=before, unpacked_bytes=after, savings=savings,
        seconds=round(time.monotonic() - begun, 1),
    )  # fmt: skip
    if level != "local":
        write_documents(image, recipe, base, found, lock)
    return image


async def trim(root: Path, recipe: Recipe, base: Recipe, arch: str) -> tuple[Saving, ...]:
    """Remove what the rules of recipe and base name, and shrink what has to stay."""
    parts = (base,) if recipe.kind is RecipeKind.base else (base, recipe)
    files = await asyncio.to_thread(list_files, root)
    removals = plan_trim(files, [rule for part in parts for rule in part.trim], arch)
    await asyncio.to_thread(apply_trim, root, removals)
    return (
        *sum_up(removals),
        *await strip_programs(root, [glob for part in parts for glob in part.strip], arch),
        *await store_zips(root, [glob for part in parts for glob in part.store]),
    )


def _weigh(root: Path) -> int:
    """The bytes of the files below the root, each inode once."""
    sizes = {}
    for path, _ in list_files(root):
        state = (root / path.lstrip("/")).lstat()
        sizes[state.st_ino] = state.st_size
    return sum(sizes.values())


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
    image: BuiltImage, recipe: Recipe, base: Recipe, found: Inventory, lock: Lock
) -> None:
    """Have beside the image its lock, its SBOM, and what each trim rule saved."""
    # Half a second to import, and only makers of images need it.
    from tinyagentos.factory.sbom import render_sbom

    documents = {
        "lock.json": lock.render(),
        "cdx.json": render_sbom(recipe, base.debian.suite, found, lock, image.fingerprint),
        "build.json": json.dumps(
            asdict(replace(image, path=Path(image.path.name))), indent=2, default=str
        )
        + "\n",
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
