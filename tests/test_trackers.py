"""Figures go where they are asked to; what is not installed is told before a run begins."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tiny_run import TINY

from mslt import config as configs
from mslt import trackers
from mslt.config import Config
from mslt.launch import pretrain
from mslt.trackers import TRACKERS, Trackers, require

VALUES = {"mlm_loss": 2.5, "memory": None, "reason": "a spike", "step": 3}


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A module in the place of wandb, and what it was told."""
    told: list[tuple[str, Any]] = []
    run = SimpleNamespace(
        log=lambda values: told.append(("log", values)),
        finish=lambda: told.append(("finish", None)),
    )
    module = ModuleType("wandb")

    def init(**how: Any) -> Any:
        told.append(("init", how))
        return run

    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: name)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return told


def test_the_options_and_the_trackers_have_the_same_names() -> None:
    assert tuple(TRACKERS) == configs.TRACKERS


def test_a_run_is_tracked_by_each_name_once() -> None:
    assert Config(track=["wandb", "tensorboard"], tensorboard=True).trackers == [
        "wandb",
        "tensorboard",
    ]
    assert Config(tensorboard=True).trackers == ["tensorboard"]
    assert Config().trackers == []
    with pytest.raises(ValueError, match="track must be one of tensorboard, wandb, mlflow, trac"):
        Config(track=["neptune"])


def test_numbers_are_passed_on_by_kind_and_nothing_else(
    tmp_path: Path, wandb: list[tuple[str, Any]]
) -> None:
    tracked = Trackers(tmp_path / "mine", ["wandb"], {"steps": 10})
    assert wandb == []  # reading a run's folder tracks nothing
    tracked.log("train", 3, VALUES)
    tracked.close()
    [(_, how), (_, values), (last, _)] = wandb
    assert values == {"train/mlm_loss": 2.5, "train/step": 3.0, "step": 3}
    assert (how["name"], how["config"], last) == ("mine", {"steps": 10}, "finish")


def test_nothing_goes_over_a_network_unless_the_user_says_so(
    tmp_path: Path, wandb: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    Trackers(tmp_path, ["wandb"], {}).log("train", 1, VALUES)
    monkeypatch.setenv("WANDB_MODE", "online")
    Trackers(tmp_path, ["wandb"], {}).log("train", 1, VALUES)
    modes = [how["mode"] for what, how in wandb if what == "init"]
    assert modes == ["offline", "online"]


def test_a_run_tells_its_trackers_every_line_and_options(
    store: Path, tmp_path: Path, wandb: list[tuple[str, Any]]
) -> None:
    assert pretrain(replace(TINY, track=["wandb"]), store, tmp_path / "run") == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [values for what, values in wandb if what == "log"]
    assert [values["step"] for values in logged] == [json.loads(line)["step"] for line in lines]
    assert wandb[0][1]["config"]["model.hidden_size"] == 16
    assert wandb[-1] == ("finish", None)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_what_is_not_installed_is_told_before_there_is_a_run(
    name: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"{name} is not installed: pip install .*{name}"):
        pretrain(replace(TINY, track=[name]), store, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    require([])


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_each_that_is_installed_writes_into_the_runs_folder(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    tracked = Trackers(tmp_path, [name], {"steps": 10})
    for step in (1, 2):
        tracked.log("train", step, VALUES)
    tracked.close()
    assert any(path.is_file() for path in (tmp_path / name).rglob("*"))
