"""What the faces ask of images."""

from __future__ import annotations

from collections.abc import Mapping

from tinyagentos.images.supply import find_image
from tinyagentos.incus import Image, Incus
from tinyagentos.jobs.runner import Runner
from tinyagentos.model.image import ARCH_OF_MACHINE, ImageRow, ImageState, image_alias
from tinyagentos.model.recipe import Recipe


class Images:
    """The images of this host: one row per framework, and one for each other image we made."""

    def __init__(
        self, incus: Incus, recipes: Mapping[str, Recipe], arch: str, runner: Runner
    ) -> None:
        self._incus = incus
        self._recipes = recipes
        self._arch = arch
        self._runner = runner

    async def list_images(self) -> tuple[ImageRow, ...]:
        """Every framework's image, here or not, then whatever else the project holds."""
        rows = [await self._framework_row(recipe) for recipe in self._recipes.values()]
        seen = {row.fingerprint for row in rows}
        others = [image for image in await self._incus.images.list()
                  if image.fingerprint not in seen]  # fmt: skip
        return (*rows, *(_other_row(image) for image in others))

    async def _framework_row(self, recipe: Recipe) -> ImageRow:
        alias = image_alias(recipe.name, self._arch)
        image = await find_image(self._incus, alias, self._arch)
        if image:
            return _row(image, recipe.name, alias, newest=recipe.version)
        making = self._runner.find_active(f"image:{alias}")
        return ImageRow(
            framework=recipe.name,
            arch=self._arch,
            state=ImageState.importing if making else ImageState.absent,
            newest=recipe.version,
            alias=alias,
            reason="being made from the last build" if making else "not on this host",
        )


def _other_row(image: Image) -> ImageRow:
    alias = image.aliases[0] if image.aliases else ""
    name = image.properties.get("taos.framework") or alias.split("/")[0] or "unknown"
    return _row(image, name, alias)


def _row(image: Image, framework: str, alias: str, newest: str = "") -> ImageRow:
    return ImageRow(
        framework=framework,
        arch=ARCH_OF_MACHINE.get(image.architecture, image.architecture),
        state=ImageState.ready,
        version=image.properties.get("taos.version", ""),
        newest=newest,
        fingerprint=image.fingerprint,
        alias=alias,
        size_bytes=image.size,
        origin=image.properties.get("taos.origin", ""),
    )
