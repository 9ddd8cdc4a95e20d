"""Globs of paths, as recipes write them."""

from __future__ import annotations

import re
from functools import cache


@cache
def pattern(glob: str) -> re.Pattern[str]:
    """`*` within one folder, `**` across folders, all else to the letter."""
    parts = re.split(r"(\*\*/|\*\*|\*)", glob)
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    return re.compile("".join(words.get(part) or re.escape(part) for part in parts), re.DOTALL)
