"""Which work is recorded, and how often. What a record does needs a GPU: test_gpu.py."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch import Tensor

from mslt import graphs
from mslt.graphs import Graphs

RECORD = graphs._Record


class Recorded:
    """Stands for a record: it does the work anew, and writes what it makes to the same place."""

    made = 0

    def __init__(self, work: Any, given: Any, pool: Any) -> None:
        type(self).made += 1
        self._work = work
        self._made = work(*given)

    def __call__(self, given: Any) -> Any:
        made = self._work(*given)
        if isinstance(made, tuple):
            return (self._made[0].copy_(made[0]), *self._made[1:])
        return self._made.copy_(made)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(graphs, "_Record", Recorded)
    Recorded.made = 0


def twice(x: Tensor, y: Tensor | None) -> Tensor:
    return 2 * x if y is None else x + y


def test_work_is_recorded_when_it_is_done_for_the_third_time():
    replay, x = Graphs(), torch.ones(3)
    for count, made in enumerate((0, 0, 1, 1, 1)):
        assert replay("twice", twice, [count * x, None]).tolist() == [2 * count] * 3
        assert Recorded.made == made


def test_what_a_record_makes_is_not_overwritten_by_the_next_call():
    """Forward-only layers' output is read by micro-batches to come, after other records."""
    replay, given = Graphs(), [torch.full((3,), float(i)) for i in range(5)]
    kept = [replay("twice", twice, [x, None]) for x in given]
    assert [x.tolist() for x in kept] == [[2.0 * i] * 3 for i in range(5)]
    kept = [replay("both", lambda x: (2 * x, frozenset("a")), [x]) for x in given]
    assert [x.tolist() for x, _ in kept] == [[2.0 * i] * 3 for i in range(5)]
    assert {names for _, names in kept} == {frozenset("a")}


def test_other_names_shapes_types_and_what_is_not_given_are_other_work():
    replay = Graphs()
    for _ in range(3):
        for name in ("a", ("a", frozenset({"b"}))):
            for x in (torch.ones(3), torch.ones(4), torch.ones(3, dtype=torch.int64)):
                for y in (None, x):
                    replay(name, twice, [x, y])
    assert Recorded.made == 12


def test_no_more_than_so_many_are_recorded():
    replay = Graphs()
    for size in range(graphs.MOST + 4):
        for _ in range(4):
            assert len(replay("twice", twice, [torch.ones(size), None])) == size
    assert Recorded.made == graphs.MOST


def test_records_share_their_memory_as_long_as_there_are_any():
    one, other = Graphs(), Graphs()
    assert one._pool is other._pool
    before = one._pool.handle
    del one, other
    assert Graphs()._pool.handle is not before


class Graph:
    """Stands for one of CUDA's."""

    def replay(self) -> None:
        pass


def test_memory_outlives_the_records_of_a_stage(monkeypatch):
    """CUDA's allocator gives it up with the last graph in it, and then refuses its handle."""
    recorded: dict[object, WeakSet[Graph]] = {}

    @contextmanager
    def graph(into: Graph, pool: object, capture_error_mode: str) -> Iterator[None]:
        if pool in recorded and not recorded[pool]:
            raise RuntimeError("use_count > 0")
        recorded.setdefault(pool, WeakSet()).add(into)
        yield

    monkeypatch.setattr(graphs, "_Record", RECORD)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    stage = Graphs()
    for _ in range(3):
        following = Graphs()  # as the next stage's trainer is there before the last one's is gone
        for _ in range(3):
            stage("twice", twice, [torch.ones(3), None])
        stage = following
    assert len(recorded) == 1
