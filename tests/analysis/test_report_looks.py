"""Attention and drift for a report: those of the models, as Hugging Face has them."""

import base64

import numpy as np
import pytest
import torch
from made_up_run import CONFIG, end_stages, new_run, trained_model
from tiny_run import TINY, steps

from mslt.analysis.report.looks import _told_apart, look
from mslt.analysis.report.subjects import subjects


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = new_run(tmp_path_factory.mktemp("looks") / "run")
    end_stages(made, 3)
    return made


def test_the_page_gets_every_stages_maps_of_a_given_sentence(run):
    found = look(subjects([run.path]), "Paris is the capital", None)
    assert found["attention"]["sentences"] == [["[CLS]", "paris", "is", "the", "capital", "[SEP]"]]
    models = found["attention"]["models"]
    assert [(m["layers"], m["heads"]) for m in models] == [(2, 2), (4, 2), (4, 2)]
    assert [m["name"] for m in models] == [
        "run, end of stage 1 (2 layers)",
        "run, end of stage 2 (4 layers)",
        "run, finished (4 layers)",
    ]
    maps = np.frombuffer(base64.b64decode(models[1]["maps"][0]), np.uint8).reshape(4, 2, 6, 6)
    assert (np.abs(maps.sum(-1).astype(int) - 255) <= 6).all()  # shares, rounded to 1 / 255


def test_drift_is_zero_where_nothing_moved_and_as_large_as_the_change(tmp_path):
    made = new_run(tmp_path / "run")
    plan = made.config.stages()
    for index, stage in enumerate(plan.stages):
        end = plan.ends[index]
        made.record("heldout", end, {"mlm_loss": 2.0, "mlm_accuracy": 0.5, "seconds": end / 10})
        model = trained_model(stage.depth)
        if index == 2:
            with torch.no_grad():
                for parameter in model.layers(3, 4)[0].parameters():
                    parameter *= 1.5
        made.save_stage(index, plan, model, {"step": end, "seconds": end / 10})
    charts = look(subjects([made.path]), "the capital of France .", None)["drift"]
    attention, weights, halves, places, shares = charts  # too few tokens for a likeness
    last = attention["series"][-1]
    assert last["name"] == "since stage 2"
    assert last["values"][:3] == [0, 0, 0]
    assert last["values"][3] > 0
    assert weights["series"][-1]["values"] == pytest.approx([0, 0, 0, 0.5])
    assert [one["name"] for one in halves["series"]] == ["end of stage 2", "end of stage 3"]
    assert "of the one 2 above it" in halves["says"]
    names = ["[CLS]", "[SEP]", "neighbours", "elsewhere"]
    for chart in (places, shares):
        assert [one["name"] for one in chart["series"]] == names
        by_layer = zip(*(one["values"] for one in chart["series"]))
        assert [sum(layer) for layer in by_layer] == pytest.approx([1] * 4, abs=2e-3)


def test_stages_between_which_nothing_moved_share_a_line():
    short, long = {"name": "1", "values": [0.1, 0.2]}, {"name": "2", "values": [0.1, 0.2, 0.3]}
    assert _told_apart([short, long]) == [long]
    assert _told_apart([{"name": "0", "values": [0.2]}, long]) == [
        {"name": "0", "values": [0.2]},
        long,
    ]


def test_sentences_are_drawn_from_the_held_out_text(store, tmp_path):
    steps(TINY, store, tmp_path / "run", TINY.steps)
    found = look(subjects([tmp_path / "run"]), None, None)
    sentences = found["attention"]["sentences"]
    assert sentences
    assert all(words[0] == "[CLS]" and words[-1] == "[SEP]" for words in sentences)
    drift = {chart["title"]: chart for chart in found["drift"]}
    assert "32 sequences" in drift["run: change of attention"]["says"]
    likeness = drift["run: likeness of hidden states"]["series"][-1]
    assert all(0 < value <= 1 for value in likeness["values"])
    assert all(a <= b for a, b in zip(likeness["low"], likeness["values"]))
    given = look(subjects([tmp_path / "run"]), "the capital", str(store))
    assert len(given["attention"]["sentences"]) == 1
    assert "32 sequences" in given["drift"][0]["says"]


def test_without_the_store_the_page_says_why_there_is_no_attention(run):
    found = look(subjects([run.path]), None, None)
    assert found == {"absent": "No attention: the token store cannot be read (it is not there)."}


def test_a_store_that_is_named_and_not_there_is_an_error(run, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        look(subjects([run.path]), None, str(tmp_path / "nowhere"))


def test_a_store_of_other_pieces_is_not_looked_at(run, store):
    with pytest.raises(ValueError, match="other pieces"):
        look(subjects([run.path]), None, str(store))


def test_a_run_whose_first_stage_goes_on_has_no_model_to_look_into(tmp_path):
    new_run(tmp_path / "run", CONFIG)
    assert "no model to look into" in look(subjects([tmp_path / "run"]), None, None)["absent"]
