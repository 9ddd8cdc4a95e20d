"""What an image weighs, by component; and what changed against another image."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import zstandard
from pydantic import TypeAdapter, ValidationError

from tinyagentos.factory.components import Owners, package_of_list
from tinyagentos.factory.image_file import (
    CHUNK,
    METADATA,
    open_image,
    path_inside,
    read_member,
    read_properties,
)
from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.image import ARCH_OF_MACHINE
from tinyagentos.visible import visible_line

LEVEL, WINDOW_LOG = 3, 27
REPORT_SUFFIX = ".report.json"
GROUPS = {
    "debian": "Debian packages",
    "npm": "npm packages",
    "node": "Node.js",
    "python": "Python packages",
    "taos": "taOS",
    "caches": "baked caches",
    "other": "other",
}
BESIDE = "other"


@dataclass(frozen=True)
class Component:
    """One component's part of an image. packed_bytes: measured, then scaled to the file's size."""

    name: str
    files: int
    unpacked_bytes: int
    packed_bytes: int

    @property
    def group(self) -> str:
        """What it is one of: `debian`, `npm`, `node`, ..."""
        return self.name.partition(":")[0]


@dataclass(frozen=True)
class ImageReport:
    """An image by component, the heaviest first."""

    name: str
    version: str
    arch: str
    packed_bytes: int
    unpacked_bytes: int
    components: tuple[Component, ...]

    @property
    def groups(self) -> tuple[Component, ...]:
        """The components summed by group, the heaviest first."""
        sums: dict[str, Component] = {}
        for one in self.components:
            sums[one.group] = _add(sums.get(one.group), one, one.group)
        return tuple(sorted(sums.values(), key=lambda one: -one.packed_bytes))

    def render(self) -> str:
        """As JSON, which `--against` reads again."""
        return json.dumps(asdict(self), indent=1) + "\n"


@dataclass(frozen=True)
class Change:
    """A component in two images; 0 where it is not in one. Bytes unpacked and packed."""

    name: str
    before_bytes: int
    after_bytes: int
    before_packed: int
    after_packed: int

    @property
    def word(self) -> str:
        """What happened to it."""
        if not self.before_bytes:
            return "new"
        if not self.after_bytes:
            return "gone"
        return "grew" if self.after_bytes > self.before_bytes else "shrank"


def measure_image(path: Path) -> ImageReport:
    """Read the image file twice: whose each file is, then what each costs compressed.

    The cost is measured by compressing the same stream again, with the same long window but a
    fast level, and counting what comes out for each component in turn; of bytes that are there
    twice, the first pays. The sum is scaled to the size of the file.
    """
    owners, properties = _read_owners(path)
    sizes: dict[str, Component] = {}
    for name, files, unpacked, packed in _measure(path, owners):
        sizes[name] = _add(sizes.get(name), Component(name, files, unpacked, packed), name)
    size = path.stat().st_size
    scaled = _scale({name: one.packed_bytes for name, one in sizes.items()}, size)
    components = [
        Component(one.name, one.files, one.unpacked_bytes, scaled[one.name])
        for one in sizes.values()
    ]
    return ImageReport(
        name=properties.get("taos.framework", ""),
        version=properties.get("taos.version", ""),
        arch=ARCH_OF_MACHINE.get(properties.get("architecture", ""), ""),
        packed_bytes=size,
        unpacked_bytes=sum(one.unpacked_bytes for one in components),
        components=tuple(sorted(components, key=lambda one: (-one.packed_bytes, one.name))),
    )


def read_against(path: Path, like: ImageReport) -> ImageReport:
    """The report to compare with: an image file, a saved report, or a folder with one of them.

    In a folder it is that of the same framework and architecture.
    """
    if path.is_dir():
        fitting = f"{like.name}-*-{like.arch}"
        saved, images = (
            sorted(path.glob(f"{fitting}{end}")) for end in (REPORT_SUFFIX, ".tar.zst")
        )
        if not (found := saved or images):
            raise InvalidInput(
                f"{path} has no image or report of {like.name} for {like.arch}.",
                hint=f"Keep one there: `taos image report FILE --json`, as *{REPORT_SUFFIX}.",
            )
        if len(found) > 1:
            raise InvalidInput(
                f"{path} has {len(found)} images of {like.name} for {like.arch}.",
                hint="Name the file to compare with.",
            )
        path = found[0]
    if path.suffix != ".json":
        return measure_image(path)
    try:
        return TypeAdapter(ImageReport).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InvalidInput(
            f"{path} is not a report of an image.",
            hint="Make one with `taos image report FILE --json`.",
        ) from error


def compare(before: ImageReport, after: ImageReport) -> tuple[Change, ...]:
    """The components whose unpacked size is another, the largest change first."""
    was, now = _by_name(before), _by_name(after)
    changes = (
        Change(
            name,
            was[name].unpacked_bytes if name in was else 0,
            now[name].unpacked_bytes if name in now else 0,
            was[name].packed_bytes if name in was else 0,
            now[name].packed_bytes if name in now else 0,
        )
        for name in {*was, *now}
    )
    different = (one for one in changes if one.before_bytes != one.after_bytes)
    return tuple(
        sorted(different, key=lambda one: (-abs(one.after_bytes - one.before_bytes), one.name))
    )


def component_rows(report: ImageReport, most: int) -> list[tuple[str, str, str, str, str]]:
    """The table: groups, then the heaviest components, then the sum of the rest."""
    rows = [_row(one, report, GROUPS.get(one.name, one.name)) for one in report.groups if one.files]
    rows += [_row(one, report) for one in report.components[:most] if one.name not in GROUPS]
    rest: Component | None = None
    for one in report.components[most:]:
        rest = _add(rest, one, f"{len(report.components) - most} smaller ones")
    if rest:
        rows.append(_row(rest, report))
    total = Component(
        "all", sum(one.files for one in report.components), report.unpacked_bytes,
        report.packed_bytes,
    )  # fmt: skip
    return [*rows, _row(total, report)]


def change_rows(changes: Iterable[Change]) -> list[tuple[str, str, str, str]]:
    """The table of a comparison."""
    return [
        (
            one.name,
            one.word,
            f"{(one.after_bytes - one.before_bytes) / 1e6:+.2f}",
            f"{(one.after_packed - one.before_packed) / 1e6:+.2f}",
        )
        for one in changes
    ]


HEADINGS = ("Component", "Files", "Unpacked MB", "Packed MB", "Share")
CHANGE_HEADINGS = ("Component", "Change", "Unpacked MB", "Packed MB")


NOTE = "Packed: measured with faster compression, scaled to the size of the file."


def title(report: ImageReport) -> str:
    """The image and its two sizes in one line."""
    return (
        f"{report.name} {report.version} for {report.arch}: {report.packed_bytes / 1e6:.1f} MB, "
        f"{report.unpacked_bytes / 1e6:.1f} MB unpacked"
    )


def render_markdown(report: ImageReport, against: ImageReport | None, most: int) -> str:
    """The report for a page such as a job summary."""
    lines = [f"### {title(report)}", "", *_table(HEADINGS, component_rows(report, most))]
    lines += ["", NOTE]
    if against:
        lines += ["", f"Against {title(against)}:", ""]
        lines += _table(CHANGE_HEADINGS, change_rows(compare(against, report)[:most]))
    return "\n".join(lines) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|---|{'---:|' * (len(headings) - 1)}"
    for row in rows:
        yield f"| {' | '.join(map(visible_line, row))} |"


def _row(one: Component, report: ImageReport, name: str = "") -> tuple[str, str, str, str, str]:
    share = 100 * one.packed_bytes / max(1, report.packed_bytes)
    return (
        name or one.name, str(one.files), f"{one.unpacked_bytes / 1e6:.2f}",
        f"{one.packed_bytes / 1e6:.2f}", f"{share:.1f} %",
    )  # fmt: skip


def _read_owners(path: Path) -> tuple[Owners, dict[str, str]]:
    lists: dict[str, str] = {}
    properties: dict[str, str] = {}
    with open_image(path) as tar:
        for member in tar:
            if member.name == METADATA:
                properties = read_properties(read_member(tar, member))
            elif package := package_of_list(path_inside(member)):
                lists[package] = read_member(tar, member).decode(errors="surrogateescape")
    return Owners(lists), properties


def _measure(path: Path, owners: Owners) -> Iterator[tuple[str, int, int, int]]:
    """For each run of neighbours of one component: its name, files, bytes, and bytes compressed."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=WINDOW_LOG, enable_ldm=True
    )
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    run, files, unpacked, packed = "", 0, 0, 0
    with open_image(path) as tar:
        for member in tar:
            inside = path_inside(member)
            name = owners.find(inside) if inside else BESIDE
            if name != run and run:
                packed += len(packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
                yield run, files, unpacked, packed
                files, unpacked, packed = 0, 0, 0
            run = name
            packed += len(packer.compress(member.tobuf(tarfile.PAX_FORMAT)))
            if content := tar.extractfile(member) if member.isreg() else None:
                if inside:
                    files += 1
                    unpacked += member.size
                while chunk := content.read(CHUNK):
                    packed += len(packer.compress(chunk))
    if run:
        yield run, files, unpacked, packed + len(packer.flush())


def _scale(parts: Mapping[str, int], total: int) -> dict[str, int]:
    """The parts in proportion, whole, and together exactly the total."""
    whole, done, given = sum(parts.values()), 0, 0
    scaled = {}
    for name, part in parts.items():
        done += part
        upto = total * done // max(1, whole)
        scaled[name], given = upto - given, upto
    return scaled


def _add(before: Component | None, one: Component, name: str) -> Component:
    if before is None:
        return Component(name, one.files, one.unpacked_bytes, one.packed_bytes)
    return Component(
        name,
        before.files + one.files,
        before.unpacked_bytes + one.unpacked_bytes,
        before.packed_bytes + one.packed_bytes,
    )


def _by_name(report: ImageReport) -> Mapping[str, Component]:
    return {one.name: one for one in report.components}
