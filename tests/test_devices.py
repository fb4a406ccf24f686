"""Where a run computes, and in what precision, as the machine allows."""

import pytest
import torch

from mslt.devices import pick_device, pick_precision


@pytest.mark.parametrize("fast", [True, False])
def test_auto_takes_bf16_where_the_device_is_fast_at_it(monkeypatch, fast):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast)
    expected = "bf16" if fast else "fp32"
    assert pick_precision("auto", "cpu") == pick_precision("auto", "cuda:0") == expected
    assert pick_precision("fp32", "cpu") == pick_precision("fp32", "cuda:0") == "fp32"
    assert pick_precision("bf16", "cpu") == "bf16"


def test_bf16_on_a_gpu_without_it_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(ValueError, match="precision bf16 is not supported by this GPU"):
        pick_precision("bf16", "cuda:0")


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (pick_device("auto"), pick_device("cuda:1"), pick_device("cpu")) == (
        "cuda:0",
        "cuda:1",
        "cpu",
    )


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    with pytest.raises(ValueError, match="device cuda:1 was asked for, but torch sees no GPU"):
        pick_device("cuda:1")
