"""What the card of an exported model says, admits and keeps to itself."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from made_up_run import CONFIG, PIECES, card_of, new_run, trained_model
from transformers import AutoModelForPreTraining

from mslt.config import InstanceConfig
from mslt.export import export
from mslt.run import Run


def test_the_card_says_what_was_done_and_how_well(exported: Path) -> None:
    _, head, card = card_of(exported).split("---\n", 2)
    meta = yaml.safe_load(head)
    assert (meta["library_name"], meta["pipeline_tag"]) == ("transformers", "fill-mask")
    assert "license" not in meta
    assert "multi-stage layerwise training" in card
    assert "and a last stage retrains the whole model" in card
    assert "All of its 1,000 steps are done." in card
    assert "| 1 | 2 | all | 400 | 32 | 40.0 s | 2,560 | 2.0000 |" in card
    assert "| 2 | 4 | 3 to 4 | 400 | 32 | 40.0 s | 2,560 | 1.7500 |" in card
    assert "| 3 | 4 | all | 200 | 32 | 20.0 s | 2,560 | 1.5000 |" in card
    assert "Training time: 2 min (0.03 hours)" in card
    assert "| masked tokens | 1.5000 | 37.5% |" in card
    assert "| masked tokens, by their frequency alone | 2.5000 |" in card
    assert "| sentence pairs | 0.5000 | 75.0% |" in card
    assert "64,000 tokens, 1,234 documents" in card
    assert "| read of it | 256,000 tokens with padding: 4 times |" in card
    assert "c0ffee" in card
    assert "up to 32 tokens" in card
    assert "arXiv:2011.13635" in card
    assert f"torch {torch.__version__}" in card


def test_the_card_counts_the_parameters(exported: Path) -> None:
    model = AutoModelForPreTraining.from_pretrained(exported)
    assert f"| parameters | {model.num_parameters():,} |" in card_of(exported)


def test_the_card_gives_no_path_away(exported: Path) -> None:
    text = "".join(
        path.read_text("utf-8") for path in exported.iterdir() if path.suffix != ".safetensors"
    )
    assert "somebody" not in text
    assert str(exported.parent) not in text
    assert "| token store | my\\|store |" in text


def test_the_cards_example_runs(exported: Path) -> None:
    (code,) = re.findall("```python\n(.*?)```", card_of(exported), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(exported)), names)
    assert names["logits"].shape[-1] == len(PIECES)


def test_the_card_of_a_stage_knows_nothing_of_later_ones(finished: Run, tmp_path: Path) -> None:
    card = card_of(export(finished.path, tmp_path / "out", 1))
    assert "the model at the end of stage 1 of 3, after 400 of 1,000 steps" in card
    assert "| masked tokens | 2.0000 |" in card
    assert "1.5000" not in card
    assert "| layers | 2 |" in card


def test_the_card_admits_what_was_not_learned(tmp_path: Path) -> None:
    instances = InstanceConfig(pair="none", whole_word=True, dupe_factor=3)
    plan = replace(CONFIG.plan, k=None, retrain=None, method="whole", seq_len=40)
    config = replace(CONFIG, instances=instances, plan=plan)
    run = new_run(tmp_path / "run", config)
    plan_steps = config.stages().steps
    run.record("heldout", plan_steps, {"mlm_loss": 2.48, "mlm_accuracy": 0.1, "seconds": 5.0})
    run.save_stage(0, config.stages(), trained_model(4), {"step": plan_steps, "seconds": 5.0})
    card = card_of(export(run.path, tmp_path / "out"))
    assert "not been shown to know more than how often each token occurs" in card
    assert "Pooler and sentence-pair head are random" in card
    assert "| sentence pairs | 0." not in card
    assert "truncation=True" not in card
    assert "whole words" in card
    assert "| instances | the same again after 3 epochs |" in card
