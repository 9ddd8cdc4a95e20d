"""taos image: build images from recipes, import them, see which are here."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tinyagentos.cli import image_proof, image_release
from tinyagentos.cli.agent import begin
from tinyagentos.cli.common import Json, complete_frameworks, connect, need_root
from tinyagentos.cli.render import print_json, print_line, print_table
from tinyagentos.config import Settings
from tinyagentos.model.agent import DEFAULT_FRAMEWORK
from tinyagentos.model.errors import Conflict
from tinyagentos.model.image import POLICIES, ImagePolicy
from tinyagentos.model.smoke import raise_failed

app = typer.Typer(no_args_is_help=True, help="Images: list, build, import, weigh, check.")
app.command("report")(image_proof.report_image)
app.command("smoke")(image_proof.smoke_image)
app.command("publish")(image_release.publish_images)
app.command("verify")(image_release.verify_image)
app.add_typer(image_release.keys_app, name="keys")


@app.command("list")
def list_images(as_json: Json = False) -> None:
    """The images of this host."""
    images = connect().images()
    if as_json:
        print_json(images)
        return
    print_table(
        ("FRAMEWORK", "ARCH", "STATE", "VERSION", "SIZE", "UNPACKED", "FINGERPRINT", "NOTE"),
        (
            (
                image.framework, image.arch, image.state, image.version,
                *(f"{size / 1e6:.0f} MB" if size else ""
                  for size in (image.size_bytes, image.unpacked_bytes)),
                image.fingerprint[:12], image.reason or image.origin,
            )
            for image in images
        ),
        "No images.",
    )  # fmt: skip


Framework = Annotated[
    str, typer.Argument(help="The framework's name.", autocompletion=complete_frameworks)
]


@app.command()
def download(
    framework: Framework = DEFAULT_FRAMEWORK,
    wait: Annotated[bool, typer.Option(help="Wait until the image is here.")] = True,
    as_json: Json = False,
) -> None:
    """Get the newest released image; what is here already is not fetched again."""
    begin(lambda client: client.download(framework), wait=wait, as_json=as_json)


@app.command()
def cancel(
    framework: Framework = DEFAULT_FRAMEWORK,
    discard: Annotated[bool, typer.Option(help="Remove what has come of it.")] = False,
    as_json: Json = False,
) -> None:
    """Stop getting the image; what has come is kept for the next time."""
    client = connect()
    if discard:
        client.discard_image(framework)
        said = f"what had come of the image of {framework} goes"
        print_json({"discarded": framework}) if as_json else print_line(said)
        return
    for job in client.jobs():
        if job.is_active and job.kind == "download image" and f":{framework}/" in job.subject:
            job = client.cancel(job.id)
            print_json(job) if as_json else print_line(f"job {job.id} stops")
            return
    raise Conflict(
        f"No image of {framework} is being fetched.", hint="`taos job list` shows what is at work."
    )


@app.command()
def remove(framework: Framework, as_json: Json = False) -> None:
    """Remove the image; agents made from it stay."""
    connect().remove_image(framework)
    print_json({"removed": framework}) if as_json else print_line(
        f"the image of {framework} is gone"
    )


@app.command()
def build(
    framework: Annotated[str, typer.Argument(help="The recipe's name.")],
    arch: Annotated[str, typer.Option(help="x64 or arm64; the host's when not given.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for the image file.")] = Path(),
    fast: Annotated[bool, typer.Option(help="Less compression, much sooner done.")] = False,
    lock: Annotated[
        Path | None, typer.Option(help="Lock file that the build has to come out as.")
    ] = None,
    smoke: Annotated[bool, typer.Option(help="Boot and ask the image; it has to pass.")] = False,
    as_json: Json = False,
) -> None:
    """Make an importable image from a recipe; its lock and SBOM are put beside it."""
    from tinyagentos.agents.recipes import build_image

    need_root("Building an image")
    report = (lambda _: None) if as_json else print_line
    built = asyncio.run(
        build_image(framework, arch, out, fast=fast, settings=Settings(), report=report, lock=lock)
    )
    checks = image_proof.run_smoke(built.path, report) if smoke else ()
    if as_json:
        print_json(
            {
                "path": str(built.path),
                "size_bytes": built.size_bytes,
                "fingerprint": built.fingerprint,
                "before_bytes": built.before_bytes,
                "unpacked_bytes": built.unpacked_bytes,
                "seconds": built.seconds,
                "savings": [asdict(saving) for saving in built.savings],
                "checks": image_proof.plain(checks),
            }
        )
    else:
        print_table(
            ("RULE", "FILES", "BEFORE", "AFTER"),
            (
                (one.rule, str(one.files), *(f"{size / 1e6:.1f} MB" for size in sizes))
                for one in built.savings
                for sizes in ((one.before_bytes, one.after_bytes),)
            ),
            "No rules.",
        )
        print_line(f"{built.path}  {built.size_bytes / 1e6:.1f} MB  {built.fingerprint}")
    raise_failed(checks, built.path.name)


@app.command()
def policy(
    chosen: Annotated[
        ImagePolicy | None, typer.Argument(help="lazy, background, manual or off.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show or choose when images are fetched."""
    client = connect()
    if chosen:
        client.choose_image_policy(chosen)
    now = client.image_policy().policy
    print_json({"policy": now}) if as_json else print_line(f"{now}: {POLICIES[now]}")


@app.command("export")
def export_image(
    framework: Framework,
    to: Annotated[Path, typer.Option(help="The file to write, such as on a USB stick.")],
    wait: Annotated[bool, typer.Option(help="Wait until it is written.")] = True,
    as_json: Json = False,
) -> None:
    """Write a released image, with all that proves it, into one file."""
    path = str(to.resolve())
    begin(lambda client: client.export_image(framework, path), wait=wait, as_json=as_json)


@app.command("import")
def import_image(
    file: Annotated[Path, typer.Argument(help="Made by `taos image export` or `image build`.")],
    wait: Annotated[bool, typer.Option(help="Wait until the image is here.")] = True,
    as_json: Json = False,
) -> None:
    """Have the image in Incus, so that deploys use it.

    An exported image is verified as a download is. One that was built here is taken as your own.
    """
    from tinyagentos.agents.recipes import import_image_file

    if file.is_file() and file.suffix != ".zst":
        path = str(file.resolve())
        begin(lambda client: client.import_image(path), wait=wait, as_json=as_json)
        return
    need_root("Importing an image that nobody has signed")
    image = asyncio.run(import_image_file(file, Settings()))
    if as_json:
        print_json({"framework": image.framework, "arch": image.arch, "version": image.version,
                    "fingerprint": image.fingerprint})  # fmt: skip
    else:
        print_line(
            f"{image.framework} {image.version} for {image.arch} is ready to deploy (not signed)"
        )
