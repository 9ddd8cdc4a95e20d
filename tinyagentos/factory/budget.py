"""Holding an image to its recipe's budget, and saying which components made it too heavy."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from tinyagentos.model.errors import BuildFailed
from tinyagentos.model.recipe import Budget

NAMED = 3
HINT = "Trim more, or raise the budget in the recipe with a reason."


def check_unpacked(budget: Budget, sizes: Mapping[str, int]) -> None:
    """Return when the components (name, bytes) keep to the budget, else raise BuildFailed."""
    total, most = sum(sizes.values()), budget.unpacked_bytes
    over = plan_excess(budget, sizes)
    if most and total > most:
        raise BuildFailed(
            f"The image has {_mb(total)} unpacked; its budget is {_mb(most)}. "
            f"{_blame(over, sizes)}",
            hint=HINT,
        )
    if over:
        raise BuildFailed(f"Over budget: {_list_excess(over)}.", hint=HINT)


def check_packed(budget: Budget, packed_bytes: int, sizes: Mapping[str, int]) -> None:
    """Return when the image file keeps to the budget, else raise BuildFailed."""
    most = budget.packed_bytes
    if most and packed_bytes > most:
        raise BuildFailed(
            f"The image has {_mb(packed_bytes)}; its budget is {_mb(most)}. "
            f"{_blame(plan_excess(budget, sizes), sizes)}",
            hint=HINT,
        )


def plan_excess(budget: Budget, sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """The rows of the budget that are exceeded, as (bytes, budget), the worst first.

    A row is the sum of the components that its pattern matches.
    """
    found = {
        name: (sum(size for one, size in sizes.items() if fnmatchcase(one, name)), most)
        for name, most in budget.components.items()
    }
    over = {name: row for name, row in found.items() if row[0] > row[1]}
    return dict(sorted(over.items(), key=lambda row: row[1][1] - row[1][0]))


def _blame(over: Mapping[str, tuple[int, int]], sizes: Mapping[str, int]) -> str:
    if over:
        return f"Grown most: {_list_excess(over)}."
    largest = sorted(sizes.items(), key=lambda row: -row[1])[:NAMED]
    named = ", ".join(f"{name} {_mb(size)}" for name, size in largest)
    return f"No component exceeds a budget of its own; the largest: {named}."


def _list_excess(over: Mapping[str, tuple[int, int]]) -> str:
    rows = list(over.items())[:NAMED]
    return ", ".join(
        f"{name} {_mb(size)} ({_mb(size - most)} over its {_mb(most)})"
        for name, (size, most) in rows
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
