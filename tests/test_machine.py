"""What a machine is found to be good at."""

import resource
import sys

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
    """Else the system clears every page anew: here 64 MB of them, each time."""
    machine.keep_freed_memory()
    torch.ones(1 << 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(1 << 24)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 5000
