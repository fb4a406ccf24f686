"""Exported models load in transformers, compute what ours compute, and say what they are."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from made_up_run import CONFIG, PIECES, card_of, end_stages, new_run, trained_model
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from mslt import huggingface
from mslt.checkpoint import State, load_model
from mslt.config import Config, ModelConfig, PlanConfig
from mslt.data import tokenizer as tokenizers
from mslt.data.instances import Batch
from mslt.data.store import TokenStore
from mslt.export import export
from mslt.job import Job
from mslt.launch import pretrain
from mslt.model import Encoder
from mslt.run import Run
from mslt.schedule import Schedule


def logits_of_ours(model: Encoder, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    model.eval()
    with torch.no_grad():
        hidden_BLD = model.hidden(
            inputs["input_ids"], inputs["token_type_ids"], inputs["attention_mask"].bool()
        )
        mlm_BLV = model.head.mlm(hidden_BLD, model.embeddings.token.weight)
        return mlm_BLV, model.head.next_sentence(hidden_BLD[:, 0])


def some_text(tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    return tokenizer(
        ["the [MASK] of France", "Paris."],
        ["is Paris.", "\u00c9t\u00e9s"],
        padding=True,
        return_tensors="pt",
    )


def test_the_folder_holds_what_a_hugging_face_model_holds(exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    with safe_open(exported / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    names = load_file(exported / "model.safetensors").keys()
    assert not [name for name in names if "decoder" in name or "position_ids" in name]
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1


def test_an_exported_model_computes_what_ours_computes(finished: Run, exported: Path) -> None:
    theirs, info = AutoModelForPreTraining.from_pretrained(exported, output_loading_info=True)
    assert not any(info.values()), info
    assert theirs.dtype == torch.float32
    ours, _ = load_model(finished.stage_folders()[-1], CONFIG.model)
    inputs = some_text(AutoTokenizer.from_pretrained(exported))
    assert not inputs["attention_mask"].all()
    mlm_BLV, pair_B2 = logits_of_ours(ours, inputs)
    with torch.no_grad():
        expected = theirs.eval()(**inputs)
    assert (mlm_BLV - expected.prediction_logits).abs().max() < 1e-5
    assert (pair_B2 - expected.seq_relationship_logits).abs().max() < 1e-5


def test_it_loads_as_encoder_and_as_masked_language_model(exported: Path) -> None:
    whole = AutoModelForPreTraining.from_pretrained(exported).eval()
    encoder, about_encoder = AutoModel.from_pretrained(exported, output_loading_info=True)
    masked, about_masked = AutoModelForMaskedLM.from_pretrained(exported, output_loading_info=True)
    assert not about_encoder["missing_keys"]
    assert not about_masked["missing_keys"]
    inputs = some_text(AutoTokenizer.from_pretrained(exported))
    with torch.no_grad():
        expected = whole(**inputs, output_hidden_states=True)
        assert torch.equal(encoder.eval()(**inputs)[0], expected.hidden_states[-1])
        assert torch.equal(masked.eval()(**inputs).logits, expected.prediction_logits)


def test_the_tokenizer_is_the_one_of_the_run(finished: Run, exported: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(exported)
    ours = tokenizers.load(finished.path / "tokenizer")
    text = "The capital of France is \u00c9t\u00e9 [MASK], Pariss."
    assert loaded(text)["input_ids"] == ours.encode(text).ids
    assert loaded.model_max_length == CONFIG.model.max_position_embeddings
    assert loaded.mask_token_id == PIECES.index("[MASK]")
    assert (exported / "vocab.txt").read_text("utf-8").split("\n") == [*PIECES, ""]


def test_config_json_says_the_same_as_the_library_would_write(
    exported: Path, tmp_path: Path
) -> None:
    AutoModelForPreTraining.from_pretrained(exported).save_pretrained(tmp_path)
    theirs = json.loads((tmp_path / "config.json").read_text())
    ours = json.loads((exported / "config.json").read_text())
    assert {key: theirs[key] for key in ours} == ours
    assert load_file(tmp_path / "model.safetensors").keys() == (
        load_file(exported / "model.safetensors").keys()
    )


@pytest.mark.parametrize(("stage", "depth"), [(1, 2), (2, 4), (3, 4)])
def test_every_stage_gives_a_model_of_its_own_depth(
    finished: Run, tmp_path: Path, stage: int, depth: int
) -> None:
    folder = export(finished.path, tmp_path / "out", stage)
    config = json.loads((folder / "config.json").read_text())
    ours, _ = load_model(finished.stage_folders()[stage - 1], CONFIG.model)
    expected = huggingface.to_hf(ours.state_dict(), ours.config)
    written = load_file(folder / "model.safetensors")
    assert config["num_hidden_layers"] == ours.depth == depth
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)


def test_the_best_checkpoint_is_exported_where_it_is_asked_for(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with pytest.raises(ValueError, match="no checkpoint that was evaluated"):
        export(run.path, tmp_path / "out", best=True)
    for step, loss in ((400, 2.5), (450, 2.0), (500, 2.25)):
        run.record("heldout", step, {"mlm_loss": loss, "mlm_accuracy": 0.5, "seconds": step / 10})
        run.save(State(step, trained_model(4, seed=step), seconds=step / 10))
    run.wait()
    export(run.path, tmp_path / "out", best=True)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    expected = trained_model(4, seed=450).head.bias
    assert torch.equal(tensors["cls.predictions.bias"], expected)
    with pytest.raises(ValueError, match="no effect beside --stage"):
        export(run.path, tmp_path / "other", stage=1, best=True)


def test_an_unfinished_run_gives_its_newest_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path / "run")
    end_stages(run, 1)
    for step in (400, 450, 460):
        model = trained_model(2 if step == 400 else 4, seed=step)
        run.save(State(step=step, model=model, seconds=step / 10))
    run.wait()
    newest = run.checkpoints()[-1] / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")
    folder = export(run.path, tmp_path / "out")
    assert "step-00000460/model.safetensors is damaged" in capsys.readouterr().out
    expected = huggingface.to_hf(trained_model(4, seed=450).state_dict(), CONFIG.model)
    written = load_file(folder / "model.safetensors")
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    card = card_of(folder)
    assert "It is not finished: it stands in stage 2 of 3, after 450 of 1,000 steps" in card
    assert "| 2 | 4 | 3 to 4 | 50 of 400 | 32 | 5.0 s | 2,560 |  |" in card
    assert "Measured after step 400" in card


def test_an_exported_model_reaches_the_loss_that_its_run_recorded(
    store: Path, tmp_path: Path
) -> None:
    config = Config(
        steps=6,
        batch_size=8,
        eval_every=0,
        eval_batches=2,
        log_every=3,
        device="cpu",
        precision="fp32",
        model=ModelConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2),
        plan=PlanConfig(method="mslt", k=2, retrain=0.34, seq_len=32),
        schedule=Schedule(lr=1e-2, warmup_steps=2),
    )
    assert pretrain(config, store, tmp_path / "run") == 0
    recorded = Run.open(tmp_path / "run").heldout()
    assert [(m["step"], m["depth"]) for m in recorded] == [(2, 1), (4, 2), (6, 2)]
    batches = Job.prepare(config, TokenStore.open(store)).heldout
    for stage, line in enumerate(recorded, 1):
        folder = export(tmp_path / "run", tmp_path / f"stage-{stage}", stage)
        model, info = AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        mlm, pair = their_losses(model.eval(), batches)
        # Two sums over all predictions in another order, in fp32.
        assert mlm == pytest.approx(line["mlm_loss"], abs=1e-5)
        assert pair == pytest.approx(line["pair_loss"], abs=1e-5)


def their_losses(model: torch.nn.Module, batches: list[Batch]) -> tuple[float, float]:
    """Mean losses on batches by their model."""
    mlm = pair = predictions = sequences = 0.0
    for batch in batches:
        ids = torch.from_numpy(batch.input_ids)
        seen = torch.arange(ids.shape[1]) < torch.from_numpy(batch.lengths)[:, None]
        with torch.no_grad():
            out = model(ids, seen.long(), torch.from_numpy(batch.token_type_ids))
        rows, slots = batch.masked_weights.nonzero()
        logits = out.prediction_logits[rows, batch.masked_positions[rows, slots]]
        targets = torch.from_numpy(batch.masked_ids[rows, slots])
        labels = torch.from_numpy(batch.pair_labels)
        mlm += float(F.cross_entropy(logits, targets, reduction="sum"))
        pair += float(F.cross_entropy(out.seq_relationship_logits, labels, reduction="sum"))
        predictions, sequences = predictions + len(rows), sequences + len(labels)
    return mlm / predictions, pair / sequences


def test_the_id_of_padding_is_the_tokenizers(tmp_path: Path) -> None:
    pieces = ["the", *PIECES[1:5], "[PAD]", *PIECES[6:]]
    run = new_run(tmp_path / "run", pieces=pieces)
    end_stages(run, 3)
    folder = export(run.path, tmp_path / "out")
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] == 5
    assert AutoTokenizer.from_pretrained(folder).pad_token_id == 5


def test_a_stage_that_has_not_ended_is_refused_with_those_that_have(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"stage 1 of 3 has not ended in .*run; none has"):
        export(run.path, tmp_path / "out", 1)
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        export(run.path, tmp_path / "out")
    end_stages(run, 2)
    for stage in (3, 4, 0, -1):
        with pytest.raises(ValueError, match=rf"stage {stage} .*; these have: 1, 2$"):
            export(run.path, tmp_path / "out", stage)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(finished: Run, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists: choose another --out"):
        export(finished.path, tmp_path)
    with pytest.raises(ValueError, match="exists"):
        export(finished.path, tmp_path / "note.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    (tmp_path / "empty").mkdir()
    assert (export(finished.path, tmp_path / "empty") / "config.json").exists()


def test_a_damaged_model_is_refused_by_name(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    end_stages(run, 3)
    file = run.stage_folders()[-1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=r"3-depth-4/model\.safetensors is damaged"):
        export(run.path, tmp_path / "out")
    (run.path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        export(run.path, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "tokenizer"]


def test_a_full_disk_leaves_nothing_behind(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mslt.files.flush", full)
    with pytest.raises(OSError, match="No space left"):
        export(finished.path, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_can_be_refused_at_once_is_refused_without_torch(finished: Run) -> None:
    code = (
        "import sys; from pathlib import Path; from mslt.export import export\n"
        "try: export(Path(sys.argv[1]), Path('never'), 9)\n"
        "except ValueError as error: print(error)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, finished.path], capture_output=True, text=True, check=True
    )
    assert "these have: 1, 2, 3" in done.stdout
