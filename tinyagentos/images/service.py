"""What the faces ask of images."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tinyagentos.host.files import check_new_file
from tinyagentos.images.bundle import EXPORT, export_kind, read_bundle
from tinyagentos.images.download import (
    DOWNLOAD,
    FETCHED,
    FROM,
    IMPORT,
    MB,
    USE,
    VERIFY,
    WARM,
    Supply,
    download_kind,
    find_all_newest,
    find_newest,
    open_channel,
)
from tinyagentos.images.fetch import part_of
from tinyagentos.images.policy import (
    AUTOMATIC,
    after_asking,
    after_failure,
    is_check_due,
    is_stale,
    is_wanted,
    may_try,
)
from tinyagentos.images.supply import find_image
from tinyagentos.images.weigh import (
    WEIGH,
    Weight,
    read_unpacked,
    weigh_kind,
    weigh_subject,
    weight_of,
)
from tinyagentos.incus import Image, IncusError
from tinyagentos.jobs.runner import JobKind, Runner
from tinyagentos.model.errors import Conflict, InvalidInput, NotFound, TaosError
from tinyagentos.model.image import (
    ARCH_OF_MACHINE,
    INCUS_ARCH,
    ImagePolicy,
    ImageRow,
    ImageState,
    SupplyRecord,
    image_alias,
)
from tinyagentos.model.job import Job, JobState, StepState
from tinyagentos.model.recipe import Recipe

_log = logging.getLogger(__name__)
LOOK_AFTER = 300.0
# The reason of an image that is not here when nothing more is to say of it.
ABSENT = "not on this host"
# Who only wants to say what is here waits so long for Incus.
HELD_WITHIN = 1.5
STATES = {
    VERIFY: ImageState.verifying, IMPORT: ImageState.importing, WARM: ImageState.warming,
    USE: ImageState.warming,
}  # fmt: skip


class Images:
    """The images of this host: one row per framework, and one for each other image we made."""

    def __init__(self, supply: Supply, recipes: Mapping[str, Recipe], runner: Runner) -> None:
        self._supply = supply
        self._incus = supply.incus
        self._settings = supply.settings
        self._table = supply.table
        self._arch = supply.arch
        self._recipes = recipes
        self._runner = runner
        self._held: Mapping[str, Image] = {}

    @property
    def policy(self) -> ImagePolicy:
        """When images are fetched: what somebody chose, else the setting."""
        return self._table.policy() or ImagePolicy(self._settings.image_policy)

    def choose_policy(self, policy: ImagePolicy) -> None:
        """Fetch images by this policy from now on; downloads that were stopped are of it again."""
        self._table.choose_policy(policy)
        for framework in self._recipes:
            self._want_again(framework)
        self.start_policy()

    async def list_images(self) -> tuple[ImageRow, ...]:
        """Every framework's image, here or not, then whatever else the project holds."""
        images = await self._incus.images.list()
        self._held = _by_alias(images, self._arch)
        rows = [self._framework_row(recipe, self._held) for recipe in self._recipes.values()]
        seen = {row.fingerprint for row in rows}
        others = [image for image in images if image.fingerprint not in seen]
        return (*rows, *(self._other_row(image) for image in others))

    async def list_held(self, *, within: float = HELD_WITHIN) -> Mapping[str, Image]:
        """The images of this host by alias; as they were seen last when Incus does not answer."""
        try:
            async with asyncio.timeout(within):
                self._held = _by_alias(await self._incus.images.list(), self._arch)
        except (TimeoutError, IncusError) as error:
            _log.info("what images are here is told from memory: %s", error)
        return self._held

    def known_release(self, framework: str) -> SupplyRecord:
        """What is known of the framework's released image."""
        return self._table.get(image_alias(framework, self._arch))

    def partial_bytes(self, framework: str) -> int:
        """What has come of the framework's image, by a download that is not done."""
        part = self._part(self.known_release(framework))
        return part.stat().st_size if part and part.exists() else 0

    def usual_rate(self) -> float | None:
        """Bytes a second that images come with: now, else usually; None before the first."""
        # Between downloads the line tells of seconds in which nothing was to come.
        is_busy = any(job.kind == DOWNLOAD for job in self._runner.list_active())
        seen = self._supply.line.rate if is_busy else None
        rate = seen or self._supply.timings.typical_rate(FETCHED)
        most = self._settings.image_rate
        return min(rate, most) if rate and most else rate

    async def ask_channel(self) -> bool:
        """Ask what is newest of every image where that is due; whether it was asked.

        Nothing is fetched. Raises TaosError when the channel does not tell.
        """
        now = self._supply.now()
        due = [
            framework
            for framework in self._recipes
            if self._settings.image_channel
            and is_check_due(self.known_release(framework), self.policy, now)
            and not self.find_download(framework)
        ]
        if due:
            await find_all_newest(due, self._supply)
        return bool(due)

    def start_download(self, framework: str) -> Job:
        """A job that gets the framework's newest image; a second call joins the first.

        Raises InvalidInput, HostNotReady when no channel is configured, Conflict when the policy
        is off.
        """
        self._check_download(framework)
        if active := self.find_download(framework):
            return active
        self._want_again(framework)
        subject = f"image:{image_alias(framework, self._arch)}"
        return self._runner.submit(DOWNLOAD, subject, {"framework": framework})

    def find_download(self, framework: str) -> Job | None:
        """The job that is getting the framework's image now, if any."""
        active = self._runner.find_active(f"image:{image_alias(framework, self._arch)}")
        return active if active and active.kind == DOWNLOAD else None

    def discard(self, framework: str) -> None:
        """Stop getting the framework's image, and remove what has come of it.

        Raises InvalidInput, NotFound when nothing is coming and nothing has come.
        """
        self._check(framework)
        record, active = self.known_release(framework), self.find_download(framework)
        part = self._part(record)
        if active is None and not self.partial_bytes(framework):
            raise NotFound(
                f"Nothing has come of the image of {framework}.", hint="`taos image list`"
            )
        if active:
            alias = image_alias(framework, self._arch)
            self._table.put(alias, replace(record, discards=True))
            if not active.cancel_requested:
                self._runner.cancel_job(active.id)
            if active.state is not JobState.queued:
                return  # the file may still be written to: the job's undoing removes it
        if part:
            part.unlink(missing_ok=True)

    def want(self, framework: str) -> Job | None:
        """Have the image fetched if the policy allows it now; nobody waits."""
        record = self._table.get(image_alias(framework, self._arch))
        if self._settings.image_channel and may_try(record, self.policy, self._supply.now()):
            try:
                return self.start_download(framework)
            except TaosError as error:
                _log.warning("the image of %s is not fetched: %s", framework, error.message)
        return None

    def start_policy(self) -> None:
        """With the policy `background`: begin to fetch what is not here."""
        if self.policy is ImagePolicy.background:
            for framework in self._recipes:
                self.want(framework)

    async def keep_supplied(self) -> None:
        """From time to time, for as long as the server runs: ask for newer releases, try again."""
        while True:
            await asyncio.sleep(LOOK_AFTER)
            for framework in self._recipes:
                try:
                    await self.look_after(framework)
                except (TaosError, IncusError) as error:
                    _log.warning("the image of %s was not looked after: %s", framework, error)

    async def look_after(self, framework: str) -> None:
        """Ask the channel what is newest when that is due, and fetch what the policy wants."""
        alias = image_alias(framework, self._arch)
        if not self._settings.image_channel or self.find_download(framework):
            return
        image = await find_image(self._incus, alias, self._arch)
        held = image.fingerprint if image else ""
        record, policy, now = self._table.get(alias), self.policy, self._supply.now()
        is_of_interest = held or record.failures or policy is ImagePolicy.background
        if is_of_interest and is_check_due(record, policy, now):
            try:
                await find_newest(framework, self._supply)
            except TaosError as error:
                chance = random.random()  # noqa: S311 - spreads the tries
                self._table.put(alias, after_failure(record, error, now, chance))
                return
            record = self._table.get(alias)
        if is_wanted(record, policy, held):
            self.want(framework)

    def start_import(self, file: Path) -> Job:
        """A job that gets the image out of a file that `taos image export` wrote.

        It is verified as a download is. Raises InvalidInput when it is no such file.
        """
        framework = self._check_import(file)
        if active := self.find_download(framework):
            raise Conflict(
                f"The image of {framework} is being fetched already.",
                hint=f"`taos job cancel {active.id}`, then import.",
            )
        self._want_again(framework)
        subject = f"image:{image_alias(framework, self._arch)}"
        return self._runner.submit(DOWNLOAD, subject, {"framework": framework, FROM: str(file)})

    def start_export(self, framework: str, file: Path) -> Job:
        """A job that writes the framework's released image, with all that proves it, into the file.

        Raises InvalidInput, Conflict when the file is there already.
        """
        self._check_export(framework, file)
        subject = f"export:{image_alias(framework, self._arch)}"
        return self._runner.submit(EXPORT, subject, {"framework": framework, "to": str(file)})

    async def remove(self, framework: str) -> None:
        """Remove the framework's image.

        Raises NotFound when there is none, Conflict while it is being fetched or agents use it.
        """
        self._check(framework)
        alias = image_alias(framework, self._arch)
        if job := self._runner.find_active(f"image:{alias}"):
            raise Conflict(
                f"A {job.kind} job is at work on the image.", hint=f"`taos job cancel {job.id}`"
            )
        image = await find_image(self._incus, alias, self._arch)
        if image is None:
            raise NotFound(f"There is no image of {framework} here.", hint="`taos image list`")
        users = [
            one.config.get("user.taos.agent", one.name)
            for one in await self._incus.instances.list()
            if one.config.get("volatile.base_image") == image.fingerprint
        ]
        if users:
            raise Conflict(
                f"The image of {framework} is in use by {', '.join(sorted(set(users)))}.",
                hint="Delete or upgrade those agents first.",
            )
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

    def kinds(self) -> tuple[JobKind, ...]:
        """The kinds of jobs about images; a retry is checked as asking anew is."""

        async def download_again(job: Job) -> Mapping[str, str]:
            if file := job.params.get(FROM):
                self._check_import(Path(file), job.params["framework"])
            else:
                self._check_download(job.params["framework"])
            return job.params

        async def export_again(job: Job) -> Mapping[str, str]:
            self._check_export(job.params["framework"], Path(job.params["to"]))
            return job.params

        return (
            replace(download_kind(self._supply), recheck=download_again),
            replace(export_kind(self._supply), recheck=export_again),
            weigh_kind(self._supply),
        )

    def _check_download(self, framework: str) -> None:
        self._check(framework)
        if self.policy is ImagePolicy.off:
            raise Conflict(
                "Images are not fetched here: the image policy is off.",
                hint="`taos image policy manual` allows it, or build on this host.",
            )
        open_channel(self._settings)

    def _check_import(self, file: Path, expected: str = "") -> str:
        """The framework of the exported image; expected: which one it has to be."""
        framework = read_bundle(file).framework
        self._check(framework)
        if expected and framework != expected:
            raise Conflict(
                f"{file.name} has an image of {framework} now, not of {expected}.",
                hint="Import the file again, if that is what you want.",
            )
        return framework

    def _check_export(self, framework: str, file: Path) -> None:
        self._check(framework)
        check_new_file(file)

    def _check(self, framework: str) -> None:
        if framework not in self._recipes:
            raise InvalidInput(
                f"There is no framework {framework[:60]!r}.",
                hint=f"There are: {', '.join(self._recipes)}.",
            )

    def _want_again(self, framework: str) -> None:
        alias = image_alias(framework, self._arch)
        record = self._table.get(alias)
        if record != (wanted := after_asking(record)):
            self._table.put(alias, wanted)

    def _part(self, record: SupplyRecord) -> Path | None:
        return part_of(self._supply.folder, record.fingerprint) if record.fingerprint else None

    def _framework_row(self, recipe: Recipe, held: Mapping[str, Image]) -> ImageRow:
        alias = image_alias(recipe.name, self._arch)
        image = held.get(alias)
        record = self._table.get(alias)
        fetching = self.find_download(recipe.name)
        if image:
            return self._held_row(image, recipe, record, fetching)
        if fetching:
            return self._fetching_row(fetching, recipe, record)
        making = self._runner.find_active(f"built image:{alias}")
        return ImageRow(
            framework=recipe.name,
            arch=self._arch,
            state=ImageState.importing if making else _absent_state(record),
            newest=record.version or recipe.version,
            alias=alias,
            size_bytes=record.size_bytes or None,
            reason="being made from the last build"
            if making
            else self._why_absent(record, recipe.name),
            unpacked_bytes=record.unpacked_bytes or None,
            partial_bytes=self.partial_bytes(recipe.name),
        )

    def _held_row(
        self, image: Image, recipe: Recipe, record: SupplyRecord, fetching: Job | None
    ) -> ImageRow:
        """An image that is here; a newer one does not make it less usable."""
        alias = image_alias(recipe.name, self._arch)
        row = self._row(image, recipe.name, alias, newest=record.version or recipe.version)
        if image.fingerprint == record.fingerprint:
            unpacked = row.unpacked_bytes or record.unpacked_bytes or None
            row = replace(row, origin=row.origin or "channel", unpacked_bytes=unpacked)
        if fetching:
            said = self._fetching_row(fetching, recipe, record).reason
            return replace(row, reason=f"a newer one is coming: {said}")
        if not is_stale(record, image.fingerprint):
            return row
        if row.origin and row.version == record.version:
            return replace(row, reason="the channel has the same version, made by its publisher")
        is_told = record.reason or record.stopped
        why = self._why_absent(record, recipe.name) if is_told else "a newer release is there"
        partial = self.partial_bytes(recipe.name)
        return replace(row, state=ImageState.stale, reason=why, partial_bytes=partial)

    def _why_absent(self, record: SupplyRecord, framework: str) -> str:
        """Why the last fetch ended without an image, and what comes next."""
        if record.rejected:
            return f"refused: {record.reason} It is not tried again by itself."
        if record.stopped:
            here = self.partial_bytes(framework) / MB
            had = f"{here:.1f} of {record.size_bytes / MB:.1f} MB are here, and " if here else ""
            return f"its download was stopped; {had}it goes on when you ask"
        if not record.reason:
            return ABSENT
        again = record.try_at and self.policy in AUTOMATIC
        when = f" Tried again after {record.try_at:%H:%M} UTC." if again else ""
        return f"not fetched: {record.reason}{when}"

    def _fetching_row(self, job: Job, recipe: Recipe, record: SupplyRecord) -> ImageRow:
        running = [step for step in job.steps if step.state is StepState.running]
        step = running[-1] if running else None
        return ImageRow(
            framework=recipe.name,
            arch=self._arch,
            state=STATES.get(step.name, ImageState.fetching) if step else ImageState.fetching,
            newest=record.version or recipe.version,
            alias=image_alias(recipe.name, self._arch),
            size_bytes=(step and step.total_bytes) or record.size_bytes or None,
            reason=step.detail if step else "",
            unpacked_bytes=record.unpacked_bytes or None,
            partial_bytes=self.partial_bytes(recipe.name),
        )

    def _other_row(self, image: Image) -> ImageRow:
        alias = image.aliases[0] if image.aliases else ""
        name = image.properties.get("taos.framework") or alias.split("/")[0] or "unknown"
        return self._row(image, name, alias)

    def _row(self, image: Image, framework: str, alias: str, newest: str = "") -> ImageRow:
        weight = self.find_weight(image.fingerprint)
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
            unpacked_bytes=read_unpacked(weight.report) if weight else None,
        )


def _absent_state(record: SupplyRecord) -> ImageState:
    return ImageState.rejected if record.rejected else ImageState.absent


def _by_alias(images: Iterable[Image], arch: str) -> Mapping[str, Image]:
    """The images of the architecture by each of their aliases."""
    fitting = (one for one in images if one.architecture == INCUS_ARCH[arch])
    return {alias: image for image in fitting for alias in image.aliases}
