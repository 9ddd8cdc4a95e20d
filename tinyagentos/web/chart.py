"""What an agent took in the last day, as two small lines, and of models by month as bars."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from markupsafe import Markup

from tinyagentos.model.provider import Usage as Used
from tinyagentos.web.history import EVERY, Taken
from tinyagentos.web.markup import bar, el
from tinyagentos.web.words import memory, seconds

WIDTH, HEIGHT = 300, 48
FEWEST, MOST = 3, 120


def render_usage_lines(taken: Taken | None, limit: int | None) -> Markup | None:
    """Memory and processor over the latest minutes; None while there are too few."""
    if taken is None or len(taken.cpu) < FEWEST:
        return None
    span = seconds((len(taken.cpu) - 1) * EVERY)
    used = [kib << 10 for kib in taken.memory_kib]
    busy = max(taken.cpu)
    return el(
        "div",
        _line("Memory", used, float(limit or max(used)), f"most {memory(max(used))}", span),
        _line("Processor", taken.cpu, max(1.0, busy), f"most {busy * 100:.0f} %", span),
        class_="lines",
    )


def render_months(months: Sequence[tuple[str, Used]]) -> Markup | str:
    """Tokens by month as bars; nothing for less than two months."""
    if len(months) < 2:
        return ""
    most = max(one.tokens for _, one in months) or 1
    return el(
        "ul",
        *(
            el(
                "li",
                el("span", month),
                el("span", f"{one.tokens} tokens", class_="num"),
                el("span", f"{one.requests} asked", class_="quiet small"),
                bar(one.tokens / most, f"{one.tokens} tokens in {month}"),
            )
            for month, one in months
        ),
        class_="history",
        aria_label="Tokens by month",
    )


def _line(title: str, values: Sequence[float], top: float, most: str, span: str) -> Markup:
    said = f"{title} in the last {span}: {most}"
    return el(
        "figure",
        el(
            "svg",
            el("polyline", points=_points(values, top)),
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            preserveAspectRatio="none",
            role="img",
            aria_label=said,
        ),
        el("figcaption", said, class_="quiet small"),
    )


def _points(values: Sequence[float], top: float) -> str:
    """The values from left to right, top at the upper edge."""
    shown = thin(values, MOST)
    step = WIDTH / (len(shown) - 1)
    return " ".join(
        f"{number * step:.1f},{HEIGHT - 2 - (HEIGHT - 4) * min(1.0, value / (top or 1)):.1f}"
        for number, value in enumerate(shown)
    )


def thin(values: Sequence[float], most: int) -> list[float]:
    """At most so many values: the largest of each few, so that no peak is lost."""
    few = ceil(len(values) / most)
    return [max(values[start : start + few]) for start in range(0, len(values), few)]
