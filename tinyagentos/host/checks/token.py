"""The API has its token, readable by its owner only."""

from __future__ import annotations

from tinyagentos.host.check import Check, Finding, Ground, Report, broken, fine
from tinyagentos.host.token import ensure_token


async def look(ground: Ground) -> Finding:
    """Whether the file is there and closed to others."""
    path = ground.settings.token_file
    if not path.exists():
        return broken("the API has no token", plan="make the API's token")
    if path.stat().st_mode & 0o077:
        return broken(f"{path} can be read by others", plan=f"close {path} to others")
    return fine("the API's token is made")


async def fix(ground: Ground, _: Report) -> None:
    """Make the token; close it to others."""
    ensure_token(ground.settings.token_file)
    ground.settings.token_file.chmod(0o600)


CHECK = Check("token", "without it only the Unix socket would let anybody in", look, fix)
