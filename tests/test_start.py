"""A run begins with a trained model: to go on with it, or to grow it."""

import io
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from theirs import shape, their_model
from tiny_run import TINY, final_weights, losses, start, steps
from transformers import AutoTokenizer, PreTrainedModel

from mslt.checkpoint import load_model
from mslt.cli import main
from mslt.config import Config, ModelConfig, PlanConfig
from mslt.data import tokenizer as tokenizers
from mslt.data.store import TokenStore
from mslt.growth import is_fixed
from mslt.huggingface import from_hf
from mslt.job import Job
from mslt.launch import pretrain
from mslt.layout import read_start
from mslt.pretrained import open_model
from mslt.run import Run
from mslt.start import bring


def pieces(store: Path) -> int:
    return TokenStore.open(store).vocab_size


def folder_of(model: PreTrainedModel, store: Path, folder: Path) -> Path:
    """As transformers writes it, with the store's tokenizer."""
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(store / "tokenizer" / name, folder)
    return folder


def wide(store: Path, layers: int, **more: Any) -> ModelConfig:
    """Of the shape of the runs here."""
    config = shape(layers, 16, 2, **more)
    return replace(
        config, vocab_size=pieces(store), intermediate_size=64, max_position_embeddings=512
    )


@pytest.fixture(scope="module")
def foreign(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers by transformers."""
    return folder_of(their_model(wide(store, 2)), store, tmp_path_factory.mktemp("hf") / "bert")


def growing(shares: list[float] | None = None) -> Config:
    """Four layers, of which two are there."""
    plan = PlanConfig(method="mslt", k=4, seq_len=32, start_depth=2, shares=shares)
    return replace(TINY, plan=plan)


def test_the_first_state_is_the_trained_model(store: Path, foreign: Path, tmp_path: Path) -> None:
    bring(foreign, tmp_path / "run")
    job = Job.prepare(growing(), TokenStore.open(store), start=read_start(tmp_path / "run"))
    assert [(s.depth, s.learns_from) for s in job.plan.stages] == [(2, 0), (3, 2), (4, 3), (4, 0)]
    state = job.first_state()
    expected = from_hf(load_file(foreign / "model.safetensors"), wide(store, 2))
    assert (state.step, state.model.depth) == (0, 2)
    for name, tensor in state.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.fixture(scope="module")
def unbroken(store: Path, foreign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unbroken") / "run"
    bring(foreign, run)
    assert pretrain(growing(), store, run) == 0
    return run


@pytest.mark.parametrize("stopped_at", [0, 5])
def test_a_run_from_a_trained_model_resumes_bit_for_bit(
    store: Path, foreign: Path, unbroken: Path, tmp_path: Path, stopped_at: int
) -> None:
    """At step 0 too, before there is a checkpoint."""
    config, opened, run = growing(), TokenStore.open(store), tmp_path / "run"
    bring(foreign, run)
    if stopped_at:
        job = Job.prepare(config, opened, start=read_start(run))
        steps(config, store, run, stopped_at, job)
    else:
        job = Job.prepare(config, opened, start=read_start(run))
        Run.create(run, job.config, job.facts(opened), store / "tokenizer")
    assert pretrain(config, store, run, resume=True) == 0
    assert losses(run) == losses(unbroken)
    expected = final_weights(unbroken)
    assert all(torch.equal(t, expected[name]) for name, t in final_weights(run).items())


def test_a_launch_that_was_killed_as_its_run_began_begins_it_again(
    store: Path, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a-launch")
    out = tmp_path / "run"
    bring(foreign, out)
    (out / "run.json").write_text('{"launch": "a-launch"}')  # and not yet config.yaml
    assert pretrain(growing(), store, out) == 0
    assert pretrain(growing(), store, out) == 0  # a restart of a run that is there goes on with it


def test_a_trained_model_that_grows_at_once_is_the_fixed_lower_half(
    store: Path, foreign: Path, tmp_path: Path
) -> None:
    bring(foreign, tmp_path / "run")
    config = replace(growing([0, 5, 3, 2]), plan=replace(growing().plan, k=2, shares=[0, 8, 2]))
    assert pretrain(config, store, tmp_path / "run") == 0
    grown, _ = load_model(tmp_path / "run" / "stages" / "1-depth-4", wide(store, 4))
    begun, _ = load_model(tmp_path / "run" / "start", wide(store, 2))
    expected = begun.state_dict()
    for name, tensor in grown.state_dict().items():
        if is_fixed(name, 2):
            assert torch.equal(tensor, expected[name]), name
    with pytest.raises(ValueError, match=r"first stage fixes 2 layers, and there is no trained"):
        Job.prepare(config, TokenStore.open(store))


@pytest.mark.parametrize("groups", [2, 1])
def test_an_albert_goes_on_and_grows_by_its_own_blocks(
    store: Path, tmp_path: Path, groups: int, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = their_model(wide(store, 2, embedding_size=8, num_hidden_groups=groups))
    folder_of(theirs, store, tmp_path / "hf")
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "run")]) == 0
    words = ["pretrain", "albert_tiny_mslt", "--data", str(store), "--out", str(tmp_path / "run")]
    few = ["--steps", "8", "--batch_size", "4", "--eval_batches", "1", "--plan.seq_len", "32"]
    model = ["--model.num_hidden_layers", "4", "--plan.k", str(2 * groups)]
    assert main([*words, *few, *model]) == 0
    assert "begins with the 2 layers of hf" in capsys.readouterr().out
    config = Run.open(tmp_path / "run").config
    assert (config.model.num_hidden_groups, config.model.repeat) == (2 * groups, 2 // groups)
    assert (config.model.embedding_size, config.model.hidden_size) == (8, 16)


def test_the_lowest_layers_of_a_deeper_model_are_a_start(
    store: Path, foreign: Path, tmp_path: Path
) -> None:
    bring(foreign, tmp_path / "run", depth=1)
    found = read_start(tmp_path / "run")
    assert found is not None
    assert (found.depth, found.name, found.model.num_hidden_layers) == (1, "bert", 1)
    with pytest.raises(ValueError, match="start_depth must be 1 to 2, not 3"):
        bring(foreign, tmp_path / "deeper", depth=3)
    assert not (tmp_path / "deeper").exists()


def test_a_stage_s_export_and_the_stage_itself_are_the_same_start(
    store: Path, tmp_path: Path
) -> None:
    _, _, run = start(TINY, store, tmp_path / "run")
    assert pretrain(TINY, store, run.path, resume=True) == 0
    words = ["export", str(run.path), "--stage", "1", "--out", str(tmp_path / "exported")]
    assert main(words) == 0
    for number, path in enumerate((tmp_path / "exported", run.path / "stages" / "1-depth-2")):
        assert main(["import", str(path), "--out", str(tmp_path / f"{number}")]) == 0
    one, other = (load_file(tmp_path / n / "start" / "model.safetensors") for n in "01")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_rows_of_the_vocabulary_that_mean_nothing_are_left_out(store: Path, tmp_path: Path) -> None:
    padded = replace(wide(store, 2), vocab_size=pieces(store) + 7)
    folder_of(their_model(padded), store, tmp_path / "hf")
    found = bring(tmp_path / "hf", tmp_path / "run")
    assert found.model.config.vocab_size == pieces(store)
    fewer = replace(wide(store, 2), vocab_size=pieces(store) - 7)
    folder_of(their_model(fewer), store, tmp_path / "less")
    with pytest.raises(ValueError, match=r"the tokenizer has .* pieces, and the model"):
        bring(tmp_path / "less", tmp_path / "other")


# --- what does not fit --------------------------------------------------------------------------


def test_text_of_another_tokenizer_is_refused(
    store: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bring(foreign, tmp_path / "run")
    other = tmp_path / "run" / "tokenizer"
    vocab = tokenizers.load(other).get_vocab()
    names = sorted(vocab, key=vocab.__getitem__)
    names[-1], names[-2] = names[-2], names[-1]
    tokenizers.save(tokenizers.build({n: i for i, n in enumerate(names)}, lowercase=True), other)
    with pytest.raises(ValueError, match=r"another tokenizer .* prepare the text with --tokenizer"):
        pretrain(growing(), store, tmp_path / "run")
    tokenizers.save(tokenizers.build(vocab, lowercase=False), other)
    with pytest.raises(ValueError, match="has lowercase True, and the model's"):
        pretrain(growing(), store, tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--model.hidden_size", "32"], "model.hidden_size is 32, but 16 in the model"),
        (["--plan.start_depth", "1"], "plan.start_depth is 1, but 2 in the model"),
        (["--plan.method", "whole"], "cannot begin at plan.start_depth 2"),
        (["--model.num_hidden_layers", "2", "--plan.k", "2"], "nothing to grow to 2 layers"),
    ],
)
def test_options_that_are_not_the_model_s_are_refused(
    store: Path,
    foreign: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    complaint: str,
) -> None:
    bring(foreign, tmp_path / "run")
    start = ["pretrain", "bert_tiny_mslt", "--data", str(store), "--out", str(tmp_path / "run")]
    assert main([*start, *words]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_damaged_start_is_refused_by_its_file(store: Path, foreign: Path, tmp_path: Path) -> None:
    bring(foreign, tmp_path / "run")
    file = tmp_path / "run" / "start" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=r"start/model\.safetensors is damaged"):
        pretrain(growing(), store, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "start" / "state.json").read_text())
    facts["model"]["hidden_size"] = "wide"
    (tmp_path / "run" / "start" / "state.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"state\.json is damaged: model\.hidden_size must be"):
        read_start(tmp_path / "run")


# --- pickled weights ----------------------------------------------------------------------------


def as_bin(foreign: Path, folder: Path, content: Any) -> Path:
    folder.mkdir()
    for file in foreign.iterdir():
        if file.suffix == ".json":
            shutil.copy(file, folder)
    torch.save(content, folder / "pytorch_model.bin")
    return folder


def test_pickled_weights_are_converted_where_that_is_asked_for(
    foreign: Path, tmp_path: Path
) -> None:
    weights = load_file(foreign / "model.safetensors")
    folder = as_bin(foreign, tmp_path / "bin", weights)
    with pytest.raises(ValueError, match=r"no model\.safetensors; mslt import --convert_bin reads"):
        bring(folder, tmp_path / "run")
    bring(folder, tmp_path / "run", convert_bin=True)
    bring(foreign, tmp_path / "safe")
    one, other = (load_file(tmp_path / n / "start/model.safetensors") for n in ("run", "safe"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    with pytest.raises(ValueError, match="convert_bin has no effect"):
        bring(foreign, tmp_path / "again", convert_bin=True)


def test_what_was_imported_opens_and_is_exported_as_it_is(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, expected = tmp_path / "run", tmp_path / "out", open_model(foreign).model.state_dict()
    bring(
        as_bin(foreign, tmp_path / "bin", load_file(foreign / "model.safetensors")),
        run,
        convert_bin=True,
    )
    for path, name in ((run, "run"), (run / "start", "run/start")):
        opened = open_model(path)
        assert (opened.name, opened.tokenizer) == (name, run / "tokenizer")
        assert all(torch.equal(t, expected[n]) for n, t in opened.model.state_dict().items())
    assert main(["export", str(run), "--out", str(out), "--best", "true"]) == 2
    assert "--best has no effect" in capsys.readouterr().err
    assert main(["export", str(run), "--out", str(out)]) == 0
    again = open_model(out)
    assert not again.fresh
    assert all(torch.equal(t, expected[n]) for n, t in again.model.state_dict().items())
    assert "taken from bin by `mslt import`" in (out / "README.md").read_text()
    assert AutoTokenizer.from_pretrained(out).mask_token == "[MASK]"
    (run / "start" / "state.json").unlink()
    with pytest.raises(ValueError, match=r"run/start is damaged: it has no state\.json"):
        open_model(run)


class Touch:
    """What a pickle of it does when it is loaded as pickles are."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_pickle_that_does_something_is_refused_and_does_nothing(
    foreign: Path, tmp_path: Path
) -> None:
    for number, content in enumerate(({"a": Touch(tmp_path / "done")}, [1, 2], {"a": {"b": 1}})):
        folder = as_bin(foreign, tmp_path / f"bin{number}", content)
        file = folder / "pytorch_model.bin"
        file.write_bytes(file.read_bytes().ljust(1 << 20, b"\0") if number else file.read_bytes())
        with pytest.raises(ValueError, match=r"pytorch_model\.bin") as refused:
            bring(folder, tmp_path / "run", convert_bin=True)
        assert "weights_only" not in str(refused.value)  # torch advises to open it all the same
    raw = io.BytesIO()
    pickle.dump(Touch(tmp_path / "done"), raw)
    (folder / "pytorch_model.bin").write_bytes(raw.getvalue().ljust(1 << 20, b"\0"))
    with pytest.raises(ValueError, match="cannot be read as weights alone"):
        bring(folder, tmp_path / "run", convert_bin=True)
    assert not (tmp_path / "done").exists()
    assert not (tmp_path / "run").exists()


def test_weights_in_several_files_are_refused(foreign: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    shutil.copy(foreign / "config.json", folder)
    save_file({}, folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        bring(folder, tmp_path / "run")
