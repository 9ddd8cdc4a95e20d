"""What hints say in the web: a command that a page stands for becomes the way to that page."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

# A command, with the words around it that go with commands only -> what stands there instead.
# The first row that fits counts, so the more exact ones come first.
ROWS = tuple(
    (re.compile(pattern), Markup(said))  # noqa: S704 - our own words
    for pattern, said in (
        (r"Start it(?: with|:) `taos agent start (\S+?)`",
         'start it on its <a href="/agents/{}">page</a>'),
        (r"(?:Watch it with|Wait for it:) `taos job watch (\S+?)`",
         'watch it on its <a href="/jobs/{}">page</a>'),
        (r"`taos job cancel (\S+?)`", 'cancel it on its <a href="/jobs/{}">page</a>'),
        (r"`taos agent logs (\S+?)`", 'its log on its <a href="/agents/{}">page</a>'),
        (r"`taos agent (?:show|snapshots) (\S+?)`", 'its <a href="/agents/{}">page</a>'),
        (r"`taos agent list`", 'the page <a href="/">Agents</a>'),
        (r"`taos agent deploy`", 'a <a href="/?deploy=1">deploy</a>'),
        (r"`taos job list`", 'the page <a href="/jobs">Jobs</a>'),
        (r"Run `taos (?:doctor|setup)`(?:, or `taos setup`)?",
         'see the page <a href="/host">Host</a>'),
        (r"`taos doctor`", 'the page <a href="/host">Host</a>'),
        (r"(?: with|:) `taos provider add[^`]*`"
         r"(?:, or (?:see `taos provider list`|on the page Models))?",
         ' on the page <a href="/models">Models</a>'),
        (r"`taos provider (?:list|test)`", 'the page <a href="/models">Models</a>'),
        (r"`taos image (?:list|policy \w+|download \S+?)`",
         'the page <a href="/images">Images</a>'),
        (r"Deploy with --source build", "deploy with “Build on this host”"),
    )
)  # fmt: skip


def for_web(hint: str) -> Markup:
    """The hint as a person reads it who has pages and no command line."""
    said, at = Markup(""), 0
    while found := _find(hint, at):
        row, words = found
        before = hint[at : row.start()]
        begins = not (said + before) or before.endswith(". ")
        words = words.format(*row.groups())
        said += _words(before) + (_capital(words) if begins else words)
        at = row.end()
    return said + _words(hint[at:])


def _find(hint: str, at: int) -> tuple[re.Match[str], Markup] | None:
    found = ((match, words) for pattern, words in ROWS if (match := pattern.search(hint, at)))
    return min(found, key=lambda one: one[0].start(), default=None)


def _words(text: str) -> Markup:
    """Other words, with commands that no page stands for set as such."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704


def _capital(words: Markup) -> Markup:
    """All rows begin with a word, not with a tag."""
    return words[:1].upper() + words[1:]
