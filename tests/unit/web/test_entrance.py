"""The way in: what is answered while the pages load, when they cannot be, and the forms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import httpx
import pytest

from tests.unit.api.fake_services import FakeServices
from tinyagentos.access import COOKIE
from tinyagentos.api.app import create_api
from tinyagentos.web.door import own_path
from tinyagentos.web.entrance import Entrance
from tinyagentos.web.look import HEAD, STATIC
from tinyagentos.web.services import Services

PASSWORD = "correct horse"
OURS = {"Origin": "http://localhost:8420", "Accept": "text/html"}


@pytest.fixture
def services(tmp_path: Path) -> FakeServices:
    return FakeServices(tmp_path)


@pytest.fixture
def entrance(services: FakeServices) -> Entrance:
    return Entrance(cast(Services, services))  # the forms need access alone


@pytest.fixture
async def http(services: FakeServices, entrance: Entrance) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_api(services, entrance))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost:8420", headers=OURS
    ) as client:
        yield client


async def test_from_the_first_visit_to_logout(
    http: httpx.AsyncClient, services: FakeServices
) -> None:
    assert (await http.get("/")).headers["location"] == "/login"
    assert (await http.get("/login")).headers["location"] == "/setup"
    code = services.access.new_code()
    page = await http.get(code.path)
    assert f'value="{code.code}"' in page.text
    assert page.headers["cache-control"] == "no-store"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    form = {"code": code.code, "password": "short"}
    assert (await http.post("/setup", data=form)).status_code == 422
    done = await http.post("/setup", data=form | {"password": PASSWORD})
    assert done.status_code == 303
    cookie = done.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie
    assert (await http.get("/api/agents")).status_code == 200
    assert (await http.get("/setup")).headers["location"] == "/login"
    assert (await http.get("/login?next=/host")).headers["location"] == "/host"
    await http.post("/logout")
    assert (await http.get("/api/agents")).status_code == 401


async def test_under_tls_the_cookie_is_for_tls_only(
    http: httpx.AsyncClient, services: FakeServices
) -> None:
    await services.access.set_password(PASSWORD)
    http.base_url = httpx.URL("https://localhost:8420")
    done = await http.post(
        "/login?next=/jobs",
        data={"password": PASSWORD},
        headers={"Origin": "https://localhost:8420"},
    )
    assert (done.status_code, done.headers["location"]) == (303, "/jobs")
    assert "secure" in done.headers["set-cookie"].lower()


async def test_guesses_are_refused_then_slowed_down(
    http: httpx.AsyncClient, services: FakeServices
) -> None:
    await services.access.set_password(PASSWORD)
    codes = [
        (await http.post("/login", data={"password": f"wrong {n}"})).status_code for n in range(6)
    ]
    assert codes == [401] * 5 + [429]
    page = await http.post("/login", data={"password": '"><script>'})
    assert "<script>" not in page.text
    assert COOKIE not in http.cookies


async def test_a_browser_that_was_in_before_gets_in_while_others_guess(
    http: httpx.AsyncClient, services: FakeServices
) -> None:
    await services.access.set_password(PASSWORD)
    done = await http.post("/login", data={"password": PASSWORD})
    [device] = [one for one in done.headers.get_list("set-cookie") if "taos_device" in one]
    for word in ("HttpOnly", "SameSite=strict", "Path=/login"):
        assert word in device
    http.cookies.clear()
    right = {"password": PASSWORD}
    for number in range(5):
        await http.post("/login", data={"password": f"wrong {number}"})
    assert (await http.post("/login", data=right)).status_code == 429
    http.headers["Cookie"] = device.partition(";")[0]
    assert (await http.post("/login", data=right)).status_code == 303


async def test_what_a_visitor_sees_while_the_pages_load(
    http: httpx.AsyncClient, services: FakeServices, entrance: Entrance
) -> None:
    await services.access.set_password(PASSWORD)
    await http.post("/login", data={"password": PASSWORD})
    page = await http.get("/agents/hello")
    assert page.status_code == 503
    assert 'http-equiv="refresh"' in page.text
    assert (await http.get("/x", headers={"Accept": "*/*"})).headers["retry-after"] == "1"
    entrance._failed = True
    page = await http.get("/")
    assert "cannot be loaded" in page.text
    assert "refresh" not in page.text
    assert (await http.get("/api/agents")).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/_taos", "/_taos/", "/_taos/x", f"{STATIC}/x", f"{STATIC}/", "/_nicegui/", "/_nicegui/x",
     "/_nicegui/3.18.0/static/nicegui.js", "/_nicegui/3.18.0/components/made-up",
     "/_nicegui_ws/socket.io/?EIO=4&transport=polling", "/_nicegui_ws/socket.io/"],
)  # fmt: skip
async def test_to_a_stranger_the_pages_files_are_not_there(
    http: httpx.AsyncClient, entrance: Entrance, path: str
) -> None:
    async def pages(*_: object) -> None:
        raise AssertionError("a page was made for a stranger")

    entrance._pages = pages
    answer = await http.get(path)
    is_login = path == "/_taos"  # it is below no open folder
    assert (answer.status_code, len(answer.content) < 300) == (303 if is_login else 404, True)


async def test_files_are_for_everybody_and_nothing_else_is(http: httpx.AsyncClient) -> None:
    for name in ("taos.css", "taos.js", "icon.svg"):
        assert (await http.get(f"{STATIC}/{name}")).status_code == 200
    assert (await http.get("/favicon.ico")).status_code == 200
    for path in (f"{STATIC}/../door.py", f"{STATIC}/%2e%2e/door.py", "/_taos/x/taos.css"):
        assert (await http.get(path)).status_code != 200
    assert "//" not in HEAD.replace("</", "")


@pytest.mark.parametrize(
    "wanted",
    ["//evil.test", "https://evil.test/", "/\\evil.test", "javascript:alert(1)", "", "//[", "/\t/[",
     "/\t/evil.test", "[", "?deploy=1"],
)  # fmt: skip
async def test_the_login_leads_nowhere_else(
    http: httpx.AsyncClient, services: FakeServices, wanted: str
) -> None:
    assert own_path(wanted) == "/"
    await services.access.set_password(PASSWORD)
    page = await http.get("/login", params={"next": wanted})
    assert 'action="/login?next=/"' in page.text


@pytest.mark.parametrize(
    "wanted",
    ["/", "/agents/hello", "/?deploy=1", "/agents/hello?x=1&y=a%26b%20c+d", "/a%20b?c", "/%3Fa?b"],
)
async def test_the_login_leads_to_what_was_wanted(
    http: httpx.AsyncClient, services: FakeServices, wanted: str
) -> None:
    assert own_path(wanted) == wanted
    await services.access.set_password(PASSWORD)
    asked = await http.get(wanted)
    done = await http.post(asked.headers["location"], data={"password": PASSWORD})
    assert (done.status_code, done.headers["location"]) == (303, wanted)


async def test_the_form_keeps_what_was_wanted(
    http: httpx.AsyncClient, services: FakeServices
) -> None:
    await services.access.set_password(PASSWORD)
    page = await http.get("/login", params={"next": '/jobs?x="><script>'})
    assert "<script>" not in page.text
    assert 'action="/login?next=/jobs%3Fx%3D%2522%253E%253Cscript%253E"' in page.text
