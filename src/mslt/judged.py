"""Fine-tuning every run of a comparison, so that its tables show what the plans are worth."""

from pathlib import Path

from mslt import layout
from mslt.analysis.comparison import write_results
from mslt.compare import Comparison, is_finished
from mslt.finetune.grid import finetune
from mslt.finetune.settings import FinetuneConfig
from mslt.run import write_text


def finetune_compared(compared: Path, out: Path, config: FinetuneConfig) -> None:
    """Train a grid on each finished run, keep its scores beside the run, and fill the tables.

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
    for number, run in enumerate(runs, 1):
        print(f"{run.name}, run {number} of {len(runs)}:", flush=True)
        finetune(run, out / run.name, config)
        scores = (out / run.name / layout.SCORES).read_text(encoding="utf-8")
        write_text(run / layout.SCORES, scores)
    results = write_results(compared, names, seeds, comparison.budget, comparison.lost)
    comparison.write(compared, results)
