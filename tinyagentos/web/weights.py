"""What an image weighs by component, as a picture and a table."""

from __future__ import annotations

import json

from markupsafe import Markup

from tinyagentos.images.weigh import Weight
from tinyagentos.model.image import ImageRow
from tinyagentos.web import words
from tinyagentos.web.markup import el

HEAVIEST = 12


def render_weight(row: ImageRow, weight: Weight) -> Markup:
    """What is in the image: the picture, and the heaviest parts in words."""
    report = json.loads(weight.report.read_text())
    heaviest = sorted(report["components"], key=lambda one: -one["packed_bytes"])[:HEAVIEST]
    rows = (
        el("tr", el("td", one["name"].partition(":")[2] or one["name"]),
           el("td", words.size(one["packed_bytes"]), class_="num"),
           el("td", words.size(one["unpacked_bytes"]), class_="num"))
        for one in heaviest
    )  # fmt: skip
    heads = el("tr", *(el("th", name, scope="col") for name in ("Part", "Packed", "Unpacked")))
    total = f"{words.size(report['packed_bytes'])}, {words.size(report['unpacked_bytes'])} unpacked"
    return el(
        "details",
        el("summary", f"What is in it: {total}"),
        el("img", src=f"/images/weights/{row.fingerprint}.svg", class_="picture",
           alt=f"The parts of {row.framework} by size; the heaviest are in the table below"),
        el("table", el("thead", heads), el("tbody", *rows), class_="table"),
    )  # fmt: skip
