"""Making an image: the story of the factory, from a recipe to a packed file."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tinyagentos.factory.build import carry_out, fetch_inputs, plan_build, remove_identity
from tinyagentos.factory.isolation import build_folder
from tinyagentos.factory.pack import PackedImage, pack
from tinyagentos.factory.rootfs import make_rootfs
from tinyagentos.factory.shrink import store_zips, strip_programs
from tinyagentos.factory.target import RootfsTarget
from tinyagentos.factory.trim import Saving, apply_trim, list_files, plan_trim, sum_up
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
) -> BuiltImage:
    """Build the recipe on its base and pack it into the file out; `<name>.build.json` beside it.

    level: `release`, `fast` or `local` compression. What was half-made is removed, whatever ends
    the build. Raises BuildFailed when a step fails, or an image of release compression is over
    its budget.
    """
    begun = time.monotonic()
    async with build_folder(cache) as work:
        root = work / "rootfs"
        report("making the Debian base and fetching what the recipe needs")
        archives, _ = await asyncio.gather(
            fetch_inputs(recipe, arch, cache), make_rootfs(_debian(recipe, base), arch, root)
        )
        await carry_out(plan_build(recipe, base), RootfsTarget(root), archives, report)
        await remove_identity(RootfsTarget(root))
        before = await asyncio.to_thread(_weigh, root)
        savings = await trim(root, recipe, base, arch)
        after = await asyncio.to_thread(_weigh, root)
        report(f"trimmed {(before - after) / 1e6:.0f} of {before / 1e6:.0f} MB")
        report("packing")
        packed = await pack(work, recipe, arch, out, level=level)
    image = BuiltImage(
        **asdict(packed), before_bytes=before, unpacked_bytes=after, savings=savings,
        seconds=round(time.monotonic() - begun, 1),
    )  # fmt: skip
    if level == "release":
        check_budget(recipe, image)
    write_report(image)
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


def check_budget(recipe: Recipe, image: BuiltImage) -> None:
    """Return when the image keeps to the recipe's budget, else remove it and raise BuildFailed."""
    for words, size, most in (
        ("", image.size_bytes, recipe.budget.packed_bytes),
        (" unpacked", image.unpacked_bytes, recipe.budget.unpacked_bytes),
    ):
        if most and size > most:
            image.path.unlink()
            raise BuildFailed(
                f"The image has {size / 1e6:.1f} MB{words}; its budget is {most / 1e6:.1f} MB.",
                hint="Trim more, or raise the budget in the recipe with a reason.",
            )


def write_report(image: BuiltImage) -> None:
    """Keep beside the image what each rule saved."""
    name = image.path.name.removesuffix(".tar.zst")
    text = json.dumps(asdict(image), indent=2, default=str)
    image.path.with_name(f"{name}.build.json").write_text(text + "\n")


def _weigh(root: Path) -> int:
    """The bytes of the files below the root, each inode once."""
    sizes = {}
    for path, _ in list_files(root):
        state = (root / path.lstrip("/")).lstat()
        sizes[state.st_ino] = state.st_size
    return sum(sizes.values())


def _debian(recipe: Recipe, base: Recipe) -> DebianPart:
    return DebianPart(
        suite=base.debian.suite,
        packages=tuple(sorted({*base.debian.packages, *recipe.debian.packages})),
        path_rules=(*base.debian.path_rules, *recipe.debian.path_rules),
    )
