"""HTML from values: whatever is not markup already is escaped."""

from __future__ import annotations

from markupsafe import Markup, escape

from tinyagentos.visible import visible
from tinyagentos.web.hints import for_web
from tinyagentos.web.look import icon as svg

Content = str | Markup | None


def as_html(content: Content) -> str:
    """The content for a browser. The one way there: a string is words unless it is Markup.

    What steers terminals, is unseen or turns text around is shown as on the command line.
    """
    return visible(str(escape(content or "")))


def plain(content: Content) -> str:
    """The content's words alone."""
    return visible(content.striptags() if isinstance(content, Markup) else content or "")


def el(tag: str, *children: Content, **attributes: str | bool | None) -> Markup:
    """An element. Attributes: `class_` and `for_` for the words Python keeps, `_` becomes `-`."""
    given = Markup("").join(
        Markup(" {}").format(_name(name))
        if value is True
        else Markup(' {}="{}"').format(_name(name), value)
        for name, value in attributes.items()
        if value not in (None, False)
    )
    inside = Markup("").join(escape(child) for child in children if child is not None)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), given, inside)  # noqa: S704 - our tags


def icon(name: str) -> Markup:
    """One of our icons."""
    return Markup(svg(name))  # noqa: S704 - our own drawing


def chip(kind: str, drawing: str, words: str) -> Markup:
    """A state: colour, icon and words."""
    return el("span", icon(drawing), words, class_=f"chip {kind}")


def facts(pairs: dict[str, Content], *, wide: bool = False) -> Markup:
    """Names and values side by side; those without a value are left out."""
    return el(
        "dl",
        *(el("div", el("dt", name), el("dd", value)) for name, value in pairs.items() if value),
        class_="facts wide" if wide else "facts",
    )


def bar(done: float | None, label: str, kind: str = "") -> Markup:
    """How far something is, from 0 to 1; None: nobody knows."""
    if done is None:
        return el(
            "div", el("i"), class_=f"bar endless {kind}", role="progressbar", aria_label=label
        )
    share = f"{max(0.0, min(1.0, done)) * 100:.0f}"
    return el(
        "div",
        el("i", style=f"width:{share}%"),
        class_=f"bar {kind}",
        role="progressbar",
        aria_label=label,
        aria_valuemin="0",
        aria_valuemax="100",
        aria_valuenow=share,
    )


def notice(kind: str, title: str, *more: Content) -> Markup:
    """A sentence that matters, with what else is to say, such as a hint."""
    return el(
        "div",
        el("p", el("strong", title)),
        *(one if isinstance(one, Markup) else el("p", for_web(one)) for one in more if one),
        class_=f"notice {kind}",
        role="alert" if kind == "fail" else None,
    )


def _name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")
