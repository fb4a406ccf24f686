"""mslt finetune: a grid of tasks, learning rates and seeds."""

from pathlib import Path

from mslt.finetune.settings import FinetuneConfig
from mslt.layout import COMPARISON
from mslt.options import Options


def command(argv: list[str]) -> int:
    """Fine-tune a model on GLUE and SQuAD."""
    options = Options(
        "mslt finetune MODEL --tasks mrpc,rte --glue_dir GLUE --out DIR [options]",
        "Fine-tune on tasks by a grid of learning rates and seeds, and score them on dev. MODEL is "
        "a run, one of its stages or checkpoints, or a Hugging Face BERT or ALBERT folder. What is "
        "done is kept: the same line again goes on, with more tasks, rates or seeds if wanted. Of "
        "a folder of mslt compare each finished run is fine-tuned, and its tables are filled.",
        [
            "mslt finetune run --tasks cola,sst2,mrpc,stsb,rte --glue_dir glue --out scores",
            "mslt finetune run --tasks mrpc --glue_dir glue --out scores --lrs 1e-4,3e-4 --seeds 3",
            "mslt finetune run --tasks mrpc --glue_dir glue --out random --random_weights true",
            "mslt finetune run --tasks mrpc --glue_dir glue --out scores --against random",
            "mslt finetune my-bert --tasks squad1.1 --squad_dir squad --out answers",
            "mslt finetune compared --tasks mrpc,rte --glue_dir glue --out judged --seeds 3",
        ],
    )
    options.positional("model", "what to fine-tune")
    options.option("out", str, "folder of the grid: cells, scores, and each task's best model")
    options.option("against", str | None, "the folder of another grid to compare the scores with")
    options.add_fields(FinetuneConfig)
    given = options.parse(argv)
    config = FinetuneConfig(**{key: given[key] for key in options.fields if key in given})
    model, out = Path(options.need(given, "model")), Path(options.need(given, "out"))
    against = Path(given["against"]) if given.get("against") else None

    if (model / COMPARISON).is_file():
        if against:
            raise ValueError("against has no effect on a comparison: its tables compare")

        from mslt.judged import finetune_compared

        finetune_compared(model, out, config)
        return 0

    from mslt.finetune.grid import finetune

    finetune(model, out, config, against)
    return 0
