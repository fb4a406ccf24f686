"""CUDA graphs: work of fixed shapes that a GPU does again without being told each kernel anew."""

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")
Given = Sequence[Tensor | None]

# More kinds of work than this are not recorded: each keeps the tensors that it is given and makes.
MOST = 16


class Graphs:
    """Records work that is done for the third time, and from then on repeats the record.

    The work may draw random numbers from the device's own generator alone, which is seeded before
    it and not in it: a record begins with the seed that stands when it is repeated. What it makes
    are tensors, and what else is as it was when recorded.
    """

    def __init__(self) -> None:
        self._seen: dict[Hashable, int] = {}
        self._records: dict[Hashable, _Record] = {}
        self._pool = _Pool.shared()

    def __call__(self, name: Hashable, work: Callable[..., Made], given: Given) -> Made:
        """What the work makes of tensors on the device.

        Args:
            name: what decides what the work does, but for its tensors' shapes.
            work: takes the tensors.
            given: the tensors.
        """
        key = name, *(None if t is None else (t.shape, t.dtype) for t in given)
        if key not in self._records:
            count = self._seen[key] = self._seen.get(key, 0) + 1
            if count <= 2 or len(self._records) == MOST:  # it compiles and warms up first
                return work(*given)
            self._records[key] = _Record(work, given, self._pool)
        made: Made = _copied(self._records[key](given))
        return made


def _copied(made: Any) -> Any:
    """Tensors that no other record will overwrite: those of a record lie where others compute."""
    if isinstance(made, tuple):
        return tuple(_copied(part) for part in made)
    return made.clone() if isinstance(made, Tensor) else made


class _Pool:
    """Memory that all records share: one is over, its results copied, when another begins.

    With the last graph in it CUDA's allocator gives it up, and refuses its handle from then on. So
    the first graph lives as long as this: a stage's records are gone before the next one has any.
    """

    _last: "weakref.ref[_Pool] | None" = None

    def __init__(self) -> None:
        self.handle: Any = torch.cuda.graph_pool_handle()
        self._first: torch.cuda.CUDAGraph | None = None

    def keep(self, graph: torch.cuda.CUDAGraph) -> None:
        """Told of each graph that was recorded in it."""
        self._first = self._first or graph

    @classmethod
    def shared(cls) -> "_Pool":
        """The one that there is; a new one where nobody has it any more."""
        pool = cls._last() if cls._last else None
        if pool is None:
            pool = cls()
            cls._last = weakref.ref(pool)
        return pool


class _Record:
    def __init__(self, work: Callable[..., Any], given: Given, pool: _Pool) -> None:
        self._given = [None if t is None else t.clone() for t in given]
        self._graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, which save checkpoints, may go on meanwhile.
            with torch.cuda.graph(self._graph, pool=pool.handle, capture_error_mode="thread_local"):
                self._made = work(*self._given)
        except RuntimeError as error:
            error.add_note("while a CUDA graph was recorded, which --compile off leaves out")
            raise
        pool.keep(self._graph)

    def __call__(self, given: Given) -> Any:
        torch._foreach_copy_(
            [mine for mine in self._given if mine is not None],
            [theirs for theirs in given if theirs is not None],
        )
        self._graph.replay()
        return self._made
