"""A picture of an image: each component is a rectangle as large as its part of the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from tinyagentos.factory.report import (
    GROUPS,
    HEADINGS,
    NOTE,
    Component,
    ImageReport,
    component_rows,
    title,
)

LEGEND = f"Area: part of the image file. Numbers: MB packed / MB unpacked. {NOTE}"
WIDTH, HEIGHT = 1280.0, 800.0
MARGIN, TOP, HEAD = 12.0, 64.0, 20.0
# A component below this part of the picture would be a line without a name.
LEAST_SHARE = 0.0012
GLYPH = 0.6  # width of a character, in font sizes
# Fill by group, light and dark: one hue each, so that the groups tell apart in print as well.
COLOURS = {
    "debian": ("#e4b7c3", "#7d3b4f"),
    "npm": ("#b9d2ee", "#2f557f"),
    "node": ("#bfe0b8", "#3a6a35"),
    "python": ("#f3df9f", "#75621d"),
    "taos": ("#d3c4ec", "#5a4789"),
    "caches": ("#f0c9a2", "#83562a"),
    "other": ("#d5d8db", "#53585e"),
}
STYLE = """\
svg{font-family:system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
.page{fill:#fff}.ink{fill:#16191d}.soft{fill:#4a5058}rect{stroke:#fff;stroke-width:1}
"""
DARK = ".page{fill:#14171a}.ink{fill:#f2f4f6}.soft{fill:#b9c0c8}rect{stroke:#14171a}"
PAGE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body{{margin:1rem;font-family:system-ui,sans-serif;background:Canvas;color:CanvasText}}
svg{{width:100%;height:auto}}table{{border-collapse:collapse;font-size:.85rem}}
td,th{{padding:.15rem .8rem;text-align:right}}td:first-child,th:first-child{{text-align:left}}
tr:nth-child(even) td{{background:color-mix(in srgb,CanvasText 6%,Canvas)}}</style></head>
<body>{svg}
<table><thead><tr>{heads}</tr></thead><tbody>
{rows}
</tbody></table></body></html>
"""


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture."""

    x: float
    y: float
    width: float
    height: float


def squarify(weights: Sequence[float], box: Box) -> tuple[Box, ...]:
    """A rectangle for each weight, largest first, that fill the box and are near to squares.

    Rows are filled along the shorter side for as long as that makes their worst rectangle no
    longer (Bruls, Huizing and van Wijk, "Squarified Treemaps", 2000).
    """
    boxes: list[Box] = []
    rest = list(weights)
    while rest:
        scale = box.width * box.height / sum(rest) if sum(rest) else 0.0
        side = min(box.width, box.height)
        count = 1
        while count < len(rest) and _worst(rest[: count + 1], side, scale) <= _worst(
            rest[:count], side, scale
        ):
            count += 1
        row, rest = rest[:count], rest[count:]
        placed, box = _place(row, box, scale)
        boxes += placed
    return tuple(boxes)


def _worst(row: Sequence[float], side: float, scale: float) -> float:
    """How long the longest rectangle of the row is, as the ratio of its sides."""
    area = sum(row) * scale
    if not area or not side or not row[-1]:
        return float("inf")
    return max(
        max(side * side * one * scale / area**2, area**2 / (side * side * one * scale))
        for one in (row[0], row[-1])
    )


def _place(row: Sequence[float], box: Box, scale: float) -> tuple[list[Box], Box]:
    """The row along the box's shorter side, and what is left of the box."""
    upright = box.width >= box.height
    side = box.height if upright else box.width
    deep = sum(row) * scale / side if side else 0.0
    placed, at = [], 0.0
    for one in row:
        long = one * scale / deep if deep else 0.0
        placed.append(
            Box(box.x, box.y + at, deep, long) if upright else Box(box.x + at, box.y, long, deep)
        )
        at += long
    if upright:
        return placed, Box(box.x + deep, box.y, max(0.0, box.width - deep), box.height)
    return placed, Box(box.x, box.y + deep, box.width, max(0.0, box.height - deep))


def render_svg(report: ImageReport) -> str:
    """The picture by packed size; it asks for nothing outside itself, and follows dark mode."""
    light = "".join(f".{name}{{fill:{one[0]}}}" for name, one in COLOURS.items())
    dark = "".join(f".{name}{{fill:{one[1]}}}" for name, one in COLOURS.items())
    area = Box(MARGIN, TOP, WIDTH - 2 * MARGIN, HEIGHT - TOP - MARGIN)
    groups = [one for one in report.groups if one.packed_bytes]
    boxes = squarify([float(one.packed_bytes) for one in groups], area)
    drawn = "".join(
        part
        for group, box in zip(groups, boxes, strict=True)
        for part in _group(group, box, report)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" '
        f'role="img" aria-label="{escape(title(report))}">'
        f"<style>{STYLE}{light}@media (prefers-color-scheme:dark){{{DARK}{dark}}}</style>"
        f'<rect class="page" width="{WIDTH:.0f}" height="{HEIGHT:.0f}"/>'
        + _text(MARGIN, 28, 20, title(report), "ink", bold=True)
        + _text(MARGIN, 50, 13, LEGEND,
                "soft")
        + drawn
        + "</svg>\n"
    )  # fmt: skip


def render_html(report: ImageReport) -> str:
    """A page with the picture and the table of every component."""
    heads = "".join(f"<th>{escape(one)}</th>" for one in HEADINGS)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in component_rows(report, len(report.components))
    )
    return PAGE.format(title=escape(title(report)), svg=render_svg(report), heads=heads, rows=rows)


def _group(group: Component, box: Box, report: ImageReport) -> Iterator[str]:
    """The group's frame with its name, and its components inside."""
    name = GROUPS.get(group.name, group.name)
    colour = group.name if group.name in COLOURS else "other"
    yield _rect(box, colour, f"{name}: {_sizes(group)}")
    inner = box
    if box.width > 90 and box.height > 2 * HEAD:
        line = _fit(f"{name}  {_sizes(group)}", box.width - 10, 13)
        yield _text(box.x + 5, box.y + 15, 13, line, "ink", bold=True)
        inner = Box(box.x + 2, box.y + HEAD, box.width - 4, box.height - HEAD - 2)
    parts = _parts(group, report)
    if len(parts) == 1:
        return
    weights = [float(one.packed_bytes) for one in parts]
    for one, place in zip(parts, squarify(weights, inner), strict=True):
        yield _rect(place, colour, f"{one.name}: {_sizes(one)}")
        yield from _label(one, place)


def _parts(group: Component, report: ImageReport) -> list[Component]:
    """The group's components, the largest first; those too small to see are one."""
    own = [one for one in report.components if one.group == group.name and one.packed_bytes]
    least = LEAST_SHARE * report.packed_bytes
    shown = [one for one in own if one.packed_bytes >= least]
    small = [one for one in own if one.packed_bytes < least]
    if small:
        rest = Component(
            f"{len(small)} smaller ones",
            sum(one.files for one in small),
            sum(one.unpacked_bytes for one in small),
            sum(one.packed_bytes for one in small),
        )
        shown = sorted([*shown, rest], key=lambda one: -one.packed_bytes)
    return shown


def _label(one: Component, box: Box) -> Iterator[str]:
    """Name and sizes, as large as the rectangle allows; nothing where they could not be read."""
    name = one.name.partition(":")[2] or one.name
    size = min(15.0, box.height / 2.2, (box.width - 6) / (GLYPH * min(len(name), 8)))
    if size < 8:
        return
    size = max(9.0, min(size, max(9.0, (box.width - 6) / (GLYPH * len(name)))))
    fitted = _fit(name, box.width - 6, size)
    yield _text(box.x + 4, box.y + size + 2, size, fitted, "ink")
    below = min(size, 12.0)
    if box.height > size + below + 8:
        sizes = _fit(_sizes(one), box.width - 6, below)
        if not sizes.endswith("…"):
            yield _text(box.x + 4, box.y + size + below + 5, below, sizes, "soft")


def _fit(text: str, width: float, size: float) -> str:
    """The text, cut where it would leave the width."""
    most = int(width / (GLYPH * size))
    return text if len(text) <= most else f"{text[: max(0, most - 1)]}…"


def _sizes(one: Component) -> str:
    return f"{one.packed_bytes / 1e6:.1f} / {one.unpacked_bytes / 1e6:.1f}"


def _rect(box: Box, colour: str, tip: str) -> str:
    return (
        f'<rect class="{colour}" x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}"><title>{escape(tip)}</title></rect>'
    )


def _text(x: float, y: float, size: float, text: str, ink: str, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text class="{ink}" x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}"{weight} '
        f'pointer-events="none">{escape(text)}</text>'
    )
