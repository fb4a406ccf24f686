"""The grid keeps what is done, goes on where it stopped, and writes what transformers loads."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_run import CONFIG
from made_up_tasks import words_of, write_task
from transformers import AutoModelForSequenceClassification

from mslt import layout
from mslt.finetune import cell as cells
from mslt.finetune import crew, grid, summary
from mslt.finetune.model import TaskModel, read, write
from mslt.finetune.settings import Cell, FinetuneConfig
from mslt.finetune.tasks import GLUE
from mslt.model import Encoder
from mslt.run import Run

LENGTH = 12


@pytest.fixture(scope="module")
def data(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("glue")
    for name in ("rte", "stsb"):
        write_task(folder, GLUE[name], words_of(finished.path / "tokenizer"))
    return folder


def config(data: Path, **how) -> FinetuneConfig:
    usual = {"tasks": ["rte"], "lrs": [1e-2, 1e-9], "seeds": 2, "epochs": 6, "batch_size": 8}
    return FinetuneConfig(
        **{**usual, "glue_dir": str(data), "max_length": LENGTH, "device": "cpu", **how}
    )


def test_a_grid_learns_chooses_the_rate_and_goes_on_where_it_stopped(
    finished: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, trained = tmp_path / "out", []
    real = cells.train

    def train(work, *more):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(work.cell)
        return real(work, *more)

    monkeypatch.setattr(crew, "train", train)
    with pytest.raises(KeyboardInterrupt):
        grid.finetune(finished.path, out, config(data))
    monkeypatch.setattr(
        crew, "train", lambda work, *more: trained.append(work.cell) or real(work, *more)
    )
    grid.finetune(finished.path, out, config(data))
    assert trained == config(data).cells()  # each once

    scores = json.loads((out / layout.SCORES).read_text())
    found = {
        name: json.loads((out / "cells" / name / "result.json").read_text())
        for name in ("rte-lr0.01-seed0", "rte-lr0.01-seed1")
    }
    accuracies = [result["scores"]["accuracy"] for result in found.values()]
    assert scores == {"RTE": pytest.approx(np.median(accuracies)), "seeds": {"RTE": accuracies}}
    assert scores["RTE"] > 80  # the first text tells the answer
    models = sorted(path.parent.name for path in (out / "cells").glob("*/model"))
    assert len(models) == 2  # the best seed of each rate
    assert "| RTE | 0.01 | 2 | accuracy |" in (out / "table.md").read_text()
    model = AutoModelForSequenceClassification.from_pretrained(out / "rte")
    assert model.config.id2label == {0: "entailment", 1: "not_entailment"}


def test_a_training_tells_how_far_it_is(
    finished: Run,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cells, "LINE_SECONDS", 0.0)
    how = {"lrs": [4e-3], "seeds": 1, "epochs": 1}
    grid.finetune(finished.path, tmp_path / "out", config(data, **how))
    said = capsys.readouterr().out
    for step in range(1, 7):
        assert re.search(rf"rte-lr0\.004-seed0: step {step} of 6, loss \d+\.\d+, \d+ s left", said)


def test_what_decides_a_cell_may_not_change_and_what_adds_cells_may(
    finished: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = {"lrs": [4e-3], "seeds": 1, "epochs": 1}
    grid.finetune(finished.path, tmp_path / "out", config(data, **how))
    with pytest.raises(ValueError, match=r"epochs: the cells in .* were trained with 1"):
        grid.finetune(finished.path, tmp_path / "out", config(data, **{**how, "epochs": 2}))
    stage = finished.path / "stages" / "1-depth-2"
    with pytest.raises(ValueError, match=r"model: the cells in .* another one"):
        grid.finetune(stage, tmp_path / "out", config(data, **how))
    grid.finetune(
        finished.path,
        tmp_path / "out",
        config(data, **{**how, "tasks": ["rte", "stsb"]}),
        tmp_path / "out",
    )
    scores = json.loads((tmp_path / "out" / layout.SCORES).read_text())
    assert set(scores) <= {"RTE", "STS-B", "seeds"}
    said = capsys.readouterr().out
    assert "1 of 2 cells are done; 1 to come\n" in said
    assert re.search(r"STS-B +0\.004 +to come\n", said)
    assert re.search(r"rte-lr0\.004-seed0: accuracy .*; 0 to come\n", said)
    assert "RTE" in said.partition("against")[2]


def written(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_tables_scores_and_models_are_of_all_cells_whatever_was_asked_for_last(
    finished: Run, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    whole = {"tasks": ["rte", "stsb"], "lrs": [1e-2, 5e-3], "epochs": 2}
    grid.finetune(finished.path, out, config(data, **whole))
    names = (layout.SCORES, "table.md", "rte/model.safetensors", "stsb/model.safetensors")
    before = {name: (out / name).read_bytes() for name in names}
    for less in ({"seeds": 1}, {"lrs": [5e-3]}, {"tasks": ["stsb"]}):
        grid.finetune(finished.path, out, config(data, **{**whole, **less}))
        assert {name: (out / name).read_bytes() for name in names} == before
    grid.finetune(finished.path, out, config(data, **{**whole, "seeds": 3, "tasks": ["rte"]}))
    results = cells.read_results(out / "cells").values()
    best = {found.task.name: found.best for found in summary.found(results)}["rte"]
    assert f"| RTE | {best.lr:g} | 3 |" in (out / "table.md").read_text()
    assert written(out / "rte") == written(out / "cells" / best.name / "model")


def test_what_diverges_is_a_result_without_a_score_or_a_model(
    finished: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = 1e30
    how = {"lrs": [rate, 1e-2], "seeds": 2, "epochs": 1}
    grid.finetune(finished.path, tmp_path / "out", config(data, **how))
    cell = tmp_path / "out" / "cells" / f"rte-lr{rate:g}-seed0"
    result = json.loads((cell / "result.json").read_text())
    assert result["scores"] == {"accuracy": None}
    assert "not finite" in result["diverged"] or "loss is nan" in result["diverged"]
    assert [path.name for path in cell.iterdir()] == ["result.json"]
    said = capsys.readouterr().out
    assert f"{cell.name}: diverged ({result['diverged']})" in said
    assert f"{rate:g}  diverged  diverged" in said
    assert "| RTE | 0.01 | 2 |" in (tmp_path / "out" / "table.md").read_text()

    out = tmp_path / "alone"
    grid.finetune(finished.path, out, config(data, **{**how, "lrs": [rate]}))
    assert json.loads((out / layout.SCORES).read_text()) == {"seeds": {}}
    assert "2 (2 diverged) | accuracy | n/a" in (out / "table.md").read_text()
    assert not (out / "rte").exists()


@pytest.mark.parametrize("classes", [2, 1])
def test_what_is_written_has_the_same_logits_in_transformers(
    classes: int, finished: Run, tmp_path: Path
) -> None:
    model = TaskModel(Encoder(CONFIG.model, 4, seed=3), classes).eval()
    labels = ("no", "yes") if classes == 2 else ()
    write(tmp_path, model, finished.path / "tokenizer", labels)
    theirs, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.randint(5, CONFIG.model.vocab_size, (3, 9))
    segments = (torch.arange(9) > 4).long().expand(3, 9)
    seen = torch.arange(9) < torch.tensor([9, 7, 5])[:, None]
    with torch.no_grad():
        ours = model.logits(ids, segments, seen)
        expected = theirs.eval()(ids, seen.long(), segments).logits
        again = read(tmp_path).eval().logits(ids, segments, seen)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again, ours, atol=1e-6, rtol=0)


def test_cells_are_named_by_task_rate_and_seed() -> None:
    assert Cell("mrpc", 3e-5, 2).name == "mrpc-lr3e-05-seed2"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"tasks": []}, "tasks is missing"),
        ({"tasks": ["mrcp"]}, "there is no task mrcp"),
        ({"tasks": ["rte", "rte"]}, "twice"),
        ({"lrs": [0.0]}, "lrs must be above 0"),
        ({"seeds": 0}, "seeds must be 1 or more"),
        ({"threshold": 0.5}, "threshold has no effect"),
        ({"stride": 64}, "stride has no effect"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_by_its_key(how, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FinetuneConfig(**{"tasks": ["rte"], **how})


def test_a_length_beyond_the_models_positions_is_refused(
    finished: Run, data: Path, tmp_path
) -> None:
    most = CONFIG.model.max_position_embeddings
    with pytest.raises(ValueError, match=f"--max_length {most}"):
        grid.finetune(finished.path, tmp_path / "out", config(data, max_length=most + 8))
