"""What a machine is found to be good at."""

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
