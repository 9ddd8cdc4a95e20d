"""taos image report and smoke: what an image weighs, and whether it does what it has to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from tinyagentos.cli.common import Json, need_root
from tinyagentos.cli.render import print_json, print_line, print_table, print_text
from tinyagentos.config import Settings
from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.smoke import Check, CheckState, raise_failed
from tinyagentos.visible import visible

TOP = 25
ImageArgument = Annotated[Path, typer.Argument(help="An image made by `taos image build`.")]


def report_image(
    file: ImageArgument,
    against: Annotated[
        Path | None,
        typer.Option(help="Image, saved --json report, or folder with one, to compare with."),
    ] = None,
    treemap: Annotated[
        Path | None, typer.Option(help="Draw a picture into this file: .svg or .html.")
    ] = None,
    markdown: Annotated[bool, typer.Option(help="Tables in Markdown, for a job summary.")] = False,
    top: Annotated[int, typer.Option(min=1, help="How many components to list.")] = TOP,
    as_json: Json = False,
) -> None:
    """What an image weighs, by component, and what changed against another one."""
    from tinyagentos.factory import report as weights

    draw = _drawer(treemap) if treemap else None
    weighed = weights.measure_image(file)
    before = weights.read_against(against, weighed) if against else None
    if treemap and draw:
        _write(treemap, visible(draw(weighed)))
    changes = weights.compare(before, weighed) if before else ()
    if as_json:
        document = json.loads(weighed.render())
        if before:
            document["changes"] = [vars(one) for one in changes]
        print_json(document)
        return
    if markdown:
        print_text(weights.render_markdown(weighed, before, top).rstrip())
        return
    print_line(weights.title(weighed))
    print_table(_upper(weights.HEADINGS), weights.component_rows(weighed, top), "Nothing inside.")
    print_line(weights.NOTE)
    if before:
        print_line("")
        print_line(f"against {weights.title(before)}")
        print_table(
            _upper(weights.CHANGE_HEADINGS), weights.change_rows(changes[:top]), "No change."
        )


def smoke_image(file: ImageArgument, as_json: Json = False) -> None:
    """Boot an image in a throw-away project, ask it one question, check what is inside."""
    need_root("Checking an image")
    checks = run_smoke(file, (lambda _: None) if as_json else print_line)
    if as_json:
        print_json({"checks": plain(checks)})
    raise_failed(checks, file.name)


def run_smoke(file: Path, say: Callable[[str], None]) -> tuple[Check, ...]:
    """Every check of the image, said as it ends."""
    from tinyagentos.agents import smoke

    checks = asyncio.run(smoke.smoke_image(file, Settings(), lambda check: say(line(check))))
    if skipped := [one for one in checks if one.state is CheckState.not_run]:
        say(f"{len(skipped)} of {len(checks)} checks could not be run here.")
    return checks


def line(check: Check) -> str:
    """The check as a row of a table that is printed as it comes about."""
    took = f"{check.seconds:.1f} s" if check.state is not CheckState.not_run else ""
    return f"{check.name:<36}{check.state:<9}{took:>7}  {check.detail}".rstrip()


def plain(checks: Iterable[Check]) -> list[dict[str, object]]:
    """The checks as JSON has them."""
    return [vars(one) for one in checks]


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror}.", hint="Name a file in a folder of yours."
        ) from error


def _upper(headings: Iterable[str]) -> tuple[str, ...]:
    return tuple(one.upper() for one in headings)


def _drawer(treemap: Path) -> Callable[..., str]:
    from tinyagentos.factory.treemap import render_html, render_svg

    drawers = {".svg": render_svg, ".html": render_html}
    if treemap.suffix not in drawers:
        raise InvalidInput(
            f"{treemap.name} is neither .svg nor .html.", hint="Name the picture so."
        )
    return drawers[treemap.suffix]
