"""Who can change what root runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tinyagentos.host.trust import find_changeable, find_changeable_below, is_changeable

FOLDER, FILE, LINK = 0o040000, 0o100000, 0o120000


def status(mode: int, uid: int = 0, gid: int = 0) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(status(FILE | 0o755), False, id="root's own"),
        pytest.param(status(FILE | 0o755, uid=1000), True, id="a user's file"),
        pytest.param(status(FILE | 0o757), True, id="anybody writes"),
        pytest.param(status(FOLDER | 0o777), True, id="anybody replaces what is in it"),
        pytest.param(status(FOLDER | 0o1777), False, id="root's names stay in /tmp"),
        pytest.param(status(FILE | 0o775, gid=50), True, id="a group writes"),
        pytest.param(status(FILE | 0o775, gid=0), False, id="root's group writes"),
        pytest.param(status(LINK | 0o777), False, id="a link of root's has no rights of its own"),
        pytest.param(status(LINK | 0o777, uid=1000), True, id="a user's link"),
    ],
)
def test_who_may_change_it(found: os.stat_result, expected: bool) -> None:
    assert is_changeable(found) is expected


def test_the_first_part_that_others_may_change_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "open" / "closed"
    folder.mkdir(parents=True)
    program = folder / "taos"
    program.touch()
    (tmp_path / "open").chmod(0o777)
    assert find_changeable(program) == first_not_roots(tmp_path) or tmp_path / "open"
    link = tmp_path / "link"
    link.symlink_to(program)
    assert find_changeable(link) is not None, "where the link leads to counts as well"
    assert find_changeable(Path("/bin/sh")) is None
    with pytest.raises(OSError, match="No such file"):
        find_changeable(tmp_path / "nothing")


def test_files_below_a_folder_count(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    file = tmp_path / "a" / "b" / "c"
    file.touch()
    file.chmod(0o646)
    found = find_changeable_below(tmp_path)
    assert found == (file if os.geteuid() == 0 else tmp_path / "a")


def first_not_roots(path: Path) -> Path | None:
    parts = (*reversed(path.parents), path)
    return next((part for part in parts if part.stat().st_uid != 0), None)
