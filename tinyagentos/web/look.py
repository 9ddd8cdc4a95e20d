"""The look of all pages: files, icons, and the address they are served at.

The address carries a digest of the files, so that browsers keep them until they change.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

FILES = Path(__file__).parent / "static"


def _digest() -> str:
    read = hashlib.sha256()
    for path in sorted(FILES.iterdir()):
        read.update(path.read_bytes())
    return read.hexdigest()[:12]


OWN_FILES = "/_taos"
STATIC = f"{OWN_FILES}/{_digest()}"
HEAD = f"""<link rel="stylesheet" href="{STATIC}/taos.css">
<link rel="icon" type="image/svg+xml" href="{STATIC}/icon.svg">
<script defer src="{STATIC}/taos.js"></script>"""

# 24x24 outlines, drawn for taOS.
ICONS = {
    "agents": "M12 3v3M7 6h10a3 3 0 0 1 3 3v7a3 3 0 0 1-3 3H7a3 3 0 0 1-3-3V9a3 3 0 0 1 3-3z"
    "M9 11v2M15 11v2M9 16h6",
    "images": "M12 3l8 4.5v9L12 21l-8-4.5v-9zM12 12l8-4.5M12 12v9M12 12L4 7.5",
    "models": "M7 18a4 4 0 0 1-.5-7.97 6 6 0 0 1 11.6 1.02A3.5 3.5 0 0 1 17.5 18z",
    "jobs": "M4 6h2M4 12h2M4 18h2M10 6h10M10 12h10M10 18h7",
    "host": "M4 5h16v6H4zM4 13h16v6H4zM8 8h.01M8 16h.01",
    "plus": "M12 5v14M5 12h14",
    "back": "M15 5l-7 7 7 7",
    "theme": "M12 4a8 8 0 1 0 8 8 6 6 0 0 1-8-8z",
    "logout": "M10 4H5v16h5M14 8l4 4-4 4M18 12H9",
    "ok": "M5 12.5l4.5 4.5L19 7.5",
    "warn": "M12 4l9 16H3zM12 10v4M12 17h.01",
    "fail": "M6 6l12 12M18 6L6 18",
    "stop": "M7 7h10v10H7z",
    "wait": "M12 7v5l3 2M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z",
    "busy": "M12 3a9 9 0 1 0 9 9",
    "download": "M12 4v11M7 11l5 5 5-5M5 20h14",
}


def icon(name: str) -> str:
    """The icon as SVG; words beside it say what it means."""
    return (
        f'<svg class="icon icon-{name}" viewBox="0 0 24 24" aria-hidden="true" focusable="false">'
        f'<path d="{ICONS[name]}"/></svg>'
    )
