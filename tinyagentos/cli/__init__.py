"""The command line: one file per noun."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tinyagentos import __version__
from tinyagentos.cli import agent, guide, host, image, job, provider, screen, serve, up, web
from tinyagentos.cli.errors import guarded

app = typer.Typer(
    name="taos",
    help="Deploys AI agents into Incus containers on the hardware you have at home.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        screen.write(f"taos {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


app.add_typer(agent.app, name="agent")
app.add_typer(image.app, name="image")
app.add_typer(job.app, name="job")
app.add_typer(provider.app, name="provider")
app.add_typer(web.app, name="web")
serve.register(app)
guide.register(app)
up.register(app)
host.register(app)


def main() -> None:
    """Run the command line and exit with its status."""
    screen.prepare()
    # Named here: through the launcher Python would call it by the module.
    sys.exit(guarded(lambda: app(prog_name="taos")))
