"""What every page has: frame, navigation, buttons, fields, dialogs, and failures in words."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from markupsafe import Markup
from nicegui import ui
from nicegui.element import Element
from nicegui.events import GenericEventArguments

from tinyagentos.incus import IncusError
from tinyagentos.model.errors import TaosError
from tinyagentos.web.feed import Change, Feed
from tinyagentos.web.hints import for_web
from tinyagentos.web.look import STATIC
from tinyagentos.web.markup import Content, as_html, el, icon, notice, plain
from tinyagentos.web.services import Services

PLACES = (
    ("/", "agents", "Agents"),
    ("/images", "images", "Images"),
    ("/models", "models", "Models"),
    ("/jobs", "jobs", "Jobs"),
    ("/host", "host", "Host"),
)
Act = Callable[[], Awaitable[None] | None]
_numbers = count()


@dataclass(frozen=True)
class Site:
    """What pages are built from."""

    services: Services
    feed: Feed

    def listen(self, show: Callable[[Change], Awaitable[None] | None]) -> None:
        """Have show called after each change for as long as the page is open."""
        client = ui.context.client

        async def in_page(change: Change) -> None:
            with client:
                waiting = show(change)
                if waiting is not None:
                    await waiting

        client.on_delete(self.feed.listen(in_page))

    def explain(self, error: BaseException) -> tuple[str, str]:
        """A sentence and a hint. What shows a hint words it for the web (hints.py)."""
        problem = self.services.explain(error)
        return problem.message, problem.hint

    def button(self, label: str, act: Act, kind: str = "", drawing: str = "") -> ui.html:
        """A button that says in words when what it does fails. It waits until that is done."""

        async def click() -> None:
            made.props("disabled")
            try:
                waiting = act()
                if inspect.isawaitable(waiting):
                    await waiting
            except (TaosError, IncusError) as error:
                tell(*self.explain(error), kind="fail")
            finally:
                if not made.is_deleted:
                    made.props(remove="disabled")

        inside = Markup("").join([icon(drawing) if drawing else "", label])
        made = show(inside, tag="button").classes(f"button {kind}").props("type=button")
        made.on("click", click, [])
        return made


@contextmanager
def frame(
    title: str,
    place: str,
    back: tuple[str, str] | None = None,
    called: Callable[[], object] = lambda: None,
) -> Iterator[Element]:
    """A page with its title; what is built inside stands below. Gives the row beside the title.

    called: builds what else the title says.
    """
    client = ui.context.client
    ui.page_title(f"{plain(title)} · taOS")
    with client.layout:
        show(_top(place), tag="header").classes("top").move(target_index=0)
    with ui.element("div").classes("page").props("id=main tabindex=-1"):
        with ui.element("div").classes("title"):
            with ui.element("div").classes("words"):
                if back:
                    show(el("a", icon("back"), back[1], href=back[0], class_="back"))
                with ui.element("div").classes("line"):
                    show(title, tag="h1")
                    called()
            beside = ui.element("div").classes("row")
        yield beside


def _top(place: str) -> Markup:
    items = (
        el("li", el("a", icon(name), label, href=path,
                    aria_current="page" if name == place else None))
        for path, name, label in PLACES
    )  # fmt: skip
    theme = el(
        "button", icon("theme"), el("span", "Theme: ", class_="hidden-words"),
        el("span", "auto", data_theme_word=True), type="button", onclick="taosTheme()",
        class_="icon-button", title="Colours: automatic, light or dark",
    )  # fmt: skip
    leave = el(
        "form",
        el("button", icon("logout"), el("span", "Log out", class_="hidden-words"), type="submit",
           class_="icon-button", title="Log out"),
        method="post", action="/logout",
    )  # fmt: skip
    return el(
        "div",
        el("a", "Skip to the content", href="#main", class_="skip"),
        el("a", el("img", src=f"{STATIC}/icon.svg", alt=""), "taOS", href="/", class_="brand"),
        el("nav", el("ul", *items, class_="nav"), aria_label="Main", class_="nav-wrap"),
        el("div", theme, leave, class_="tools"),
        class_="top-in",
    )


def show(content: Content = None, tag: str = "div") -> ui.html:
    """An element of our own markup; what is no markup is shown as the words it is."""
    return ui.html(as_html(content), sanitize=False, tag=tag)


def put(element: ui.html, content: Content) -> None:
    """Show other markup or words in the element; nothing is sent when it is the same."""
    element.content = as_html(content)


def announcer() -> ui.html:
    """A place whose words a screen reader speaks when they change."""
    return show().classes("hidden-words").props("role=status aria-live=polite")


def tell(message: str, hint: str = "", kind: str = "ok") -> None:
    """Say something for a few seconds; a failure stays longer."""
    is_failure = kind == "fail"
    ui.notify(
        plain(message),
        position="top",  # on a phone dialogs and navigation are at the bottom
        caption=plain(for_web(hint)) or None,
        timeout=15000 if is_failure else 4000,
        multi_line=bool(hint),
        close_button="Close" if is_failure else False,
        classes="note-fail" if is_failure else "note-ok",
        color="note",  # no colour of Quasar's: they are `!important`
        textColor="note",
    )


@dataclass
class Field:
    """A field with its label and a line below that says what is wrong with it."""

    value: str
    box: Element
    line: ui.html
    id: str

    def set(self, value: str) -> None:
        """Have another value in it. Vue knows only what the field began with."""
        self.value = value
        self.box.client.run_javascript(
            f"taosSet({json.dumps(self.id)}, {json.dumps(plain(value))})"
        )

    def say(self, words: str, *, wrong: bool = False) -> None:
        """Change the line below."""
        put(self.line, words)
        self.line.classes("fail" if wrong else "", remove="" if wrong else "fail")


def text_field(
    label: str,
    value: str = "",
    hint: str = "",
    on_input: Callable[[str], object] = lambda _: None,
    **attributes: str,
) -> Field:
    """A line to type in. Its value is what was typed last."""
    name = f"field-{next(_numbers)}"
    with ui.element("div").classes("field"):
        show(label, tag="label").props(f"for={name}")
        # `^`: the attribute. Vue would set the property back whenever anything else changes.
        box = ui.element("input").props(f"id={name} aria-describedby={name}-said autocomplete=off")
        for key, given in ({"type": "text", "^value": plain(value)} | attributes).items():
            box._props[key] = given
        line = show(hint).classes("said").props(f"id={name}-said aria-live=polite")
    field = Field(value, box, line, name)

    def typed(event: GenericEventArguments) -> None:
        field.value = str(event.args)
        on_input(field.value)

    box.on("input", typed, js_handler="(e) => emit(e.target.value)")
    return field


def choices(
    legend: str,
    options: Mapping[str, tuple[str, str]],
    value: str,
    on_choose: Callable[[str], Awaitable[None] | None],
) -> Element:
    """One of several: value -> (label, what it means)."""
    name = f"choice-{next(_numbers)}"
    with ui.element("fieldset") as made:
        show(legend, tag="legend")
        for key, (label, meaning) in options.items():
            with ui.element("label").classes("choice"):
                box = ui.element("input").props(f"type=radio name={name} value={key}")
                if key == value:
                    box.props("checked")
                box.on("change", lambda _, key=key: on_choose(key), [])
                show(Markup("").join([el("b", label), el("span", meaning)]))
    return made


@contextmanager
def sheet(title: str) -> Iterator[ui.dialog]:
    """A dialog with a title; it is opened by who made it."""
    name = f"sheet-{next(_numbers)}"
    with ui.dialog().props(f"aria-labelledby={name}") as dialog, ui.element("div").classes("sheet"):
        show(title, tag="h2").props(f"id={name}")
        yield dialog


def confirm(
    site: Site, title: str, text: str, action: str, act: Act, *, name: str = ""
) -> ui.dialog:
    """A dialog that asks first; with a name, that has to be typed."""
    with sheet(title) as dialog:
        show(el("p", text))
        typed = text_field(f"Type {name} to confirm", autocapitalize="none") if name else None
        if typed:
            typed.box.on("input", lambda: typed.say(""), [])

        async def go() -> None:
            if typed and typed.value.strip() != name:
                typed.say(f"That is not {name}.", wrong=True)
                return
            waiting = act()
            if inspect.isawaitable(waiting):
                await waiting
            dialog.close()

        with ui.element("div").classes("actions"):
            site.button("Keep it", dialog.close)
            site.button(action, go, "danger full")
    return dialog


def empty(drawing: str, title: str, text: str) -> Element:
    """What a page says when it has nothing to show; put the first step inside."""
    with ui.element("section").classes("card empty") as made:
        show(Markup("").join([icon(drawing), el("h2", title), el("p", text)])).classes(
            "stack"
        ).style("align-items:center")
    return made


def trouble(site: Site, error: BaseException) -> Markup:
    """A failure as a notice."""
    message, hint = site.explain(error)
    return notice("fail", message, hint)


def say_not_found() -> None:
    """The page of an address that is none."""
    text = "It may have been removed, or never was."
    with frame("Nothing here", ""), empty("jobs", "There is no such page", text):
        show(el("a", "To the agents", href="/", class_="button primary"))
