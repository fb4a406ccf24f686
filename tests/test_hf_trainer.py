"""The page about Hugging Face's Trainer does what it says, one Trainer after the other."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForPreTraining

PAGE = (Path(__file__).parents[1] / "docs" / "hf-trainer.md").read_text(encoding="utf-8")


def run(store: Path, out: Path) -> dict[str, Any]:
    """The page's code with a smaller model, fewer steps and no progress bars."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for old, new in {
        'Path("store")': f"Path({str(store)!r})",
        'Path("hf-run")': f"Path({str(out)!r})",
        "depth=12": "depth=4",
        "steps=10_000": "steps=10",
        "k=4": "k=2",
        "seq_len=128": "seq_len=32",
        "lr=1e-4, warmup_steps=100": "lr=1e-3, warmup_steps=1",
        "hidden_size=256": "hidden_size=16",
        "num_attention_heads=4": "num_attention_heads=2",
        "intermediate_size=1024": "intermediate_size=32",
        "batch_size = 32": "batch_size = 4",
        "report_to=[]": "report_to=[], disable_tqdm=True, use_cpu=True",
    }.items():
        assert old in code, old
        code = code.replace(old, new)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hf") / "run"
    run(store, out)
    return out


def stage(out: Path, number: int) -> BertForPreTraining:
    return BertForPreTraining.from_pretrained(out / f"stage-{number}" / "finished")


def moved(before: BertForPreTraining, after: BertForPreTraining) -> set[str]:
    """Names of the parts that differ."""
    old = before.state_dict()
    names = {n for n, t in after.state_dict().items() if n in old and not torch.equal(t, old[n])}
    return {".".join(name.split(".")[: 4 if ".layer." in name else 2]) for name in names}


@pytest.mark.filterwarnings("ignore")  # the Trainer's own
def test_each_stage_grows_and_trains_what_is_new_and_the_output_layer(finished: Path) -> None:
    first, second, third = (stage(finished, number) for number in (1, 2, 3))
    assert [m.config.num_hidden_layers for m in (first, second, third)] == [2, 4, 4]
    output = {"bert.pooler", "cls.predictions", "cls.seq_relationship"}
    assert moved(first, second) == output
    everything = {f"bert.encoder.layer.{i}" for i in range(4)} | output | {"bert.embeddings"}
    assert moved(second, third) == everything
    # What is new in the second stage learned there: it is no copy of the layer below any more.
    layers = second.bert.encoder.layer
    assert not torch.equal(layers[2].output.dense.weight, layers[0].output.dense.weight)


@pytest.mark.filterwarnings("ignore")
def test_a_chain_that_was_broken_off_goes_on_after_its_last_finished_stage(
    store: Path, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "stage-3")
    names = run(store, tmp_path / "run")
    assert names["trainer"].state.global_step == names["plan"].stages[-1].steps
    assert stage(tmp_path / "run", 3).config.num_hidden_layers == 4
    last = names["plan"].lr(names["plan"].steps - 1)
    assert names["trainer"].state.log_history[-1]["step"] == 2
    assert names["trainer"].optimizer.param_groups[0]["lr"] == pytest.approx(last)
