"""What processes tell each other."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from processes import together

from mslt.world import Poll, World, joined, meeting


def exchange() -> dict[str, object]:
    """One of each exchange, as seen by one process."""
    with joined("cpu") as world:
        ours = torch.full((3,), float(world.rank + 1))
        on_its_way = world.sum(ours)
        on_its_way.wait()
        handed = torch.full((2,), world.rank)
        world.hand_out(handed)
        poll = Poll(world)
        return {
            "rank": world.rank,
            "main": world.main,
            "sum": ours.tolist(),
            "done": on_its_way.done(),
            "most": world.most(7 - world.rank),
            "handed": handed.tolist(),
            "told": world.tell("gr\u00fc\u00df" if world.main else None),
            "told nothing": world.tell(""),
            "polled": [poll(15 if world.rank == 1 and i == 1 else 0) for i in range(4)],
            "alone": world.first_alone(lambda: "done"),
            "agrees": world.agree([("a", "1"), ("b", "2")]),
        }


def test_processes_exchange_numbers_and_text():
    seen = together(2, exchange)
    assert [one.pop("rank") for one in seen] == [0, 1]
    assert [one.pop("main") for one in seen] == [True, False]
    assert [one.pop("alone") for one in seen] == ["done", None]
    assert seen[0] == seen[1]
    assert seen[0] == {
        "sum": [3.0, 3.0, 3.0],
        "done": True,
        "most": 7,
        "handed": [0, 0],
        "told": "gr\u00fc\u00df",
        "told nothing": "",
        "polled": [0, 0, 15, 0],
        "agrees": None,
    }


def test_processes_that_are_started_again_do_not_go_by_what_the_last_ones_wrote():
    """The store of torchrun outlives them, and keeps their addresses."""
    store = dist.HashStore()
    names = []
    for slow in (2, 0, 1):  # who comes last, when the others have looked around already

        def come(rank: int, slow: int = slow) -> str:
            time.sleep(0.1 * (rank == slow))
            return meeting(store, rank, 3)

        with ThreadPoolExecutor(3) as threads:
            names += [set(threads.map(come, range(3)))]
    assert [len(name) for name in names] == [1, 1, 1]
    assert len(set.union(*names)) == 3


def disagree(facts: list[list[tuple[str, str]]]) -> str:
    with joined("cpu") as world:
        with pytest.raises(ValueError, match="differ") as error:
            world.agree(facts[world.rank])
        return str(error.value)


def test_a_fact_that_differs_is_named_in_every_process():
    same, other = [("blocks.0", "1"), ("head", "2")], [("blocks.0", "1"), ("head", "3")]
    assert (
        together(2, disagree, [same, other])
        == ["processes 0 and 1 differ: head 2 against head 3"] * 2
    )
    assert (
        together(2, disagree, [same, same[:1]])
        == ["processes 0 and 1 differ: head 2 against nothing "] * 2
    )


def fail_on_main() -> str:
    def work() -> None:
        raise ValueError("no such folder")

    with joined("cpu") as world:
        try:
            world.first_alone(work)
        except ValueError as error:
            return str(error)
    return "not reached"


def test_where_the_main_process_fails_the_others_leave_without_a_word():
    assert together(2, fail_on_main) == ["no such folder", 2]


def lose_another() -> str:
    with joined("cpu") as world:
        if world.rank == 1:
            raise SystemExit(9)
        try:
            while True:
                world.barrier()
        except ConnectionError as error:
            return str(error)
    return "not reached"


def test_a_process_that_is_gone_is_an_error_of_one_line():
    text, code = together(2, lose_another)
    assert text.startswith("another process of the run is gone: ")
    assert "\n" not in text
    assert code == 9


def test_one_process_is_a_world_of_its_own():
    with joined("cpu") as world:
        assert world == World()
        tensor = torch.ones(2)
        world.sum(tensor).wait()
        world.hand_out(tensor)
        world.barrier()
        world.agree([("a", "1")])
        assert tensor.tolist() == [1, 1]
        assert (world.most(5), world.tell("x"), Poll(world)(3)) == (5, "x", 3)
        assert world.first_alone(lambda: 4) == 4


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(("count", "unit"), [(8, 2), (7, 2), (4, 1), (9, 2)])
def test_rows_are_shared_out_in_whole_units(size, count, unit):
    parts = [World(rank, size).rows(count, unit) for rank in range(size)]
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert (parts[0].start, parts[-1].stop) == (0, count)
    assert all(part.start % unit == 0 and part.start < part.stop for part in parts)
