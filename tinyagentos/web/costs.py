"""What deploying a framework costs here, of bytes and time, in words."""

from __future__ import annotations

from tinyagentos.model.agent import Framework
from tinyagentos.model.image import ImagePolicy
from tinyagentos.web import words

# Why a deploy would not have an image fetched that is not here.
NO_CHANNEL = "no channel of images is configured"
NOT_FETCHED = {
    None: NO_CHANNEL,
    ImagePolicy.off: "images are never fetched here",
    ImagePolicy.manual: "images are fetched only when you ask",
}


def describe(one: Framework) -> str:
    """The framework in two lines: what it needs, and what each way of getting it costs."""
    ways = (
        f"{took} {said}"
        for way, said in (("image", "by image"), ("build", "built"))
        if (took := words.about(one.expected_seconds.get(way)))
    )
    costs = "; ".join(filter(None, (say_image(one), ", ".join(ways))))
    need = f"Version {one.version}, needs {words.memory(one.memory_bytes)} of memory."
    return f"{need} {_sentence(costs)}."


def say_image(one: Framework) -> str:
    """The framework's image: how large, and whether it is here."""
    if one.image_size_bytes:
        here = ", here already" if is_here(one) else ""
        return f"{words.size(one.image_size_bytes)} image{here}"
    if one.image_budget_bytes:
        return f"image of at most {words.size(one.image_budget_bytes)}"
    return "image of unknown size"


def is_here(one: Framework) -> bool:
    """Whether its image is on this host."""
    return one.expected_seconds.get("download") == 0


def source_options(one: Framework, policy: ImagePolicy | None) -> dict[str, tuple[str, str]]:
    """The ways a deploy can go, each with its price here. policy: None without a channel."""
    build = words.about(one.expected_seconds.get("build")) or "some time"
    built = f"{_sentence(build)}; fetches the parts from their makers."
    return {
        "fastest": ("The quickest way", _say_fastest(one, policy, build)),
        "image": ("Only by image", _say_by_image(one, policy)),
        "build": ("Build on this host", built),
    }


def _say_fastest(one: Framework, policy: ImagePolicy | None, build: str) -> str:
    if is_here(one):
        return f"By its image, which is here: {_deploy(one)}."
    if policy in NOT_FETCHED:
        return f"A build, {build}: no image is here, and {NOT_FETCHED[policy]}."
    by_image = _with_download(one) or "timed when its download begins"
    return f"Whichever is sooner: its image ({by_image}) or a build ({build})."


def _say_by_image(one: Framework, policy: ImagePolicy | None) -> str:
    if is_here(one):
        return f"{_sentence(_deploy(one))}; its image is here."
    if policy in (None, ImagePolicy.off):
        return f"Not possible now: no image is here, and {NOT_FETCHED[policy]}."
    if whole := _with_download(one):
        return f"{_sentence(whole)}, with the download of its {say_image(one)}."
    return f"Waits for its {say_image(one)}, then {_deploy(one)}."


def compare(one: Framework, *, has_channel: bool = True) -> str:
    """Both ways to an agent of the framework, in a sentence: what a policy decides about."""
    build = words.about(one.expected_seconds.get("build")) or "for an unknown time"
    if is_here(one):
        return f"{one.title}: {say_image(one)}; by it {_deploy(one)}, built {build}."
    if not has_channel:
        return f"{one.title}: build {build}; by the image that it leaves {_deploy(one)}."
    took = words.about(one.expected_seconds.get("download"))
    download = f"download {took}" if took else "how long its download takes is not known yet"
    return (
        f"{one.title}: {say_image(one)}; {download}, then a deploy {_deploy(one)}; build {build}."
    )


def _deploy(one: Framework) -> str:
    return words.about(one.expected_seconds.get("image")) or "some seconds"


def _with_download(one: Framework) -> str:
    """By image with its download; empty when nobody knows."""
    download, image = (one.expected_seconds.get(way) for way in ("download", "image"))
    return "" if download is None or image is None else words.about(download + image)


def _sentence(said: str) -> str:
    return said[:1].upper() + said[1:]
