"""Hints that name commands, as the web says them."""

from __future__ import annotations

import pytest

from tinyagentos.web.hints import for_web
from tinyagentos.web.markup import notice

HOST = 'the page <a href="/host">Host</a>'


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        ("Start it: `taos agent start hello`.",
         'Start it on its <a href="/agents/hello">page</a>.'),
        ("Start it with `taos agent start hello`.",
         'Start it on its <a href="/agents/hello">page</a>.'),
        ("Watch it with `taos job watch j1`, or cancel it first.",
         'Watch it on its <a href="/jobs/j1">page</a>, or cancel it first.'),
        ("`taos agent show hello` tells its state, `taos agent logs hello` more.",
         'Its <a href="/agents/hello">page</a> tells its state, '
         'its log on its <a href="/agents/hello">page</a> more.'),
        ("`taos agent list` shows the agents.",
         'The page <a href="/">Agents</a> shows the agents.'),
        ("Run `taos doctor`, or `taos setup`.", f"See {HOST}."),
        ("Run `taos setup`.", f"See {HOST}."),
        ("`taos doctor` checks the host.", f"T{HOST[1:]} checks the host."),
        ("Add a provider: `taos provider add`, or on the page Models.",
         'Add a provider on the page <a href="/models">Models</a>.'),
        ("Add it with `taos provider add`, or see `taos provider list`.",
         'Add it on the page <a href="/models">Models</a>.'),
        ("Enter it again: `taos provider add box …`.",
         'Enter it again on the page <a href="/models">Models</a>.'),
        ("Write PROVIDER/MODEL; `taos provider list` shows the providers.",
         'Write PROVIDER/MODEL; the page <a href="/models">Models</a> shows the providers.'),
        ("It is tried again later. `taos agent deploy` builds meanwhile.",
         'It is tried again later. A <a href="/?deploy=1">deploy</a> builds meanwhile.'),
        ("`taos image policy manual` allows it, or build on this host.",
         'The page <a href="/images">Images</a> allows it, or build on this host.'),
        ("Give a file that `taos image export` wrote.",
         "Give a file that <code>taos image export</code> wrote."),
        ("Choose <b>another</b> name.", "Choose &lt;b&gt;another&lt;/b&gt; name."),
        ('`taos agent logs "><b>` tells', 'Its log on its '
         '<a href="/agents/&#34;&gt;&lt;b&gt;">page</a> tells'),
        ("", ""),
    ],
)  # fmt: skip
def test_a_command_becomes_the_way_to_its_page(hint: str, said: str) -> None:
    assert for_web(hint) == said


def test_notices_say_hints_for_the_web() -> None:
    assert 'href="/host"' in notice("fail", "Incus does not answer.", "Run `taos doctor`.")
