"""A channel as the assets of a GitHub release.

GitHub cannot replace an asset in one step. The new timestamp is uploaded under a name of its own,
the old one is renamed to `previous.timestamp.json`, then the new one takes its name: clients that
come between the two read the previous one, which is as good until it expires.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from tinyagentos.factory.candidate import Upload
from tinyagentos.factory.shelf import NOT_WHOLE, checked
from tinyagentos.model.errors import InvalidInput, NotFound, Unauthorized, Unavailable
from tinyagentos.model.release import FILE_NAME, WrongContent
from tinyagentos.signing.channel import PREVIOUS_TIMESTAMP, TIMESTAMP_FILE

NEXT_TIMESTAMP = f"next.{TIMESTAMP_FILE}"
PREFIX = "github:"
# Each bounds a silence, not a transfer: a slow link takes as long as it needs.
TIMEOUT = httpx.Timeout(60.0, connect=20.0)
PAGE = 100
MAX_PAGES = 50
BODY = "Images for taOS, and the signed metadata that says which they are. Files never change."


@dataclass(frozen=True)
class Place:
    """A release of a repository."""

    repository: str
    tag: str


@dataclass(frozen=True)
class Asset:
    """A file of the release. digest: its SHA-256 where GitHub says it, else empty."""

    number: int
    name: str
    size_bytes: int
    is_whole: bool
    digest: str


def parse_place(to: str) -> Place:
    """`github:owner/repo@tag` as a place; InvalidInput when it is not that."""
    found = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+)@([\w.-]+)", to, re.ASCII)
    if not found:
        raise InvalidInput(
            f"{to[:80]!r} names no release.", hint="Write github:OWNER/REPOSITORY@TAG."
        )
    return Place(found[1], found[2])


class GithubShelf:
    """The assets of one release, which is made when the first file comes."""

    def __init__(self, http: httpx.Client, place: Place) -> None:
        """http: a client whose base is the API and which shows a token."""
        self._http = http
        self._place = place
        self._release: Mapping[str, Any] | None = None  # JSON of GitHub
        self._assets: dict[str, Asset] = {}

    @classmethod
    def connect(cls, place: Place, *, api: str, token: str) -> GithubShelf:
        """The shelf with that token; nothing is sent yet. Raises Unauthorized without one."""
        if not token:
            raise Unauthorized(
                "Publishing to GitHub needs a token.",
                hint="Put one that may write the repository's contents in TAOS_GITHUB_TOKEN.",
            )
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {token}",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        http = httpx.Client(base_url=api, headers=headers, timeout=TIMEOUT, follow_redirects=True)
        return cls(http, place)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Look at the release as it is now. GitHub has no locks: let one workflow publish."""
        with self._http:
            self._look()
            yield

    def files(self) -> Mapping[str, int]:
        """The assets with their sizes; NOT_WHOLE where an upload broke off."""
        return {
            one.name: one.size_bytes if one.is_whole else NOT_WHOLE for one in self._assets.values()
        }

    def fetch(self, name: str) -> Iterator[bytes]:
        """The content of an asset; NotFound when there is none."""
        asset = self._assets.get(name)
        if asset is None or not asset.is_whole:
            raise NotFound(f"The release has no {name}.", hint="Look at its assets.")
        headers = {"Accept": "application/octet-stream"}
        request = self._http.build_request("GET", self._asset_path(asset), headers=headers)
        with self._answered(request, stream=True) as response:
            yield from response.iter_bytes()

    def has(self, upload: Upload) -> bool:
        """Whether the asset is there whole; its digest is compared where GitHub says it."""
        asset = self._assets.get(upload.name)
        return (
            asset is not None
            and asset.is_whole
            and asset.size_bytes == upload.size_bytes
            and asset.digest in {"", upload.sha256}
        )

    def add(self, upload: Upload) -> None:
        """Have the asset there; what is left of an upload that broke off goes first."""
        if not re.fullmatch(FILE_NAME, upload.name):
            raise InvalidInput(f"An asset cannot be called {upload.name!r}.", hint="Rename it.")
        self.remove(upload.name)
        url = str(self._made()["upload_url"]).partition("{")[0]
        with self._sent(
            "POST",
            url,
            params={"name": upload.name},
            content=checked(upload),
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(upload.size_bytes),
            },
        ) as response:
            asset = _asset(response.json())
        self._assets[asset.name] = asset
        if asset.name != upload.name or not self.has(upload):
            raise WrongContent(
                f"GitHub has {upload.name} otherwise than it was sent.", hint="Publish again."
            )

    def replace_timestamp(self, upload: Upload) -> None:
        """Have this as the timestamp; between two requests the one before stands in for it."""
        self.add(Upload(NEXT_TIMESTAMP, upload.sha256, upload.size_bytes, upload.content))
        if TIMESTAMP_FILE in self._assets:
            self.remove(PREVIOUS_TIMESTAMP)
            self._rename(TIMESTAMP_FILE, PREVIOUS_TIMESTAMP)
        self._rename(NEXT_TIMESTAMP, TIMESTAMP_FILE)

    def remove(self, name: str) -> None:
        """Have no such asset."""
        asset = self._assets.get(name)
        if asset is None:
            return
        with self._sent("DELETE", self._asset_path(asset), missing_ok=True):
            del self._assets[name]

    def _rename(self, old: str, new: str) -> None:
        asset = self._assets[old]
        with self._sent("PATCH", self._asset_path(asset), json={"name": new}) as response:
            renamed = _asset(response.json())
        del self._assets[old]
        self._assets[renamed.name] = renamed

    def _look(self) -> None:
        path = f"{self._repository}/releases/tags/{quote(self._place.tag, safe='')}"
        with self._sent("GET", path, missing_ok=True) as response:
            self._release = (
                None if response.status_code == httpx.codes.NOT_FOUND else response.json()
            )
        self._assets = {one.name: one for one in self._list()} if self._release else {}

    def _list(self) -> Iterator[Asset]:
        for page in range(1, MAX_PAGES + 1):
            params = {"per_page": PAGE, "page": page}
            with self._sent("GET", f"{self._release_path}/assets", params=params) as response:
                found = response.json()
            yield from map(_asset, found)
            if len(found) < PAGE:
                return

    def _made(self) -> Mapping[str, Any]:  # JSON of GitHub
        if self._release is None:
            body = {
                "tag_name": self._place.tag, "name": self._place.tag, "body": BODY,
                # The repository's own versions stay what visitors are shown.
                "prerelease": True, "make_latest": "false",
            }  # fmt: skip
            with self._sent("POST", f"{self._repository}/releases", json=body) as response:
                self._release = response.json()
        return self._release

    @property
    def _repository(self) -> str:
        return f"/repos/{self._place.repository}"

    @property
    def _release_path(self) -> str:
        return f"{self._repository}/releases/{self._made()['id']}"

    def _asset_path(self, asset: Asset) -> str:
        return f"{self._repository}/releases/assets/{asset.number}"

    @contextmanager
    def _sent(
        self,
        method: str,
        url: str,
        *,
        missing_ok: bool = False,
        **more: Any,  # noqa: ANN401 - httpx has the types
    ) -> Iterator[httpx.Response]:
        request = self._http.build_request(method, url, **more)
        with self._answered(request, missing_ok=missing_ok) as response:
            yield response

    @contextmanager
    def _answered(
        self, request: httpx.Request, *, missing_ok: bool = False, stream: bool = False
    ) -> Iterator[httpx.Response]:
        try:
            response = self._http.send(request, stream=True)
            try:
                if not stream or response.is_error:
                    response.read()
                if response.is_error and not (missing_ok and response.status_code == 404):
                    raise self._refused(request, response)
                yield response
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise Unavailable(
                f"GitHub did not answer {request.method} {request.url.path}: {error}.",
                hint="Publish again: what is there already stays.",
            ) from error

    def _refused(
        self, request: httpx.Request, response: httpx.Response
    ) -> Unauthorized | NotFound | Unavailable:
        where = f"{request.method} {request.url.path}"
        if response.status_code in {401, 403}:
            return Unauthorized(
                f"GitHub does not let the token do this: {where} ({_reason(response)}).",
                hint="The token has to be allowed to write the repository's contents.",
            )
        if response.status_code == httpx.codes.NOT_FOUND:
            return NotFound(
                f"GitHub has no {request.url.path}.",
                hint=f"Is the repository {self._place.repository}, and may the token see it?",
            )
        return Unavailable(
            f"GitHub answered {where} with {response.status_code}: {_reason(response)}.",
            hint="Publish again: what is there already stays.",
        )


def _asset(found: Mapping[str, Any]) -> Asset:  # JSON of GitHub
    return Asset(
        number=int(found["id"]),
        name=str(found["name"]),
        size_bytes=int(found["size"]),
        is_whole=found["state"] == "uploaded",
        digest=str(found.get("digest") or "").removeprefix("sha256:"),
    )


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase
