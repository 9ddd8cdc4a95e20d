"""Trimming a root by named rules: plan what goes, then remove it, and say what each rule saved."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyagentos.model.errors import BuildFailed
from tinyagentos.model.globs import pattern
from tinyagentos.model.recipe import TrimRule


@dataclass(frozen=True)
class Removal:
    """One file that goes, and the rule that says so."""

    path: str
    rule: str
    size_bytes: int


@dataclass(frozen=True)
class Saving:
    """What one rule did: the bytes of the files it took hold of, before and after."""

    rule: str
    files: int
    before_bytes: int
    after_bytes: int = 0


# Folders of programs and their parts; elsewhere an empty one may be waited for (/var/log/apt).
MAY_VANISH = ("/opt/", "/usr/")


def plan_trim(
    files: Iterable[tuple[str, int]], rules: Sequence[TrimRule], arch: str = ""
) -> tuple[Removal, ...]:
    """The files (absolute path, size) that the rules remove; the first rule that matches counts.

    Raises BuildFailed when a rule matches nothing and is not optional: it has gone stale.
    """
    used = [rule for rule in rules if not rule.only_arch or rule.only_arch == arch]
    removals = []
    for path, size in files:
        rule = next((rule for rule in used if _matches(path, rule)), None)
        if rule:
            removals.append(Removal(path, rule.name, size))
    matched = {removal.rule for removal in removals}
    for rule in used:
        if rule.name not in matched and not rule.optional:
            raise BuildFailed(
                f"The trim rule {rule.name!r} matches nothing any more.",
                hint="Correct its paths in the recipe, or remove it.",
            )
    return tuple(removals)


def sum_up(removals: Iterable[Removal]) -> tuple[Saving, ...]:
    """What each rule saves, in the order in which the rules first match."""
    sizes: dict[str, list[int]] = {}
    for removal in removals:
        sizes.setdefault(removal.rule, []).append(removal.size_bytes)
    return tuple(Saving(rule, len(found), sum(found)) for rule, found in sizes.items())


def list_files(root: Path) -> list[tuple[str, int]]:
    """Every file and link below the root as an absolute path inside it, with its size."""
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 - tens of thousands of files
            found.append((path[len(str(root)) :], os.lstat(path).st_size))
    return found


def apply_trim(root: Path, removals: Iterable[Removal]) -> None:
    """Remove the planned files, and folders of programs that are empty without them."""
    emptied = set()
    for removal in removals:
        file = root / removal.path.lstrip("/")
        file.unlink(missing_ok=True)
        if removal.path.startswith(MAY_VANISH):
            emptied.add(file.parent)
    for folder in emptied:
        with contextlib.suppress(OSError):  # not empty: here it ends
            while folder.relative_to(root).parts[1:]:
                folder.rmdir()
                folder = folder.parent


def matches(path: str, globs: Iterable[str]) -> bool:
    """Whether one of the globs names the path."""
    return any(pattern(glob).fullmatch(path) for glob in globs)


def _matches(path: str, rule: TrimRule) -> bool:
    return matches(path, rule.paths) and not matches(path, rule.keep)
