"""What a machine is found to be good at."""

import resource
import sys
import time
from collections.abc import Iterator
from threading import Barrier

import pytest
import torch

from mslt import machine


def test_bf16_is_fast_on_amx_and_else_where_a_cpu_has_it_and_measures_so(monkeypatch):
    for amx, unit, speedup, fast in [
        (True, False, 0.1, True),
        (False, True, 2.4, True),
        (False, True, 1.1, False),
        (False, False, 2.4, False),
    ]:
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda unit=unit: unit)
        monkeypatch.setattr(machine, "bf16_speedup", lambda speedup=speedup: speedup)
        assert machine.multiplies_bf16_fast() == fast


@pytest.fixture
def threads(request, monkeypatch) -> Iterator[int]:
    """So many threads of torch's."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    monkeypatch.setattr(machine, "_cores", lambda: request.param)  # whatever this machine has
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_products_in_bf16_are_timed_once_and_threads_stay_as_they_are(threads):
    speedup = machine.bf16_speedup(64, 2)
    assert speedup > 0
    assert machine.bf16_speedup(64, 2) is speedup
    assert torch.get_num_threads() == threads


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_what_a_trainer_frees_is_there_when_it_is_asked_for_again():
    """Else the system clears every page anew: here 16,384 of them, each time."""
    machine.keep_freed_memory()
    torch.ones(1 << 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(1 << 24)
    # Once, something else may have taken a part of the room.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 2 * 16_384


@pytest.mark.skipif(machine.peak("cpu") is None, reason="this system does not tell")
def test_what_was_freed_before_the_peak_was_forgotten_does_not_count():
    """Else a stage would seem to take the memory of those before it."""
    machine.keep_freed_memory()
    torch.ones(1 << 26)
    before = machine.peak("cpu")
    machine.forget_peak("cpu")
    after = machine.peak("cpu")
    assert after < before - 200_000_000
    torch.ones(1 << 26)
    assert machine.peak("cpu") > after + 200_000_000


@pytest.mark.parametrize("threads", [3], indirect=True)
def test_parts_are_dealt_with_side_by_side_in_order_each_by_one_thread(threads):
    both = Barrier(2, timeout=10)

    def work(part: int) -> tuple[int, int]:
        if part < 2:
            both.wait()  # so that two are at it at once
        return part, torch.get_num_threads()

    assert machine.side_by_side(work, range(6)) == [(i, 1) for i in range(6)]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("threads", "parts", "each"),
    [(1, 5, 1), (4, 1, 4), (4, 2, 2), (4, 9, 4), (5, 2, 5), (3, 8, 3), (3, 11, 1), (2, 0, 0)],
    indirect=["threads"],
)
def test_threads_are_shared_out_among_parts_so_that_few_of_them_are_idle(threads, parts, each):
    def work(part: int) -> int:
        return torch.get_num_threads()

    assert machine.side_by_side(work, range(parts)) == [each] * parts
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_threads_that_may_use_one_core_alone_do_not_part(threads, monkeypatch):
    """As where OMP_PROC_BIND has bound them: they would only be in each other's way."""
    monkeypatch.setattr(machine, "_cores", lambda: 1)
    assert machine.side_by_side(lambda part: torch.get_num_threads(), range(2)) == [2, 2]


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_all_parts_are_done_with_when_one_has_failed(threads):
    done = []

    def work(part: int) -> None:
        if part == 0:
            raise ZeroDivisionError
        time.sleep(0.1)
        done.append(part)

    with pytest.raises(ZeroDivisionError):
        machine.side_by_side(work, range(4))
    assert sorted(done) == [1, 2, 3]


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_threads_draw_from_generators_of_their_own(threads):
    """Torch's is the main thread's: who works beside it neither seeds nor moves on that one."""
    both = Barrier(2, timeout=10)

    def draw(seed: int) -> float:
        machine.generator().manual_seed(seed)
        both.wait()
        return float(torch.rand((), generator=machine.generator()))

    assert machine.generator() is torch.default_generator
    before = torch.get_rng_state()
    alone = [float(torch.rand((), generator=torch.Generator().manual_seed(s))) for s in (5, 6)]
    assert machine.side_by_side(draw, [5, 6]) == alone
    assert torch.equal(torch.get_rng_state(), before)
