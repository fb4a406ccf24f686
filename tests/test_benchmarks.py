"""The benchmarks run, in the tiny shape, and their last line says what they promise."""

import json
from functools import partial

import common
import engine
import memory
import method
import numpy as np
import parts
import pytest
import reference
import torch
from common import Variant, options, setting, take_turns
from stages import Way

from mslt.config import PlanConfig
from mslt.model import Encoder
from mslt.plan import Stage


@pytest.fixture(scope="module")
def tiny_setting(tmp_path_factory: pytest.TempPathFactory) -> common.Setting:
    given = options("").parse_args(["--shape", "tiny", "--precision", "fp32"])
    return setting(given, PlanConfig("whole"), tmp_path_factory.mktemp("scratch"))


def last_line(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_engine_compares_whole_model_steps_with_hugging_face(capsys):
    engine.main(["--shape", "tiny", "--blocks", "1", "--eager_only"])
    result = last_line(capsys)
    assert result["ratio_eager"] > 0
    assert result["ratio_compiled"] is None
    assert result["tokens_per_second"] > 0
    assert 0 < result["mfu"] < 1
    assert len(result["variants"]) == 5
    assert result["hardware"]["threads"] == 1


def test_parts_names_every_way_to_compute_them(capsys):
    parts.main(["--shape", "tiny", "--blocks", "1", "--only", "attention", "dropout", "update"])
    result = last_line(capsys)["milliseconds"]
    assert list(result["update"]) == [
        "ours, LAMB",
        "ours, AdamW",
        "torch, AdamW fused",
        "torch, AdamW foreach",
    ]
    assert len(result) == 6
    assert all(ms > 0 for ways in result.values() for ms in ways.values())


def test_method_weighs_the_stages_of_a_plan_by_their_steps(capsys):
    tiny = ["--shape", "tiny", "--blocks", "2", "--no_memory"]
    method.main([*tiny, "--k", "2", "--mode", "exact", "fast", "cached", "--against", "hf"])
    result = last_line(capsys)
    for name, predicted in {"exact": 1.657, "fast": 1.768, "cached": 1.896}.items():
        mode = result if name == "exact" else result["also"][name]
        assert mode["predicted"] == pytest.approx(predicted, abs=1e-3)
        rows, whole = mode["stages"], mode["whole"]["seconds"]
        assert [(row["depth"], row["learns_from"]) for row in rows] == [(2, 0), (4, 2), (4, 0)]
        ours = sum(row["steps"] * row["seconds"] for row in rows)
        assert mode["ratio"] == pytest.approx(1000 * whole / ours, rel=1e-3)
        assert mode["end_to_end"] > 0
        assert rows[0]["phases"]["prefix"] == 0 < rows[1]["phases"]["prefix"]
        assert all(row["phases"][name] > 0 for row in rows for name in ("forward", "backward"))
        assert mode["shares"]["logging"] > 0
    assert result["stages"][0] == result["also"]["fast"]["stages"][0]


def test_method_and_parity_know_albert(capsys):
    tiny = ["--shape", "albert_tiny", "--precision", "fp32", "--blocks", "1"]
    method.main([*tiny, "--k", "2", "--no_memory"])
    result = last_line(capsys)
    assert [(row["depth"], row["learns_from"]) for row in result["stages"]] == [
        *((2, 0), (4, 2), (4, 0))
    ]
    assert result["predicted"] > 1
    assert all(found["gradient"] < 1e-3 for found in result["parity"].values())


def test_memory_is_what_the_work_takes_at_its_peak():
    assert memory.peak(partial, np.ones, 12_500_000) == pytest.approx(1e8, rel=0.02)


def test_no_ratio_is_printed_of_an_engine_that_computes_something_else(monkeypatch, capsys):
    monkeypatch.setitem(reference.TOLERANCE, "fp32", 0.0)
    with pytest.raises(SystemExit, match="no ratio: the whole model does not compute"):
        engine.main(["--shape", "tiny", "--precision", "fp32", "--eager_only"])
    assert "ratio_eager" not in capsys.readouterr().out


def test_a_stage_of_ours_has_the_losses_and_gradients_of_the_plain_reference(tiny_setting):
    for stage in (Stage(2, seq_len=32), Stage(4, 2, seq_len=32), Stage(4, 3, seq_len=32)):
        assert reference.parity(tiny_setting, Way.of(stage, "exact")).holds


def test_the_worst_tensor_counts_and_a_key_s_bias_does_not():
    ones = torch.ones(4)
    expected = {"a": ones, "b": 2 * ones, "tiny": 1e-9 * ones, "key.bias": 1e-9 * ones}
    found = {"a": 1.01 * ones, "b": 2 * ones, "tiny": 3e-9 * ones, "key.bias": ones}
    differences = reference.Differences()
    differences.add(found, expected)
    off = differences.relative()
    assert max(off, key=lambda name: off[name]) == "a"
    assert off["a"] == pytest.approx(0.01)
    assert "key.bias" not in off
    # Where another batch has more of a gradient, it is that against which it is measured.
    differences.add({"a": 10 * ones, "b": 2 * ones}, {"a": 10 * ones, "b": 2 * ones})
    assert differences.relative()["a"] == pytest.approx(0.001, rel=0.01)


def test_a_gradient_in_bf16_may_be_off_by_more_only_where_bf16_leaves_little_of_it():
    off = partial(reference.Parity, loss=0.0, worst="a", tolerance=0.05)
    assert off(gradient=0.04).holds
    assert not off(gradient=0.06).holds
    assert off(gradient=0.06, allowed=0.07).holds
    assert not off(gradient=0.08, allowed=0.07).holds
    assert not off(gradient=float("nan"), allowed=0.07).holds


def test_a_step_in_bf16_is_as_close_to_the_reference_as_bf16_allows(tmp_path):
    given = options("").parse_args(["--shape", "tiny", "--precision", "bf16"])
    bf16 = setting(given, PlanConfig("whole"), tmp_path)
    found = reference.parity(bf16, Way.of(bf16.whole, ""))
    assert found.holds
    assert found.allowed >= found.tolerance == reference.TOLERANCE["bf16"]


def test_the_reference_loop_learns(tiny_setting):
    model = Encoder(tiny_setting.model)
    loop = reference.HuggingFace(model, common.ADAMW, "cpu", attention="eager", bf16=True)
    before = loop.model.bert.pooler.dense.weight.detach().clone()
    loop.step(tiny_setting.batch(0))
    assert not torch.equal(before, loop.model.bert.pooler.dense.weight)


def test_a_busy_machine_is_measured_by_the_time_of_one_processor(monkeypatch, capsys):
    monkeypatch.setattr(common, "_clocks", [common.time.perf_counter])
    engine.main(["--shape", "tiny", "--blocks", "1", "--eager_only", "--busy"])
    result = last_line(capsys)
    assert result["clock"] == "process_time"
    assert result["hardware"]["threads"] == 1
    with pytest.raises(SystemExit, match="which a GPU's work does not take"):
        engine.main(["--shape", "tiny", "--device", "cuda", "--busy"])


def turns(*variants: Variant, blocks: int) -> None:
    take_turns(variants, blocks, steps=1, device="cpu")


def test_variants_take_turns_and_repeat_their_last_step_first(monkeypatch):
    """What is done first, after another's turn, does not count."""
    order: list[str] = []
    counted: list[str] = []
    monkeypatch.setattr(common, "now", lambda _: counted.append(order[-1]) or 0.0)
    order.append("")
    turns(
        Variant("a", lambda step: order.append(f"a{step}")),
        Variant("b", lambda step: order.append(f"b{step}")),
        blocks=2,
    )
    assert order[1:] == ["a0", "b0", "a0", "a1", "b0", "b1", "a1", "a2", "b1", "b2"]
    assert counted[4:] == ["a0", "a1", "b0", "b1", "a1", "a2", "b1", "b2"]


def test_the_slower_of_rivals_is_left_out_of_later_blocks_and_says_so(monkeypatch):
    seconds = {"fast": 1.0, "near": 1.4, "slow": 2.0, "alone": 9.0}
    clock = [0.0]
    monkeypatch.setattr(common, "_clocks", [lambda: clock[0]])

    def variant(name: str, rivals: str) -> Variant:
        def step(_: int) -> None:
            clock[0] += seconds[name]

        return Variant(name, step, rivals)

    fast, near, slow = (variant(name, "rivals") for name in ("fast", "near", "slow"))
    alone = variant("alone", "")
    turns(fast, near, slow, alone, blocks=5)
    assert [len(v.seconds) for v in (fast, near, slow, alone)] == [5, 5, 2, 5]
    assert slow.note == "left out after 2 blocks: 2.0x as long as others"
    assert not slow.finished
    assert fast.median == 1
