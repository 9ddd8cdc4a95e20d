"""What the faces ask of images."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from tinyagentos.config import Settings
from tinyagentos.images.download import DOWNLOAD, IMPORT, USE, VERIFY, WARM, open_channel
from tinyagentos.images.supply import find_image
from tinyagentos.images.weigh import WEIGH, Weight, weigh_subject, weight_of
from tinyagentos.incus import Image, Incus
from tinyagentos.jobs.runner import Runner
from tinyagentos.model.errors import Conflict, InvalidInput, NotFound, TaosError
from tinyagentos.model.image import ARCH_OF_MACHINE, ImageRow, ImageState, image_alias
from tinyagentos.model.job import Job, StepState
from tinyagentos.model.recipe import Recipe

_log = logging.getLogger(__name__)
STATES = {
    VERIFY: ImageState.verifying, IMPORT: ImageState.importing, WARM: ImageState.warming,
    USE: ImageState.warming,
}  # fmt: skip


class Images:
    """The images of this host: one row per framework, and one for each other image we made."""

    def __init__(
        self,
        incus: Incus,
        recipes: Mapping[str, Recipe],
        arch: str,
        runner: Runner,
        settings: Settings,
    ) -> None:
        self._incus = incus
        self._settings = settings
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

    def start_download(self, framework: str) -> Job:
        """A job that gets the framework's newest image; a second call joins the first.

        Raises InvalidInput, HostNotReady when no channel is configured, Conflict when the image is
        being made or kept at this moment.
        """
        self._check(framework)
        if self._settings.image_policy == "off":
            raise Conflict(
                "Images are not fetched here: the setting `image_policy` is off.",
                hint="Set it to manual, or build on this host.",
            )
        open_channel(self._settings)
        if active := self.find_download(framework):
            return active
        subject = f"image:{image_alias(framework, self._arch)}"
        return self._runner.submit(DOWNLOAD, subject, {"framework": framework})

    def find_download(self, framework: str) -> Job | None:
        """The job that is getting the framework's image now, if any."""
        active = self._runner.find_active(f"image:{image_alias(framework, self._arch)}")
        return active if active and active.kind == DOWNLOAD else None

    def want(self, framework: str) -> Job | None:
        """Have the image fetched if the policy says so and there is a channel; nobody waits."""
        if self._settings.image_channel and self._settings.image_policy in ("lazy", "background"):
            try:
                return self.start_download(framework)
            except TaosError as error:
                _log.warning("the image of %s is not fetched: %s", framework, error.message)
        return None

    def start_policy(self) -> None:
        """With the policy `background`: begin to fetch what is not here."""
        if self._settings.image_policy == "background":
            for framework in self._recipes:
                self.want(framework)

    async def remove(self, framework: str) -> None:
        """Remove the framework's image; agents made from it stay. NotFound when there is none."""
        self._check(framework)
        alias = image_alias(framework, self._arch)
        if job := self._runner.find_active(f"image:{alias}"):
            raise Conflict(
                f"A {job.kind} job is at work on the image.", hint=f"`taos job cancel {job.id}`"
            )
        image = await find_image(self._incus, alias, self._arch)
        if image is None:
            raise NotFound(f"There is no image of {framework} here.", hint="`taos image list`")
        await self._incus.images.delete(image.fingerprint)

    def find_weight(self, fingerprint: str) -> Weight | None:
        """What the image weighs by component; None until it was weighed."""
        weight = weight_of(self._settings.cache_dir, fingerprint)
        return weight if weight.is_known else None

    def start_weighing(self, fingerprint: str) -> Job:
        """A job that finds out what the image weighs by component; a second call joins it."""
        subject = weigh_subject(fingerprint)
        active = self._runner.find_active(subject)
        return active or self._runner.submit(WEIGH, subject, {"fingerprint": fingerprint})

    def _check(self, framework: str) -> None:
        if framework not in self._recipes:
            raise InvalidInput(
                f"There is no framework {framework[:60]!r}.",
                hint=f"There are: {', '.join(self._recipes)}.",
            )

    async def _framework_row(self, recipe: Recipe) -> ImageRow:
        alias = image_alias(recipe.name, self._arch)
        image = await find_image(self._incus, alias, self._arch)
        if image:
            return _row(image, recipe.name, alias, newest=recipe.version)
        if fetching := self.find_download(recipe.name):
            return self._fetching_row(fetching, recipe, alias)
        making = self._runner.find_active(f"built image:{alias}")
        return ImageRow(
            framework=recipe.name,
            arch=self._arch,
            state=ImageState.importing if making else ImageState.absent,
            newest=recipe.version,
            alias=alias,
            reason="being made from the last build" if making else self._why_absent(alias),
        )

    def _why_absent(self, alias: str) -> str:
        """Why the last fetch ended without an image, else just that there is none."""
        for job in self._runner.list_jobs():
            if (job.kind, job.subject) == (DOWNLOAD, f"image:{alias}"):
                return f"not fetched: {job.error.message}" if job.error else "not on this host"
        return "not on this host"

    def _fetching_row(self, job: Job, recipe: Recipe, alias: str) -> ImageRow:
        running = [step for step in job.steps if step.state is StepState.running]
        step = running[-1] if running else None
        return ImageRow(
            framework=recipe.name,
            arch=self._arch,
            state=STATES.get(step.name, ImageState.fetching) if step else ImageState.fetching,
            newest=recipe.version,
            alias=alias,
            size_bytes=step.total_bytes if step else None,
            reason=step.detail if step else "",
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
