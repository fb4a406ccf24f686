"""Runs with everything that a report shows, and with text that would like to be code."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from made_up_run import CONFIG, PIECES, end_stages, new_run

from mslt.config import Config, PlanConfig
from mslt.run import Run

EVIL = "<img src=x onerror=alert(1)>"
SCRIPT = "</script><script>document.title='evil'</script>\u2028<!--"
TOKENS = ["[CLS]", "the", SCRIPT, "&lt;", "."]


def config(method: str, seed: int = 0) -> Config:
    plan = PlanConfig(method=method, k=2 if method == "mslt" else None, seq_len=32)  # type: ignore[arg-type]
    return replace(CONFIG, plan=plan, seed=seed)


def made_run(path: Path, settings: Config, stages: int | None = None) -> Run:
    """A run whose stages have ended, with a training line every 20 steps."""
    run = new_run(path, settings, PIECES)
    plan = run.config.stages()
    for step in range(20, plan.steps + 1, 20):
        index = plan.index(step - 1)
        values = {"mlm_loss": 3 - step / 1000, "lr": 1e-3, "memory": (index + 1) << 28}
        values |= {"tokens_per_second": 2560.0, "seconds": step / 10, "stage": index + 1}
        run.record("train", step, values)
    end_stages(run, len(plan.stages) if stages is None else stages)
    return run


def runs(folder: Path) -> list[Path]:
    """Two plans, one of them with two seeds and a name that is markup."""
    paths = [folder / f"{EVIL}-seed0", folder / f"{EVIL}-seed1", folder / "whole"]
    made_run(paths[0], config("mslt"))
    made_run(paths[1], config("mslt", seed=1))
    made_run(paths[2], config("whole"))
    return paths


def looks() -> dict[str, Any]:
    """Attention of two models on two sentences, and a drift chart."""
    import base64

    def maps(layers: int, tokens: int, seed: int) -> str:
        count = layers * 2 * tokens * tokens
        return base64.b64encode(bytes((seed + 7 * i) % 256 for i in range(count))).decode()

    models = [
        {
            "name": f"{EVIL}, {layers} layers",
            "layers": layers,
            "heads": 2,
            "maps": [maps(layers, 5, layers), maps(layers, 3, 1)],
        }
        for layers in (2, 4)
    ]
    series = [{"name": EVIL, "values": [0.1, 0.2], "low": [0.05, 0.1], "high": [0.2, 0.3]}]
    return {
        "attention": {"sentences": [TOKENS, ["[CLS]", "ete", "[SEP]"]], "models": models},
        "drift": [{"title": EVIL, "unit": "distance", "says": SCRIPT, "series": series}],
    }
