"""taos image publish, verify and keys: signed releases, from the maker's side and the user's."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyagentos.cli import screen
from tinyagentos.cli.common import Json
from tinyagentos.cli.render import print_json, print_line
from tinyagentos.config import Settings

if TYPE_CHECKING:
    from tinyagentos.factory.shelf import Shelf
    from tinyagentos.model.release import Index
    from tinyagentos.signing.keys import Passphrase, RootFile

# The signing library takes a moment to import, and few commands need it: they do so themselves.

KeysOption = Annotated[
    Path | None, typer.Option("--keys", help="Folder of the keys; else the setting.")
]
KeysArgument = Annotated[
    Path | None, typer.Argument(metavar="[DIR]", help="Folder of the keys; else the setting.")
]

keys_app = typer.Typer(no_args_is_help=True, help="Keys that images are published with.")


def publish_images(
    to: Annotated[str, typer.Option(help="A folder, or github:OWNER/REPOSITORY@TAG.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Image files; none renews the signatures."),
    ] = None,
    keys: KeysOption = None,
    keep: Annotated[int, typer.Option(min=1, help="Releases of each image that stay.")] = 3,
    as_json: Json = False,
) -> None:
    """Release image files on a signed channel; clients see the old or the new, nothing between."""
    from tinyagentos.factory.publish import publish

    settings = Settings()
    published = publish(
        files or [], _shelf(to, settings), keys or settings.keys_dir,
        ask=_passphrase(settings), now=datetime.now(UTC), keep=keep,
        report=(lambda _: None) if as_json else print_line,
    )  # fmt: skip
    if as_json:
        print_json(
            _plain(published.index) | {"uploaded": published.uploaded, "removed": published.removed}
        )
    else:
        _say(published.index)


def verify_image(
    path: Annotated[Path, typer.Argument(help="The folder of a channel, or an image file.")],
    root: Annotated[
        Path | None, typer.Option(help="Root metadata to trust; else the setting, or what ships.")
    ] = None,
    channel: Annotated[
        Path | None, typer.Option(help="Folder of the metadata; else the image file's own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify a channel wholly, or that a file is an image its maker signed."""
    from tinyagentos.factory.audit import verify_channel, verify_file
    from tinyagentos.signing.channel import trusted_root

    trusted = trusted_root(root or Settings().image_root)
    if not path.is_dir():
        image, index = verify_file(path, channel or path.parent, trusted)
        if as_json:
            print_json({"image": image.dump(), "expires": index.expires.isoformat()})
        else:
            print_line(
                f"{path.name} is {image.framework} {image.version} for {image.arch}, released "
                f"{image.released:%Y-%m-%d}, as signed"
            )
        return
    audit = verify_channel(path, trusted)
    if as_json:
        print_json(_plain(audit.index) | {"verified": audit.verified, "others": audit.others})
        return
    _say(audit.index)
    print_line(f"{len(audit.verified)} files verified")
    for name in audit.others:
        print_line(f"{name}: signed by nobody, and no part of the channel")


@keys_app.command("init")
def init(folder: KeysArgument = None, as_json: Json = False) -> None:
    """Make the keys of a new channel, and its root metadata."""
    from tinyagentos.signing.keys import OFFLINE, init_keys

    settings = Settings()
    home = folder or settings.keys_dir
    made = init_keys(home, _passphrase(settings, new=True), datetime.now(UTC))
    _say_roots((made,), home, as_json)
    if not as_json:
        print_line(f"Keep {home / OFFLINE} away from this machine: only changing keys needs it.")


@keys_app.command("rotate")
def rotate(
    role: Annotated[str, typer.Argument(help="root, targets, snapshot or timestamp.")],
    folder: KeysArgument = None,
    as_json: Json = False,
) -> None:
    """Give a role a new key; the next publication brings it to clients."""
    from tinyagentos.signing.keys import rotate_key

    settings = Settings()
    home = folder or settings.keys_dir
    made = rotate_key(home, role, _passphrase(settings), datetime.now(UTC))
    _say_roots(made, home, as_json)
    if not as_json:
        print_line("Now publish: until then clients follow the old key.")


def _shelf(to: str, settings: Settings) -> Shelf:
    from tinyagentos.factory.github import PREFIX, GithubShelf, parse_place
    from tinyagentos.factory.shelf import DirectoryShelf

    if to.startswith(PREFIX):
        token = settings.github_token.get_secret_value()
        return GithubShelf.connect(parse_place(to), api=settings.github_api, token=token)
    return DirectoryShelf(Path(to))


def _passphrase(settings: Settings, *, new: bool = False) -> Passphrase:
    """The setting; without one a terminal is asked once, and a pipe has none."""
    known = settings.signing_passphrase.get_secret_value()
    asked: list[str] = [known] if known else []

    def ask(role: str) -> str:
        if not asked:
            asked.append(_prompt(role, new=new) if sys.stdin.isatty() else "")
        return asked[0]

    return ask


def _prompt(role: str, *, new: bool) -> str:
    what = "Passphrase for the new keys (empty: none)" if new else f"Passphrase of the {role} key"
    return screen.ask_secret(what, twice=new, may_be_empty=True)


def _say(index: Index) -> None:
    for image in index.images:
        print_line(
            f"{image.framework} {image.version} {image.arch}  {image.size_bytes / 1e6:.1f} MB  "
            f"{image.fingerprint}"
        )
    print_line(f"version {index.version}, good until {index.expires:%Y-%m-%d %H:%M} UTC")


def _plain(index: Index) -> dict[str, object]:
    return {
        "version": index.version,
        "expires": index.expires.isoformat(),
        "images": [image.dump() for image in index.images],
    }


def _say_roots(made: tuple[RootFile, ...], home: Path, as_json: bool) -> None:
    paths = [str(home / one.file.name) for one in made]
    if as_json:
        print_json({"roots": paths, "expires": made[-1].root.expires.isoformat()})
        return
    for path in paths:
        print_line(path)
    print_line(f"good until {made[-1].root.expires:%Y-%m-%d}")
