"""Text that may be shown: what is unseen or obeyed becomes an escape, everything else stays."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagentos.visible import visible, visible_line, visible_pieces, visible_quote

DANGEROUS = {"Cc", "Cf", "Cs", "Zl", "Zp"}
ANY = st.text(st.characters(codec=None, categories=None))
JOINED = ("👨‍👩‍👧‍👦", "❤️‍🔥", "\u0645\u06cc\u200c\u062e", "क्\u200dष", "👩🏽‍💻")


def test_no_control_or_format_character_is_left() -> None:
    left = {
        hex(code) for code in range(0x110000)
        if unicodedata.category(chr(code)) in DANGEROUS and visible(chr(code)) == chr(code)
    }  # fmt: skip
    assert left == {"0x9", "0xa"}, "tab and newline"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\r\x9b2J\x7f", "a\\r\\x9b2J\\x7f"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("pay\u200dpal \u200b", "pay\\u200dpal \\u200b"),
        ("\U000e0041\ud83d", "\\U000e0041\\ud83d"),
        ("\u3164\u115f", "\\u3164\\u115f"),
        ("naïve 日本語 ½\t✓\n\xa0", "naïve 日本語 ½\t✓\n\xa0"),
        *((one, one) for one in JOINED),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_line_stays_one_line_and_a_quotation_is_seen_as_one() -> None:
    assert visible_line("a\n\x1bb\tc") == "a\\n\\x1bb\tc"
    assert visible_quote("It ended.\n  hint: forged\r\n") == "It ended.\n  |   hint: forged\\r"


@given(ANY)
def test_what_is_visible_stays_as_it_is(text: str) -> None:
    once = visible(text)
    assert visible(once) == once
    assert "\n" not in visible_line(text)
    once.encode()


@given(st.lists(ANY | st.sampled_from(JOINED)))
def test_pieces_read_as_the_whole_does(texts: list[str]) -> None:
    whole = "".join(texts)
    assert "".join(visible_pieces(whole)) == visible(whole)
    assert "".join(visible_pieces(texts)) == visible(whole)
