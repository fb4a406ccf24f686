"""A process that hangs is named, with what it does, by one of those that are kept waiting."""

import json
import time
from typing import Any

import pytest
from processes import together

from mslt import watchdog
from mslt.phases import Phases
from mslt.watchdog import WAITING, Watchdog
from mslt.world import joined


class Board:
    """Where notes are left, as in torch's store."""

    def __init__(self) -> None:
        self.notes: dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        self.notes[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.notes[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.notes for key in keys)


@pytest.fixture
def dogs() -> list[Watchdog]:
    """Three processes that have just begun step 7, watched at 100 s by their clocks."""
    board = Board()
    found = [Watchdog(rank, 3, Phases(), board, hangs_after=60) for rank in range(3)]
    for dog in found:
        dog._phases.step = 7
        dog.note()
    assert [dog.look(100.0) for dog in found] == [None] * 3
    return found


def look(dogs: list[Watchdog], now: float, *signs: int) -> list[str | None]:
    """What each says, where only some have given a sign before."""
    for rank in signs:
        dogs[rank].note()
    return [dog.look(now) for dog in dogs]


def name(dog: Watchdog) -> str:
    return f"process {dog.rank} on {json.loads(dog._notes.get('0'))['host']}"


def test_the_one_that_does_not_wait_is_named_once_and_again_when_twice_as_long_is_over(dogs):
    with dogs[0]._phases(WAITING), dogs[1]._phases("backward"), dogs[2]._phases(WAITING):
        assert look(dogs, 110.0, 0, 1, 2) == [None] * 3
        assert look(dogs, 160.0, 0, 1, 2) == [None] * 3
        said = f"nothing has moved for 61 s: {name(dogs[1])} is in backward of step 7"
        assert look(dogs, 171.0, 0, 1, 2) == [said, None, None]
        assert look(dogs, 200.0, 0, 1, 2) == [None] * 3
        assert look(dogs, 233.0, 0, 1, 2)[0] == said.replace("61 s", "123 s")
    assert look(dogs, 240.0, 0, 1, 2) == [None] * 3  # it has gone on
    assert look(dogs, 299.0, 0, 1, 2) == [None] * 3


def test_one_that_gives_no_sign_is_named_by_the_first_that_lives(dogs):
    with dogs[0]._phases("saving"), dogs[1]._phases(WAITING), dogs[2]._phases(WAITING):
        look(dogs, 110.0, 0, 1, 2)
        look(dogs, 150.0, 1, 2)
        said = look(dogs, 175.0, 1, 2)
    text = f"nothing has moved for 65 s: {name(dogs[0])} gives no sign any more, the last in saving"
    assert said == [None, f"{text} of step 7", None]


def test_nothing_is_said_as_long_as_one_gets_on(dogs):
    for now in range(110, 1000, 10):
        with dogs[2]._phases("forward"):
            assert look(dogs, float(now), 0, 1, 2) == [None] * 3


def test_where_all_wait_it_may_be_the_network(dogs):
    with dogs[0]._phases(WAITING), dogs[1]._phases(WAITING), dogs[2]._phases(WAITING):
        look(dogs, 110.0, 0, 1, 2)
        said = look(dogs, 180.0, 0, 1, 2)[0]
    assert said == (
        "nothing has moved for 70 s: all 3 processes wait for each other: is it the network?"
    )


def hang() -> list[str]:
    """What a process says of another that sleeps in the second step."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watchdog, "HANGS_AFTER", 0.5)
        patch.setattr("builtins.print", lambda text, **_: said.append(text))
        with joined("cpu") as world:
            for world.phases.step in (1, 2):
                if world.rank == 1 and world.phases.step == 2:
                    with world.phases("batch"):
                        time.sleep(2)
                world.barrier()
    return said


def test_in_a_run_the_sleeping_process_is_named():
    said: list[Any] = together(2, hang)
    assert said[1] == []
    assert said[0]
    assert all(
        "process 1 on " in text and text.endswith("is in batch of step 2") for text in said[0]
    )
