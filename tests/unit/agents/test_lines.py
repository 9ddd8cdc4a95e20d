"""Lines of a stranger's log."""

from tinyagentos.agents.instances import Lines


def read(*chunks: bytes, longest: int = 10) -> list[bytes]:
    lines = Lines(longest)
    return [line for chunk in chunks for line in lines.feed(chunk)] + [lines.rest]


def test_lines_come_whole_however_they_were_cut() -> None:
    assert read(b"one\ntw", b"o", b"\n\nthree") == [b"one", b"two", b"", b"three"]
    assert read(b"a\n", b"b\n") == [b"a", b"b", b""]


def test_a_line_without_an_end_is_cut_short_and_never_held() -> None:
    assert read(b"x" * 25, b"y" * 25, b"\nnext") == [b"x" * 10, b"next"]
    lines = Lines(10)
    for _ in range(1000):
        assert list(lines.feed(b"z" * 1000)) == []
        assert len(lines.rest) <= 10
