"""Fine-tuning: our step against Hugging Face's Trainer, on the same model, data and protocol.

    python benchmarks/finetune.py MODEL --glue_dir GLUE [--task mrpc] [--most 640] [--epochs 1]

MODEL is anything that `mslt finetune` takes. Both begin with the same weights, new head included,
and see the same examples in batches padded to their longest: theirs in random order, as the Trainer
has it by default, and in a row of its own grouped by length, as ours are. Theirs is the faster of
fp32 and bf16 autocast, as timed first. All take turns, a seed in each block, so that ratios are of
medians over blocks; training alone is timed. Dev scores of all seeds stand beside them. The last
line is one JSON object.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import finish

from mslt.analysis.formats import aligned
from mslt.data.tokenizer import given
from mslt.devices import pick_device, pick_precision
from mslt.finetune import glue
from mslt.finetune.examples import Encoded, encode
from mslt.finetune.loop import How, answers, fine_tune, predict
from mslt.finetune.metrics import judge
from mslt.finetune.model import TaskModel, write
from mslt.finetune.tasks import Sentences, find
from mslt.pretrained import Pretrained, open_model

os.environ["HF_HUB_OFFLINE"] = "1"
ORDERS = {"transformers": "random", "transformers, by length": "group_by_length"}


@dataclass(frozen=True)
class Timed(How):
    """How a model is fine-tuned, and the clock that it is timed by."""

    clock: Callable[[], float] = time.perf_counter


def ours(pretrained: Pretrained, task: Sentences, train: Encoded, dev: Encoded, how: Timed) -> Any:
    """Seconds of training, and the dev scores."""
    model = TaskModel(pretrained.model, len(task.labels) or 1, how.seed)
    start = how.clock()
    fine_tune(model, train, how)
    seconds = how.clock() - start
    said = answers(predict(model, dev, how.device))
    return seconds, judge(task.metrics, dev.labels, said)


def _rows(encoded: Encoded, task: Sentences) -> list[dict[str, Any]]:
    kind = int if task.labels else float
    return [
        {"input_ids": ids.tolist(), "token_type_ids": segments.tolist(), "labels": kind(label)}
        for ids, segments, label in zip(encoded.ids, encoded.segments, encoded.labels)
    ]


def theirs(
    pretrained: Pretrained,
    task: Sentences,
    train: Encoded,
    dev: Encoded,
    how: Timed,
    order: str = "random",
) -> Any:
    """The same by transformers, in one of its orders."""
    from transformers import (
        AutoModelForSequenceClassification,
        BertTokenizerFast,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    with TemporaryDirectory() as place:
        folder = Path(place)
        begin = TaskModel(pretrained.model, len(task.labels) or 1, how.seed)
        write(folder, begin, pretrained.tokenizer, task.labels)
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        tokenizer = BertTokenizerFast.from_pretrained(folder)
        arguments = TrainingArguments(
            output_dir=place,
            per_device_train_batch_size=how.batch_size,
            per_device_eval_batch_size=64,
            learning_rate=how.lr,
            num_train_epochs=how.epochs,
            weight_decay=0.01,
            warmup_steps=0.1,
            train_sampling_strategy=order,
            use_cpu=how.device == "cpu",
            bf16=how.precision == "bf16",
            seed=how.seed,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            dataloader_pin_memory=how.device != "cpu",
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=_rows(train, task),  # type: ignore[arg-type]
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        start = how.clock()
        trainer.train()
        seconds = how.clock() - start
        logits = trainer.predict(_rows(dev, task)).predictions  # type: ignore[arg-type]
    return seconds, judge(task.metrics, dev.labels, answers(list(np.asarray(logits))))


def measure(given_: argparse.Namespace) -> None:
    """Time both, block by block, and print the table and the JSON line."""
    task = find(given_.task)
    if not isinstance(task, Sentences):
        raise ValueError("task: one of GLUE's")
    pretrained = open_model(given_.model)
    tokenizer = given(pretrained.tokenizer)
    positions = pretrained.model.config.max_position_embeddings
    length = min(given_.max_length, positions)
    train = encode(glue.read(given_.glue_dir, task, "train")[: given_.most], tokenizer, length)
    dev = encode(glue.read(given_.glue_dir, task, task.dev[0]), tokenizer, length)
    device = pick_device(given_.device)
    mine = pick_precision(given_.precision, device)
    clock = time.process_time if given_.busy else time.perf_counter
    if given_.busy:
        torch.set_num_threads(1)
    how = Timed(given_.lr, given_.epochs, task.batch_size, 0, mine, device, clock)
    rival = partial(theirs, pretrained, task, train, dev)
    few = partial(theirs, pretrained, task, train=_first(train), dev=_first(dev))
    times = {p: few(how=replace(how, epochs=1, precision=p))[0] for p in ("fp32", "bf16")}
    best: Any = min(times, key=times.__getitem__)
    found: dict[str, list[Any]] = {"mslt": [], **{name: [] for name in ORDERS}}
    for seed in range(given_.blocks):
        now = replace(how, seed=seed)
        found["mslt"].append(ours(pretrained, task, train, dev, now))
        for name, order in ORDERS.items():
            found[name].append(rival(replace(now, precision=best), order))
    report(found, task, {"mslt": mine, **dict.fromkeys(ORDERS, best)}, len(train))


def report(
    found: dict[str, list[Any]], task: Sentences, precisions: dict[str, str], examples: int
) -> None:
    """Print the table and the JSON line."""
    lines = [("", "precision", "s", "min", "max", "ours takes", f"{task.metrics[0]}, all seeds")]
    medians = {name: median(s for s, _ in rows) for name, rows in found.items()}
    scored = {name: [r[task.metrics[0]] for _, r in rows] for name, rows in found.items()}
    ratios = {name: medians["mslt"] / medians[name] for name in ORDERS}
    for name, precision in precisions.items():
        seconds = [s for s, _ in found[name]]
        figures = (f"{x:.2f}" for x in (medians[name], min(seconds), max(seconds)))
        ratio = f"{ratios[name]:.2f}" if name in ratios else ""
        scores = ", ".join("n/a" if x is None else f"{x:.1f}" for x in scored[name])
        lines.append((name, precision, *figures, ratio, scores))
    print(aligned(lines))
    finish(
        {
            "time_ratio": ratios,
            "seconds": medians,
            "scores": scored,
            "precision": precisions,
            "examples": examples,
            "threads": torch.get_num_threads(),
        }
    )


def _first(encoded: Encoded, count: int = 96) -> Encoded:
    return Encoded(
        encoded.ids[:count], encoded.segments[:count], encoded.labels[:count], encoded.pad
    )


def main(arguments: list[str] | None = None) -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a run, a part of one or a Hugging Face folder")
    parser.add_argument("--glue_dir", required=True, help="GLUE's folder")
    parser.add_argument("--task", default="mrpc")
    parser.add_argument("--most", type=int, default=640, help="examples to train on")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument(
        "--busy",
        action="store_true",
        help="one thread by the processor's time, for a machine that does other things too",
    )
    measure(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
