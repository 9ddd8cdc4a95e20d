"""Who gets a connection and who loses one: decisions only."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tinyagentos.gateway.limits import USUAL
from tinyagentos.gateway.listen import connections_of
from tinyagentos.net.limits import (
    HEARD_WITHIN,
    Limits,
    Phase,
    Room,
    first_to_close,
    needs_to_have_asked,
    room_for,
)

GATEWAY = connections_of(USUAL).limits


@dataclass(frozen=True)
class One:
    phase: Phase
    since: float


@pytest.mark.parametrize(
    ("of_caller", "of_all", "files", "room"),
    [
        (0, 0, 1024, Room.free),
        (63, 63, 1024, Room.free),
        (64, 64, 1024, Room.one_of_callers),
        (0, 127, 1024, Room.free),
        (0, 128, 1024, Room.one_of_anybody),
        (127, 900, 65536, Room.free),
        (128, 900, 65536, Room.one_of_callers),
        (0, 1024, 65536, Room.one_of_anybody),
        (0, 0, 8, Room.free),
        (0, 1, 8, Room.one_of_anybody),
    ],
)
def test_whose_connection_goes(of_caller: int, of_all: int, files: int, room: Room) -> None:
    assert room_for(of_caller, of_all, Limits(), files) is room


@pytest.mark.parametrize(
    ("of_caller", "of_all", "files", "room"),
    [
        (0, 0, 1024, Room.free),
        (31, 31, 1024, Room.free),
        (32, 32, 1024, Room.one_of_callers),
        (0, 32, 1024, Room.free),
        (0, 32, 64, Room.one_of_others),
        (0, 340, 1024, Room.free),
        (0, 341, 1024, Room.one_of_others),
        (0, 4096, 65536, Room.one_of_others),
    ],
)
def test_whose_connection_to_the_gateway_goes(
    of_caller: int, of_all: int, files: int, room: Room
) -> None:
    assert room_for(of_caller, of_all, GATEWAY, files) is room


@pytest.mark.parametrize("files", [256, 400, 1024, 4096, 65536, 2**63 - 1])
def test_all_listeners_together_leave_files_for_the_rest(files: int) -> None:
    """The API, and the interfaces and the gateway with as many connections onward."""
    taken = Limits().most(files) + 2 * Limits(files_share=16).most(files) + 2 * GATEWAY.most(files)
    assert files - taken >= min(files // 16, 16)


def test_who_waits_longest_goes_first_then_who_takes_nothing_and_never_who_is_answered() -> None:
    waiting = [One(Phase.waiting, 3), One(Phase.waiting, 4)]
    stuck = [One(Phase.stuck, 2), One(Phase.stuck, 1)]
    busy = [One(Phase.answering, 0)]
    assert first_to_close([*waiting, *stuck, *busy]) is waiting[0]
    assert first_to_close([*stuck, *busy]) is stuck[1]
    assert first_to_close(busy) is None


def test_only_a_young_connection_is_kept_from_who_has_not_asked() -> None:
    assert needs_to_have_asked(One(Phase.waiting, 0), HEARD_WITHIN / 2)
    assert not needs_to_have_asked(One(Phase.waiting, 0), HEARD_WITHIN)
    assert not needs_to_have_asked(One(Phase.stuck, 0), 0)
