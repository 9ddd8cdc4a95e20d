"""taos provider: the places that have models."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from pydantic import ValidationError

from tinyagentos import wire
from tinyagentos.cli import screen
from tinyagentos.cli.common import Json, complete_providers, connect
from tinyagentos.cli.render import print_json, print_line, print_table
from tinyagentos.config import read_provider_key
from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.provider import ProviderKind

app = typer.Typer(no_args_is_help=True, help="Model providers: add, list, test, remove.")

SHOWN = 20
Name = Annotated[str, typer.Argument(help="What to call the provider.")]


@app.command()
def add(
    name: Name,
    kind: Annotated[
        str, typer.Option(help="openai (or like it), anthropic or ollama; else told by the name.")
    ] = "",
    url: Annotated[str, typer.Option(help="Its address, when it is not the usual one.")] = "",
    model: Annotated[str, typer.Option(help="Its model for agents that chose none.")] = "",
    stdin: Annotated[bool, typer.Option("--stdin", help="Read the key from the input.")] = False,
    test: Annotated[bool, typer.Option(help="Ask it for its models at once.")] = True,
    as_json: Json = False,
) -> None:
    """Add a provider, or change the one of that name.

    Its key is asked for, unless it comes by --stdin or the variable TAOS_PROVIDER_KEY.
    """
    chosen = kind or (name if name in set(ProviderKind) else ProviderKind.openai.value)
    key = read_key(name, chosen, stdin=stdin)
    try:
        new = wire.NewProvider.model_validate(
            {"name": name, "kind": chosen, "url": url, "model": model, "key": key}
        )
    except ValidationError as error:
        raise InvalidInput(
            f"{chosen[:40]!r} is no kind of provider.",
            hint=f"There are: {', '.join(ProviderKind)}.",
        ) from error
    client = connect()
    added = client.add_provider(new)
    if not as_json:
        print_line(f"provider {added.name} ({added.kind}, {added.url}) is kept")
    if test:
        tested = client.test_provider(name)
        added = next((one for one in client.providers() if one.name == name), added)
        if not as_json:
            print_line(
                f"it answers in {tested.seconds:.1f} s and has {len(tested.models)} models;"
                f" agents that chose none use {added.model or 'none of them'}"
            )
    if as_json:
        print_json(added)


def read_key(name: str, kind: str, *, stdin: bool) -> str:
    """The provider's key: from the input, the environment or a person; empty for none."""
    if stdin:
        return sys.stdin.readline().strip()
    given = read_provider_key()
    if given is not None:
        return given
    if kind == ProviderKind.ollama or not sys.stdin.isatty():
        return ""
    return screen.ask_secret(f"Key of {name} (empty if it needs none)", may_be_empty=True).strip()


@app.command("list")
def list_providers(as_json: Json = False) -> None:
    """The providers of this host; an Ollama that runs here is found by itself."""
    providers = connect().providers()
    if as_json:
        print_json(providers)
        return
    print_table(
        ("NAME", "KIND", "ADDRESS", "MODEL", "KEY"),
        (
            (one.name, one.kind, one.url, one.model,
             "kept" if one.has_key else "found here" if one.found else "none")
            for one in providers
        ),
        "No providers yet. Add one with `taos provider add anthropic`, for example.",
    )  # fmt: skip


KnownName = Annotated[
    str, typer.Argument(help="The provider's name.", autocompletion=complete_providers)
]


@app.command("test")
def ask_provider(name: KnownName, as_json: Json = False) -> None:
    """Ask the provider for its models, which shows that address and key are right."""
    tested = connect().test_provider(name)
    if as_json:
        print_json(tested)
        return
    print_line(f"{name} answers in {tested.seconds:.1f} s and has {len(tested.models)} models:")
    for model in tested.models[:SHOWN]:
        print_line(f"  {name}/{model}")
    if len(tested.models) > SHOWN:
        print_line(f"  and {len(tested.models) - SHOWN} more; --json lists all")


@app.command()
def remove(name: KnownName, as_json: Json = False) -> None:
    """Forget the provider and its key; agents that use its models go on with their others."""
    connect().remove_provider(name)
    print_json({"removed": name}) if as_json else print_line(
        f"provider {name} and its key are gone"
    )
