"""taos web: the password of the web pages."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tinyagentos.cli import screen
from tinyagentos.cli.common import Json, connect
from tinyagentos.cli.render import print_json, print_line
from tinyagentos.client import Client, web_address
from tinyagentos.config import Settings
from tinyagentos.model.errors import Conflict, InvalidInput

app = typer.Typer(help="The web pages: their address and their password.", no_args_is_help=True)


@app.command()
def link(as_json: Json = False) -> None:
    """The pages' address; before the first visit with the code that lets set the password."""
    address = web_link(connect(), Settings())
    if as_json:
        print_json({"address": address})
    else:
        print_line(address)


@app.command()
def password(
    stdin: Annotated[bool, typer.Option("--stdin", help="Read it from standard input.")] = False,
    as_json: Json = False,
) -> None:
    """Set the password of the web pages; everybody who is logged in is logged out."""
    client = connect()
    client.set_web_password(read_line() if stdin else ask())
    if as_json:
        print_json({"set": True})
    else:
        print_line("The web password is set.")


def web_link(client: Client, settings: Settings) -> str:
    """Where a person goes next: the pages, or once the page that sets the password."""
    try:
        path = client.new_setup_code().path
    except Conflict:
        path = "/"
    return f"{web_address(settings)}{path}"


def read_line() -> str:
    """The first line of standard input."""
    return sys.stdin.readline().rstrip("\n")


def ask() -> str:
    """A password typed twice; InvalidInput when nobody is there to type."""
    if not sys.stdin.isatty():
        raise InvalidInput("There is no terminal to type the password on.", hint="Use --stdin.")
    return screen.ask_secret("New web password", twice=True)
