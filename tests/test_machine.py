"""What a machine is found to be good at."""

import resource
import sys
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


def test_products_in_bf16_are_timed_once_and_threads_stay_as_they_are():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    speedup = machine.bf16_speedup(64, 2)
    assert speedup > 0
    assert machine.bf16_speedup(64, 2) is speedup
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)


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
    assert machine.peak("cpu") < before - 200_000_000
    torch.ones(1 << 26)
    assert machine.peak("cpu") > before - 50_000_000


def test_parts_are_dealt_with_side_by_side_in_order_each_by_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    both = Barrier(2, timeout=10)

    def work(part: int) -> torch.Tensor:
        if part < 2:
            both.wait()  # so that two are at it at once
        assert not torch.is_grad_enabled()
        return torch.tensor([part, torch.get_num_threads()])

    assert [x.tolist() for x in machine.side_by_side(work, range(7))] == [[i, 1] for i in range(7)]
    assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError):
        machine.side_by_side(lambda part: torch.tensor(1 / part), [1, 0])
    torch.set_num_threads(threads)
