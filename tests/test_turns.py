"""Runs that take turns are the runs that they would be alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import TINY, final_weights, losses, start, steps

from mslt import turns
from mslt.config import Config, PlanConfig
from mslt.guard import Diverged
from mslt.turns import Loop, Turn, in_turns

WHOLE = replace(TINY, plan=PlanConfig(method="whole", seq_len=32))
LONGER = replace(WHOLE, steps=25)


def loops(store: Path, out: Path, **configs: Config) -> dict[str, Loop]:
    return {name: Loop.of(*start(config, store, out / name)) for name, config in configs.items()}


def test_interleaved_runs_are_bit_for_bit_those_that_are_trained_alone(
    store: Path, tmp_path: Path
) -> None:
    configs = {"mslt": TINY, "whole": LONGER}
    for name, config in configs.items():
        steps(config, store, tmp_path / "alone" / name, config.steps)
    together = loops(store, tmp_path / "turns", **configs)
    for _ in in_turns(together, 5):
        pass
    for name in configs:
        alone, ours = tmp_path / "alone" / name, tmp_path / "turns" / name
        assert losses(ours) == losses(alone)
        weights = final_weights(alone)
        assert all(torch.equal(weights[key], w) for key, w in final_weights(ours).items())


def test_a_block_is_the_same_part_of_every_run(store: Path, tmp_path: Path) -> None:
    turned = list(in_turns(loops(store, tmp_path, mslt=TINY, whole=LONGER), 5))
    one_block = [("mslt", False), ("mslt", True), *[("whole", i == 4) for i in range(5)]]
    assert [(t.name, t.over) for t in turned] == one_block * 5
    assert [t.block for t in turned] == [block for block in range(1, 6) for _ in range(7)]


def test_a_run_that_is_ahead_waits_for_the_others(store: Path, tmp_path: Path) -> None:
    made = loops(store, tmp_path, ahead=TINY, behind=WHOLE)
    for _ in range(6):
        made["ahead"].at = next(made["ahead"].left).step
    names = [turn.name for turn in in_turns(made, 5)]
    assert names == ["behind"] * 6 + ["ahead"] * 2 + ["behind"] * 2 + ["ahead"] * 2 + ["behind"] * 2


def test_a_run_that_diverges_is_given_up_and_the_others_go_on(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = turns.train

    def breaks(job, state, run, console):
        for done in train(job, state, run, console):
            if run.path.name == "bad" and done.step == 3:
                raise Diverged("mlm_loss is nan", 3, 2)
            yield done

    monkeypatch.setattr(turns, "train", breaks)
    turned = list(in_turns(loops(store, tmp_path, bad=TINY, good=WHOLE), 5))
    bad = [turn for turn in turned if turn.name == "bad"]
    assert len(bad) == 3
    assert str(bad[-1].lost).startswith("mlm_loss is nan at step 3")
    assert turned[-1] == Turn("good", 5, over=True)
    assert sum(turn.name == "good" for turn in turned) == WHOLE.steps
