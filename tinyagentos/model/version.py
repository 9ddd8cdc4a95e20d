"""Which of two versions is the newer one, whatever their framework counts by."""

from __future__ import annotations

import re
from itertools import zip_longest

_PART = re.compile(r"\d+|[a-z]+")
# Words that follow on a release; every other one (alpha, beta, dev, rc) comes before it.
_LATER = frozenset({"hotfix", "p", "patch", "post"})
_Part = tuple[int, int, str]
_NOTHING: _Part = (1, 0, "")


def is_newer(version: str, than: str) -> bool:
    """Whether the version is newer than the other: by its numbers, part for part.

    `2026.10.1` is newer than `2026.9.6`, `1.0` than `1.0-rc2`; `1.0` and `1.0.0` are the same.
    """
    for mine, other in zip_longest(_parts(version), _parts(than), fillvalue=_NOTHING):
        if mine != other:
            return mine > other
    return False


def _parts(version: str) -> list[_Part]:
    return [
        (1, int(part), "") if part.isdecimal() else (int(part in _LATER), 0, part)
        for part in _PART.findall(version.lower().removeprefix("v"))
    ]
