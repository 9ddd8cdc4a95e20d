"""taos help: the documents of the project, and every command's own help, in the terminal."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown
from typer.core import TyperGroup

from tinyagentos.cli import screen
from tinyagentos.cli.common import Json
from tinyagentos.cli.render import print_json, print_table
from tinyagentos.model.errors import InvalidInput

PACKAGE = Path(__file__).parent.parent
# In an installed package, and in a checkout.
FOLDERS = (PACKAGE / "docs", PACKAGE.parent / "docs")
# In the order a person meets them.
TOPICS = ("install", "first-agent", "models", "network", "backup", "images", "web",
          "troubleshooting", "maintainer", "publishing", "reference", "api")  # fmt: skip
WIDEST = 100
PICTURE = re.compile(r"^!\[.*\]\(.*\)\n+", re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("help")(show_help)


def show_help(
    context: typer.Context,
    about: Annotated[
        list[str] | None, typer.Argument(help="A topic, or a command such as `agent deploy`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Explain a topic or a command; without one, list the topics."""
    words = about or []
    if not words:
        listed = {name: title_of(find_topic(name)) for name in TOPICS}
        if as_json:
            print_json(dict(listed))
        else:
            print_table(("TOPIC", "ABOUT"), listed.items(), "")
    elif len(words) == 1 and words[0] in TOPICS:
        text = find_topic(words[0]).read_text()
        print_json({"topic": words[0], "text": text}) if as_json else show_markdown(text)
    else:
        text = command_help(words, context)
        print_json({"command": " ".join(words), "text": text}) if as_json else screen.write(text)


def find_topic(name: str) -> Path:
    """The topic's page."""
    pages = (folder / f"{name}.md" for folder in FOLDERS)
    if page := next((one for one in pages if one.is_file()), None):
        return page
    raise InvalidInput(
        f"The page {name} is not on this host.", hint="It is in the folder `docs` of the project."
    )


def title_of(page: Path) -> str:
    """The page's first heading."""
    return page.read_text().partition("\n")[0].lstrip("# ")


def show_markdown(text: str) -> None:
    """The page for a terminal, in a pager where there is one; as it is in a pipe."""
    if not sys.stdout.isatty():
        screen.write(text)
        return
    width = min(screen.Screen().width, WIDEST)
    if less := shutil.which("less"):
        # -R: styles and not their codes; -FX: what fits stays on the screen, and nobody waits.
        subprocess.run([less, "-FRX"], input=draw(text, width), text=True, check=False)
    else:
        screen.Screen(width=width).print(as_drawn(text))


def draw(text: str, width: int) -> str:
    """The page with a terminal's styles, in rows of at most that width."""
    file = io.StringIO()
    screen.Screen(file=file, width=width, force_terminal=True).print(as_drawn(text))
    return file.getvalue()


def as_drawn(text: str) -> Markdown:
    """The page as rich draws it."""
    return Markdown(for_terminal(text), hyperlinks=False)


def for_terminal(text: str) -> str:
    """The page without what a terminal cannot show: no pictures, and links as commands."""
    return LINK.sub(_say_link, PICTURE.sub("", text))


def _say_link(link: re.Match[str]) -> str:
    label, target = link.groups()
    name = target.partition("#")[0].removesuffix(".md")
    if name in TOPICS:
        return f"{label} (`taos help {name}`)"
    return link[0] if target.startswith("http") else label


def command_help(words: list[str], context: typer.Context) -> str:
    """What `--help` of the command says."""
    inner = context.find_root()
    for word in words:
        group = inner.command
        command = group.commands.get(word) if isinstance(group, TyperGroup) else None
        if command is None:
            raise InvalidInput(
                f"There is no topic and no command {' '.join(words)[:60]!r}.",
                hint="`taos help` lists the topics, `taos --help` the commands.",
            )
        inner = typer.Context(command, info_name=word, parent=inner)
    return inner.command.get_help(inner) + "\n"
