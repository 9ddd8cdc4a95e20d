"""Login, first visit and logout: plain forms that need no script."""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qs, quote, urlsplit

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from tinyagentos.access import (
    COOKIE,
    DEVICE_COOKIE,
    DEVICE_LASTS,
    LEAST_LENGTH,
    SESSION_LASTS,
)
from tinyagentos.model.errors import TaosError, Unauthorized
from tinyagentos.visible import visible
from tinyagentos.web.hints import for_web
from tinyagentos.web.look import FILES, HEAD
from tinyagentos.web.services import Services

STATUS = {"unauthorized": 401, "too_many_tries": 429, "conflict": 409}


class Door:
    """The forms' answers."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def login(self, request: Request) -> Response:
        """Ask for the password; then to the page that was wanted."""
        access = self._services.access
        if not access.has_password:
            return RedirectResponse("/setup", 303)
        wanted = own_path(request.query_params.get("next", "/"))
        if request.method == "GET":
            if access.is_session(request.cookies.get(COOKIE, "")):
                return RedirectResponse(wanted, 303)
            return login_page(wanted)
        form = await read_form(request)
        try:
            device = request.cookies.get(DEVICE_COOKIE, "")
            token = await access.log_in(form.get("password", ""), caller(request), device)
        except TaosError as error:
            return login_page(wanted, error)
        return self._enter(request, token, wanted)

    async def setup(self, request: Request) -> Response:
        """The first visit: a code from the machine, then the password."""
        access = self._services.access
        if access.has_password:
            return RedirectResponse("/login", 303)
        if request.method == "GET":
            return setup_page(request.query_params.get("code", ""))
        form = await read_form(request)
        code, password = form.get("code", ""), form.get("password", "")
        try:
            token = await access.set_first_password(code, password, caller(request))
        except TaosError as error:
            return setup_page(code, error)
        return self._enter(request, token, "/")

    async def logout(self, request: Request) -> Response:
        """End the session."""
        self._services.access.log_out(request.cookies.get(COOKIE, ""))
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE)
        return response

    async def icon(self, _: Request) -> Response:
        """The icon, where browsers look for it unasked."""
        return FileResponse(FILES / "icon.svg", media_type="image/svg+xml")

    def _enter(self, request: Request, token: str, to: str) -> Response:
        response = RedirectResponse(to, 303)
        device = self._services.access.new_device()
        for name, value, lasts, path in (
            (COOKIE, token, SESSION_LASTS, "/"),
            (DEVICE_COOKIE, device, DEVICE_LASTS, "/login"),
        ):
            response.set_cookie(
                name, value, path=path, max_age=int(lasts.total_seconds()),
                httponly=True, samesite="strict", secure=request.url.scheme == "https",
            )  # fmt: skip
        return response


def own_path(wanted: str) -> str:
    """The path and query, if they are of this server; a link must not lead elsewhere."""
    try:
        parts = urlsplit(wanted)
    except ValueError:  # such as `//[`
        return "/"
    is_ours = wanted.startswith("/") and not wanted.startswith(("//", "/\\"))
    if not is_ours or parts.netloc:
        return "/"
    path, query = quote(parts.path, safe="/%"), quote(parts.query, safe="=&%+,;:/")
    return f"{path}?{query}" if query else path


def caller(request: Request) -> str:
    """Where the request comes from."""
    return request.client.host if request.client else ""


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a small form."""
    fields = parse_qs((await request.body()).decode(errors="replace"), keep_blank_values=True)
    return {name: values[0] for name, values in fields.items()}


def login_page(wanted: str, error: TaosError | None = None) -> Response:
    """The form that asks for the password."""
    forgotten = for_web("Forgotten? `taos web password` on the machine sets another one.")
    return _form_page(
        "Log in",
        f"/login?next={quote(wanted, safe='/')}",
        f"""{_problem(error)}
        {_field("password", "Password", "current-password", described=bool(error), focus=True)}
        <button class="button primary" type="submit">Log in</button>
        {"" if error else f'<p class="hint">{forgotten}</p>'}""",
        error,
    )


def setup_page(code: str, error: TaosError | None = None) -> Response:
    """The form of the first visit."""
    known = bool(code) and not isinstance(error, Unauthorized)
    return _form_page(
        "Welcome to taOS",
        "/setup",
        f"""<p>Choose the password of these pages. You will use it on every device.</p>
        {_problem(error)}
        <label for="code">Setup code</label>
        <input id="code" name="code" value="{escape(code)}" required autocomplete="off"
         autocapitalize="none" spellcheck="false" {"" if known else "autofocus"}>
        <p class="hint">From <code>taos up</code> or <code>taos web link</code> on the machine.</p>
        {_field("password", "New password", "new-password", described=bool(error), focus=known)}
        <p class="hint">At least {LEAST_LENGTH} characters; a few words are good.</p>
        <button class="button primary" type="submit">Set password and go on</button>""",
        error,
    )


def plain_page(title: str, body: str, *, status: int = 200, again: bool = False) -> Response:
    """A page of its own, in the look of all others."""
    refresh = '<meta http-equiv="refresh" content="1">' if again else ""
    return HTMLResponse(
        f"""<!doctype html><html lang="en"><head><meta charset="utf-8">{refresh}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(visible(title))}</title>{HEAD}</head>
<body class="door"><main class="door-card">{visible(body)}</main></body></html>""",
        status,
        headers={"Cache-Control": "no-store"},
    )


def _form_page(title: str, action: str, fields: str, error: TaosError | None) -> Response:
    body = f"""<p class="brand">taOS</p><h1>{escape(title)}</h1>
    <form method="post" action="{escape(action)}" class="stack">{fields}</form>"""
    status = STATUS.get(error.code, 422) if error else 200
    return plain_page(f"{title} · taOS", body, status=status)


def _field(name: str, label: str, complete: str, *, described: bool, focus: bool) -> str:
    more = 'aria-describedby="problem" aria-invalid="true"' if described else ""
    return f"""<label for="{name}">{label}</label>
    <input id="{name}" name="{name}" type="password" required autocomplete="{complete}"
     {"autofocus" if focus else ""} {more}>"""


def _problem(error: TaosError | None) -> str:
    if error is None:
        return ""
    return f"""<div class="notice fail" id="problem" role="alert"><p><strong>{escape(error.message)}
    </strong></p><p>{for_web(error.hint)}</p></div>"""
