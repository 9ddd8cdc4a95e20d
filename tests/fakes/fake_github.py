"""The part of GitHub's REST API that a release's assets need, behind an httpx transport.

As the real one: an upload that broke off leaves an asset in the state `starter`, two assets cannot
have one name, what is not there answers 404, and 30 assets are a page unless more are asked for.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from tinyagentos.model.errors import NotFound

API = "https://api.github.test"
UPLOADS = "https://uploads.github.test"
STORAGE = "https://storage.github.test"
TOKEN = "a-token"


@dataclass
class FakeAsset:
    """A file of the release."""

    number: int
    name: str
    content: bytes
    state: str = "uploaded"

    def as_json(self) -> dict[str, object]:
        """As the API shows it."""
        digest = hashlib.sha256(self.content).hexdigest()
        return {
            "id": self.number, "name": self.name, "size": len(self.content), "state": self.state,
            "digest": f"sha256:{digest}" if self.state == "uploaded" else None,
        }  # fmt: skip


@dataclass
class FakeGithub:
    """One repository. lose: the number of the request to lose, and whether it is done first."""

    repository: str = "me/taos"
    tag: str = ""
    release: dict[str, object] = field(default_factory=dict)
    assets: list[FakeAsset] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    lose: tuple[int, bool] | None = None
    spoil_uploads: bool = False

    def __post_init__(self) -> None:
        self._numbers = itertools.count(100)

    def client(self) -> httpx.Client:
        """A client that reaches nothing else, and shows the token."""
        return httpx.Client(
            base_url=API, transport=httpx.MockTransport(self._handle), follow_redirects=True,
            headers={"Authorization": f"Bearer {TOKEN}"},
        )  # fmt: skip

    def fetch(self, name: str) -> Iterator[bytes]:
        """What an anonymous client gets under the release's download address."""
        asset = self._named(name)
        if asset is None or asset.state != "uploaded":
            raise NotFound(f"no {name}")
        yield asset.content

    def names(self) -> set[str]:
        """The assets that can be downloaded."""
        return {one.name for one in self.assets if one.state == "uploaded"}

    def _named(self, name: str) -> FakeAsset | None:
        return next((one for one in self.assets if one.name == name), None)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(f"{request.method} {request.url.path}")
        is_lost = self.lose is not None and len(self.requests) - 1 == self.lose[0]
        if is_lost and self.lose and not self.lose[1]:
            if request.url.host in UPLOADS:  # a part of the file arrived
                name = request.url.params["name"]
                if self._named(name) is None:
                    self._add(name, request.read()[:10], "starter")
            raise httpx.ConnectError("the line is cut")
        answer = self._answer(request)
        if is_lost:
            raise httpx.ReadError("the line is cut")
        return answer

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.host in STORAGE:
            assert "Authorization" not in request.headers
            return httpx.Response(200, content=self._by(request.url.path.strip("/")).content)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return httpx.Response(401, json={"message": "Bad credentials"})
        base = f"/repos/{self.repository}/releases"
        path = request.url.path
        if not path.startswith(base):
            return httpx.Response(404, json={"message": "Not Found"})
        route = f"{request.method} {path.removeprefix(base)}"
        if route == f"GET /tags/{self.tag}" and self.release:
            return httpx.Response(200, json=self.release)
        if route == "POST ":
            return self._create(json.loads(request.content))
        if not self.release:
            return httpx.Response(404, json={"message": "Not Found"})
        if route == "GET /1/assets":
            size = int(request.url.params.get("per_page", 30))
            start = (int(request.url.params.get("page", 1)) - 1) * size
            shown = self.assets[start : start + size]
            return httpx.Response(200, json=[one.as_json() for one in shown])
        if route == "POST /1/assets":
            return self._upload(request)
        if found := re.fullmatch(r"(GET|PATCH|DELETE) /assets/(\d+)", route):
            return self._touch(request, found[1], self._by(found[2]))
        return httpx.Response(404, json={"message": "Not Found"})

    def _create(self, body: dict[str, str]) -> httpx.Response:
        if self.release:
            return httpx.Response(422, json={"message": "already_exists"})
        self.tag = body["tag_name"]
        url = f"{UPLOADS}/repos/{self.repository}/releases/1/assets{{?name,label}}"
        self.release = {"id": 1, "tag_name": self.tag, "upload_url": url}
        return httpx.Response(201, json=self.release)

    def _upload(self, request: httpx.Request) -> httpx.Response:
        assert request.url.host in UPLOADS
        name, content = request.url.params["name"], request.read()
        assert request.headers["Content-Length"] == str(len(content))
        assert "Transfer-Encoding" not in request.headers
        if self._named(name):
            return httpx.Response(422, json={"message": "already_exists"})
        made = self._add(name, content[:-1] if self.spoil_uploads else content, "uploaded")
        return httpx.Response(201, json=made.as_json())

    def _touch(self, request: httpx.Request, method: str, asset: FakeAsset) -> httpx.Response:
        if method == "DELETE":
            self.assets.remove(asset)
            return httpx.Response(204)
        if method == "PATCH":
            name = json.loads(request.content)["name"]
            if self._named(name):
                return httpx.Response(422, json={"message": "already_exists"})
            asset.name = name
            return httpx.Response(200, json=asset.as_json())
        assert request.headers["Accept"] == "application/octet-stream"
        return httpx.Response(302, headers={"Location": f"{STORAGE}/{asset.number}"})

    def _by(self, number: str) -> FakeAsset:
        return next(one for one in self.assets if one.number == int(number))

    def _add(self, name: str, content: bytes, state: str) -> FakeAsset:
        made = FakeAsset(next(self._numbers), name, content, state)
        self.assets.append(made)
        return made
