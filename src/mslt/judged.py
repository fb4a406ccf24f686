"""Fine-tuning every run of a comparison, so that its tables show what the plans are worth."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mslt import foreign, layout
from mslt.analysis.comparison import write_results
from mslt.analysis.results import SEEDS, TASKS, scores_of
from mslt.compare import Comparison, is_finished
from mslt.finetune.grid import finetune
from mslt.finetune.settings import FinetuneConfig
from mslt.finetune.tasks import find
from mslt.run import to_json, write_text


def finetune_compared(compared: Path, out: Path, config: FinetuneConfig) -> None:
    """Train a grid on each finished run, add its scores to the run's, and fill the tables.

    Args:
        compared: the folder of a comparison; runs that have not come to their end are left out.
        out: a folder with a grid for each run, new or of this very use.
        config: tasks and protocol.

    Raises:
        ValueError: no run has come to its end, or as `mslt.finetune.grid.finetune`.
        OSError: the disk is full or not writable.
    """
    comparison = Comparison.read(compared)
    names, seeds = list(comparison.configs), list(comparison.seeds)
    runs = [layout.compared_run(compared, name, seed) for seed in seeds for name in names]
    runs = [run for run in runs if is_finished(run)]
    if not runs:
        raise ValueError(f"no run in {compared} has come to its end")
    for run in runs:
        scores_of(run)  # what stands there is to be kept: better damaged now than in the end
    for number, run in enumerate(runs, 1):
        print(f"{run.name}, run {number} of {len(runs)}:", flush=True)
        finetune(run, out / run.name, config)
        _keep(out / run.name, run, config)
    results = write_results(compared, names, seeds, comparison.budget, comparison.lost)
    comparison.write(compared, results)


def _keep(grid: Path, run: Path, config: FinetuneConfig) -> None:
    """Put a grid's scores beside a run, in the place of those of its tasks; others stay."""
    asked = {column for name in config.tasks for column in find(name).columns}
    before, before_seeds = scores_of(run)
    found = foreign.read_json_object(grid / layout.SCORES)
    seeds = found.pop(SEEDS)

    def merged(before: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
        others = {column: value for column, value in before.items() if column not in asked}
        return {**others, **{column: found[column] for column in found if column in TASKS}}

    scores = {**merged(before, found), SEEDS: merged(before_seeds, seeds)}  # of WNLI none
    write_text(run / layout.SCORES, to_json(scores, indent=1))
