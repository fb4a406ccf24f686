"""A trained model opens from wherever it lies, and what does not fit is refused by its name."""

import json
from pathlib import Path

import pytest
import torch
from made_up_run import CONFIG, end_stages, new_run, trained_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from mslt.checkpoint import State
from mslt.data import tokenizer as tokenizers
from mslt.model import Encoder
from mslt.pretrained import Pretrained, open_model
from mslt.run import Run


def same(found: Encoder, expected: Encoder) -> bool:
    theirs = expected.state_dict()
    ours = found.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in theirs)


def pieces(found: Pretrained) -> int:
    return tokenizers.given(found.tokenizer).get_vocab_size()


def test_a_run_opens_as_its_finished_model(finished: Run) -> None:
    found = open_model(finished.path)
    assert same(found.model, trained_model(4, seed=2))
    assert (found.name, found.fresh) == ("run", ())
    assert pieces(found) == CONFIG.model.vocab_size


def test_a_stage_of_a_run_opens_at_its_depth(finished: Run) -> None:
    found = open_model(finished.path / "stages" / "1-depth-2")
    assert same(found.model, trained_model(2, seed=0))
    assert (found.name, found.model.depth) == ("run/1-depth-2", 2)
    assert pieces(found) == CONFIG.model.vocab_size


def test_an_unfinished_run_opens_as_its_newest_good_checkpoint(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    end_stages(run, 1)
    for step in (450, 460):
        run.save(State(step, trained_model(4, seed=step), seconds=step / 10))
    run.wait()
    newest = run.checkpoints()[-1]
    found = open_model(newest)
    assert found.name == "run/step-00000460"
    assert same(found.model, trained_model(4, seed=460))
    file = newest / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert same(open_model(run.path).model, trained_model(4, seed=450))


def test_an_exported_model_opens_as_what_was_exported(exported: Path) -> None:
    found = open_model(exported)
    assert same(found.model, trained_model(4, seed=2))
    assert found.name == "exported"
    assert pieces(found) == CONFIG.model.vocab_size


def test_a_folder_of_a_bare_encoder_opens_with_new_heads(exported: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(exported).save_pretrained(tmp_path)
    found = open_model(tmp_path)
    expected = trained_model(4, seed=2).state_dict()
    ours = found.model.state_dict()
    assert all(
        torch.equal(ours[name], expected[name])
        for name in expected
        if not name.startswith("head.") or "pooler" in name
    )
    assert {name.partition(".")[0] for name in found.fresh} == {"cls"}
    assert not torch.equal(ours["head.pair.weight"], expected["head.pair.weight"])


def test_a_fine_tuned_folder_opens_without_its_classifier(exported: Path, tmp_path: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(exported).save_pretrained(tmp_path)
    found = open_model(tmp_path)
    assert torch.equal(found.model.head.pooler.weight, trained_model(4, seed=2).head.pooler.weight)


def copied(exported: Path, to: Path, **config: object) -> Path:
    """The folder again, with other values in its config.json."""
    to.mkdir()
    for file in exported.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    values = json.loads((to / "config.json").read_text()) | config
    (to / "config.json").write_text(json.dumps(values))
    return to


def test_older_names_and_half_precision_are_read(exported: Path, tmp_path: Path) -> None:
    folder = copied(exported, tmp_path / "old")
    tensors = load_file(exported / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor.bfloat16()
        for name, tensor in tensors.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(40)[None]
    save_file(old, folder / "model.safetensors")
    found = open_model(folder).model.state_dict()
    expected = trained_model(4, seed=2).state_dict()
    assert all(torch.equal(found[n], expected[n].bfloat16().float()) for n in expected)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide'"),
        ({"num_hidden_layers": 10_000, "hidden_size": 100_000}, "has .* numbers"),
        ({"num_hidden_layers": 3}, "tensor that the model has not, bert.encoder.layer.3"),
        ({"num_hidden_layers": 5, "intermediate_size": 9}, "does not fit config.json"),
        ({"vocab_size": 14}, r"word_embeddings.weight is F32 \[15, 32\], not numbers \[14, 32\]"),
        ({"num_attention_heads": 5}, "num_attention_heads must divide"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    exported: Path, tmp_path: Path, values: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        open_model(copied(exported, tmp_path / "odd", **values))


def test_a_folder_without_safetensors_or_of_nothing_is_refused(
    exported: Path, tmp_path: Path
) -> None:
    folder = copied(exported, tmp_path / "bin")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        open_model(folder)
    (folder / "model.safetensors").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=r"does not fit|is damaged"):
        open_model(folder)
    with pytest.raises(ValueError, match="holds no model"):
        open_model(tmp_path)
