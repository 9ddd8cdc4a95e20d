"""What reaches a browser: markup as it is, anything else as words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from markupsafe import Markup
from nicegui import ui

from tests.unit.web.test_timeline import job
from tinyagentos.model.job import JobState, Problem
from tinyagentos.web import timeline
from tinyagentos.web.chat import render_words
from tinyagentos.web.frame import put
from tinyagentos.web.markup import Content, el, notice

EVIL = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (EVIL, "&lt;img src=x onerror=alert(1)&gt;"),
        ("\"quoted\" & 'so'", "&#34;quoted&#34; &amp; &#39;so&#39;"),
        (el("b", EVIL), "<b>&lt;img src=x onerror=alert(1)&gt;</b>"),
        (Markup("<i>ours</i>"), "<i>ours</i>"),
        (f"{el('b', 'put into a plain string')}", "&lt;b&gt;put into a plain string&lt;/b&gt;"),
        (el("b", "\x1b[2J\u202e", title="\x9b"), '<b title="\\x9b">\\x1b[2J\\u202e</b>'),
        (render_words("&#x202e;*a\x1b*"), "<p>\\u202e<em>a\\x1b</em></p>\n"),
        ("", ""),
        (None, ""),
    ],
    ids=[
        "words",
        "quotes",
        "words in markup",
        "markup",
        "markup made plain",
        "escapes",
        "escapes in an answer",
        "empty",
        "nothing",
    ],
)
def test_what_is_put_into_a_page_is_escaped_unless_it_is_markup(
    content: Content, shown: str
) -> None:
    element = SimpleNamespace(content="before")
    put(cast(ui.html, element), content)
    assert element.content == shown
    assert type(element.content) is str  # what is sent knows no Markup


@pytest.mark.parametrize("state", [JobState.failed, JobState.running])
def test_the_log_below_an_error_is_shown_and_not_read_out(state: JobState) -> None:
    one = job(state, error=Problem("not_ready", f"No answer.\n12:00 agent: {EVIL}", "Read it."))
    assert "agent" not in timeline.said(one)
    shown = timeline.render_job(one)
    assert "<strong>No answer.</strong>" in shown
    assert "12:00 agent: &lt;img" in shown
    assert "<img" not in shown + notice("fail", EVIL, EVIL)
