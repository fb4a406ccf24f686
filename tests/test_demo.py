"""The demo on a tiny text, from beginning to end."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import text

from mslt import demo as demo_module
from mslt.data.prepare import PrepareConfig, prepare
from mslt.data.store import TokenStore
from mslt.run import Run


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "text.txt").write_text(text(60) + "\n\nof to the\n", encoding="utf-8")

    def small(sources: list[str], out: Path, config: PrepareConfig) -> TokenStore:
        assert sources == ["pydocs"]
        config = replace(config, vocab_size=120, heldout=0.1, workers=1)
        return prepare([str(folder / "text.txt")], out, config, progress=False)

    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "prepare", small)
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(words)))
        demo_module.demo(folder / "out", seconds=0.01)
    return folder / "out", "\n".join(printed)


def test_it_trains_both_plans_on_the_same_steps(shown: tuple[Path, str]) -> None:
    runs = [Run.open(shown[0] / name) for name in ("whole", "mslt")]
    assert [run.config.plan.method for run in runs] == ["whole", "mslt"]
    assert runs[0].config.steps == runs[1].config.steps == 20
    assert all(run.heldout()[-1]["step"] == 20 for run in runs)
    assert len(runs[1].stage_folders()) == 5


def test_it_prints_the_table_the_speed_up_and_the_baseline(shown: tuple[Path, str]) -> None:
    folder, printed = shown
    whole, mslt = (Run.open(folder / name).heldout()[-1] for name in ("whole", "mslt"))
    share = mslt["seconds"] / whole["seconds"]
    assert f"MSLT took {share:.2f} of the whole model's training time" in printed
    assert f"whole {whole['mlm_loss']:.3f}, mslt {mslt['mlm_loss']:.3f}" in printed
    assert "token frequencies alone" in printed
    assert "held-out loss" in printed


def test_it_draws_exports_and_fills_masks(shown: tuple[Path, str]) -> None:
    folder, printed = shown
    assert (folder / "loss.png").stat().st_size > 10_000
    assert (folder / "report.html").read_text("utf-8").startswith("<!doctype html><!-- mslt report")
    assert (folder / "bert-mslt" / "model.safetensors").exists()
    assert printed.count("[MASK]") == len(demo_module.SENTENCES)


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="is not empty"):
        demo_module.demo(tmp_path, 1.0)
