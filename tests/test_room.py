"""What a run will take on the disk is known before it begins."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_run import CONFIG, end_stages, new_run, trained_model

from mslt.checkpoint import State
from mslt.model import Encoder
from mslt.optim import Moment
from mslt.recipes import RECIPES
from mslt.room import checkpoint_bytes, parameters, run_bytes, taken


@pytest.mark.parametrize("depth", [1, 3])
def test_weights_are_counted_as_the_model_has_them(tiny, depth) -> None:
    for config in (tiny, replace(tiny, hidden_size=24, intermediate_size=100, vocab_size=77)):
        model = Encoder(config, depth)
        assert parameters(config, depth) == sum(p.numel() for p in model.parameters())


def test_bert_base_and_large_have_the_sizes_that_are_known() -> None:
    """110,106,428 and 336,226,108 as Hugging Face's BertForPreTraining."""
    for recipe, expected in (("bert_base_mslt", 110_106_428), ("bert_large_mslt", 336_226_108)):
        model = replace(RECIPES[recipe]().model, vocab_size=30_522)
        assert parameters(model, model.num_hidden_layers) == expected


def test_a_finished_run_takes_what_was_foretold(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", replace(CONFIG, keep=1))
    model = trained_model(4)
    moments = {n: Moment(p.detach(), p.detach(), 1) for n, p in model.named_parameters()}
    end_stages(run, 3)
    for step in (800, 1000):
        run.save(State(step, model, moments))
    run.wait()
    assert len(run.checkpoints()) == 1
    headers = 5 * (1 << 20)
    one = checkpoint_bytes(run.config.model, 4)
    most = run_bytes(run.config)
    assert most - 2 * one - headers < taken(run.path) < most


def test_a_run_for_which_the_disk_has_no_room_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": run_bytes(CONFIG) - 1})
    monkeypatch.setattr("mslt.files.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"keeps 2 checkpoints takes .* are free"):
        new_run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    usage.free += 1
    run = new_run(tmp_path / "run")
    usage.free -= taken(run.path)  # a run that goes on has taken a part already
    run.go_on(CONFIG, 5, {"device": "cpu"})
    usage.free -= 10_000  # run.json has grown a little
    with pytest.raises(OSError, match="keeps 2 checkpoints"):
        run.go_on(CONFIG, 5, {"device": "cpu"})
