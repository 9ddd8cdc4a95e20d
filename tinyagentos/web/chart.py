"""What an agent took while somebody looked, as two small lines."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tinyagentos.model.provider import Usage as Used
from tinyagentos.web.feed import LOOK_EVERY, Usage
from tinyagentos.web.markup import bar, el
from tinyagentos.web.words import memory, seconds

WIDTH, HEIGHT = 300, 48
FEWEST = 3


def render_usage_lines(samples: Sequence[Usage], limit: int | None) -> Markup | None:
    """Memory and processor over the latest samples; None while there are too few."""
    if len(samples) < FEWEST:
        return None
    span = seconds((len(samples) - 1) * LOOK_EVERY)
    used = [one.memory_bytes for one in samples]
    busy = [one.cpu or 0.0 for one in samples]
    most = max(busy)
    return el(
        "div",
        _line("Memory", used, float(limit or max(used)), f"most {memory(max(used))}", span),
        _line("Processor", busy, max(1.0, most), f"most {most * 100:.0f} %", span),
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
    step = WIDTH / (len(values) - 1)
    return " ".join(
        f"{number * step:.1f},{HEIGHT - 2 - (HEIGHT - 4) * min(1.0, value / (top or 1)):.1f}"
        for number, value in enumerate(values)
    )
