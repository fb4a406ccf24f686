"""The model card of an exported model: what it is, what it learned from, how, and how well."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mslt.analysis.tables import stage_rows
from mslt.config import Config
from mslt.layout import Start
from mslt.plan import Plan, Stage
from mslt.run import Run
from mslt.schedule import DECAY_SHARE
from mslt.words import duration

_HEAD = """---
library_name: transformers
pipeline_tag: fill-mask
tags:
- {kind}
- fill-mask
- mslt
---
"""

_METHODS = {
    "whole": "The whole model was trained from the first step to the last (Devlin et al., 2018).",
    "stacking": "It was trained by progressive stacking (Gong et al., 2019): the depth doubles "
    "between stages, new layers begin as copies, and every layer learns.",
    "mslt": "It was trained by multi-stage layerwise training (MSLT, Yang et al., 2020): each "
    "stage adds layers on top, which begin as copies of those below and learn alone{retrain}.",
}

_PAIRS = {
    "nsp": "does the second segment follow the first in the text, or is it from elsewhere",
    "sop": "are two neighbouring segments in order or swapped",
    "none": "none",
}

_SHAPES = {
    "linear": "linear decay to zero",
    "wsd": "constant, then linear decay to zero over the last {share:.0%}",
    "constant": "constant",
}

_LOAD = """## How to load it

```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModelForMaskedLM.from_pretrained("path/to/this/folder")
logits = model(**tokenizer("Paris is the [MASK] of France.", return_tensors="pt")).logits
```

`AutoModel` is the encoder alone, for fine-tuning; `AutoModelForPreTraining` has both heads.
"""

_CITATION = """## Citation

```bibtex
@article{yang2020progressively,
  title={Progressively Stacking 2.0: A Multi-stage Layerwise Training Method for BERT Training
         Speedup},
  author={Yang, Cheng and Wang, Shengnan and Yang, Chao and Li, Yuechuan and He, Ru and
          Zhang, Jingqiao},
  journal={arXiv preprint arXiv:2011.13635},
  year={2020}
}
```
"""


@dataclass(frozen=True)
class Described:
    """A model of a run.

    Args:
        run: where it comes from.
        step: optimisation steps behind it, one or more.
        seconds: their training time.
        parameters: tied ones counted once.
    """

    run: Run
    step: int
    seconds: float
    parameters: int

    @property
    def config(self) -> Config:
        """Of the run."""
        return self.run.config

    @cached_property
    def plan(self) -> Plan:
        """Of the run."""
        return self.config.stages()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What run.json says."""
        return self.run.facts()

    @property
    def index(self) -> int:
        """The stage in which the model stands, or that it ends, counted from 0."""
        return self.plan.index(self.step - 1)

    @property
    def stage(self) -> Stage:
        """The same stage."""
        return self.plan.stages[self.index]

    @cached_property
    def measured(self) -> dict[str, Any] | None:
        """The last held-out evaluation of the model or, where there is none, of one before it."""
        lines = [line for line in self.run.heldout() if line["step"] <= self.step]
        return lines[-1] if lines else None


def model_card(model: Described) -> str:
    """The README.md of a model, in Markdown with the hub's front matter.

    Of the paths that the run remembers, only the name of the token store is given away.
    """
    retrains = model.plan.stages[-1].learns_from == 0
    method = _METHODS[model.config.plan.method].format(
        retrain=", and a last stage retrains the whole model" if retrains else ""
    )
    article, kind = ("An", "ALBERT") if model.config.model.embedding_size else ("A", "BERT")
    parts = [
        _HEAD.format(kind=kind.lower()),
        f"# {kind}, {model.stage.depth} layers of {model.config.model.hidden_size}\n",
        f"{article} {kind} encoder with its pre-training heads, {_origin(model)} with `mslt` "
        f"{model.facts['versions']['mslt']}. {method} {_standing(model)}\n",
        _shape(model),
        _LOAD,
        _data(model),
        _training(model),
        _settings(model),
        _results(model),
        _limits(model),
        _CITATION,
    ]
    return "\n".join(parts)


def imported_card(start: Start) -> str:
    """The README.md of a model that was brought in from elsewhere and not trained on."""
    config, name = start.model, html.escape(start.name)
    article, kind = ("An", "ALBERT") if config.embedding_size else ("A", "BERT")
    return "\n".join(
        [
            _HEAD.format(kind=kind.lower()),
            f"# {kind}, {start.depth} layers of {config.hidden_size}\n",
            f"{article} {kind} encoder with its pre-training heads, taken from {name} by `mslt "
            f"import` and not trained since. What it had learned before, from what text and how "
            f"well, is not known here; heads that it lacked are random.\n",
            _LOAD,
        ]
    )


def _origin(model: Described) -> str:
    """How its training began."""
    start = model.facts.get("start")
    if not start:
        return "trained from scratch"
    return f"trained on from the {start['depth']} layers of {html.escape(start['name'])}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, whatever its cells hold."""
    lines = []
    for row in (headings, ["---"] * len(headings), *rows):
        cells = [html.escape(" ".join(cell.split()), quote=False) for cell in row]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(lines)


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 90 else f"{seconds:.1f} s"


def _standing(model: Described) -> str:
    """How far in its plan the model is."""
    stages, place = len(model.plan.stages), f"{model.step:,} of {model.plan.steps:,} steps"
    if model.step == model.plan.steps:
        return f"All of its {place.split()[0]} steps are done."
    if model.step == model.plan.ends[model.index]:
        return (
            f"This is the model at the end of stage {model.index + 1} of {stages}, after {place}."
        )
    return f"It is not finished: it stands in stage {model.index + 1} of {stages}, after {place}."


def _shape(model: Described) -> str:
    config = model.config.model
    file = model.run.path / "tokenizer" / "tokenizer_config.json"
    lowercase = json.loads(file.read_bytes())["do_lower_case"]
    rows = [
        ["layers", f"{model.stage.depth}"],
        ["width", f"{config.hidden_size:,}"],
        *_sharing(model),
        ["attention heads", f"{config.num_attention_heads}"],
        ["feed-forward width", f"{config.intermediate_size:,}"],
        ["positions", f"{config.max_position_embeddings}"],
        ["vocabulary", f"{config.vocab_size:,} pieces, {'lowercase' if lowercase else 'cased'}"],
        ["parameters", f"{model.parameters:,}"],
    ]
    return _table(["model", ""], rows)


def _sharing(model: Described) -> list[list[str]]:
    """What an ALBERT has, and a BERT has not."""
    config = model.config.model
    if not config.embedding_size:
        return []
    blocks, repeat = config.blocks(model.stage.depth), config.repeat
    shares = f"{blocks}, each for {repeat} layers in a row" if repeat > 1 else f"{blocks}"
    return [["blocks of weights", shares], ["width of the embeddings", f"{config.embedding_size}"]]


def _data(model: Described) -> str:
    train, heldout = model.facts["text"]["train"], model.facts["text"]["heldout"]
    starts = (0, *model.plan.ends)
    seen = sum(
        min(stage.steps, max(0, model.step - start)) * model.config.batch_size * stage.seq_len
        for stage, start in zip(model.plan.stages, starts)
    )
    rows = [
        ["token store", Path(model.facts["data"]).name],
        ["text to learn from", f"{train['tokens']:,} tokens, {train['documents']:,} documents"],
        ["read of it", f"{seen:,} tokens with padding: {seen / train['tokens']:.3g} times"],
        ["text held out", f"{heldout['tokens']:,} tokens, {heldout['documents']:,} documents"],
        ["SHA-256 of the store", model.facts["store_sha256"]],
    ]
    return "## Data\n\n" + _table(["data", ""], rows)


def _training(model: Described) -> str:
    """The stages that the model went through."""
    headings = ["stage", "layers", "layers that learn", "steps", "length", "training time"]
    headings += ["tokens/s", "held-out loss"]
    rows, before = [], 0.0
    for row, stage, end in zip(stage_rows(model.run), model.plan.stages, model.plan.ends):
        if end > model.step:
            break
        before += row["seconds"]
        rate, loss = f"{row['tokens_per_second']:,.0f}", f"{row['heldout']:.4f}"
        cells = [f"{row['stage']}", *_stage(stage, f"{stage.steps:,}"), _time(row["seconds"])]
        rows.append([*cells, rate, loss])
    missing = model.plan.ends[model.index] - model.step
    if missing:
        stage, seconds = model.stage, model.seconds - before
        done = stage.steps - missing
        rate = f"{done * model.config.batch_size * stage.seq_len / max(seconds, 1e-9):,.0f}"
        cells = [f"{model.index + 1}", *_stage(stage, f"{done:,} of {stage.steps:,}")]
        rows.append([*cells, _time(seconds), rate, ""])
    return (
        f"## Training\n\n{_table(headings, rows)}\n"
        f"Training time: {_time(model.seconds)} ({model.seconds / 3600:.2f} hours), without "
        f"evaluation, saving and set-up.\n"
    )


def _stage(stage: Stage, steps: str) -> list[str]:
    first = stage.learns_from + 1
    some = f"{first}" if first == stage.depth else f"{first} to {stage.depth}"
    return [f"{stage.depth}", some if stage.learns_from else "all", steps, f"{stage.seq_len}"]


def _settings(model: Described) -> str:
    config, hardware = model.config, model.facts["hardware"]
    optimizer, schedule, instances = config.optimizer, config.schedule, config.instances
    shape = _SHAPES[schedule.shape].format(share=schedule.decay_share or DECAY_SHARE)
    span = "in each stage anew" if schedule.per_stage else "over all stages"
    dropout = config.model.hidden_dropout_prob, config.model.attention_probs_dropout_prob
    betas = f"beta {optimizer.beta1:g} and {optimizer.beta2:g}"
    clipping = f"gradients clipped to norm {optimizer.clip_norm:g}" if optimizer.clip_norm else ""
    words = "whole words" if instances.whole_word else "pieces"
    again = f"the same again after {instances.dupe_factor} epochs"
    processor = f"{hardware['processor']}, {hardware['cores']} cores, {hardware['threads']} threads"
    rows = [
        ["sequences per step", f"{config.batch_size:,}"],
        ["optimizer", f"{optimizer.name}, {betas}, weight decay {optimizer.weight_decay:g}"],
        ["clipping", clipping or "none"],
        ["learning rate", f"{schedule.lr:g}; {schedule.warmup(config.steps):,} steps of warm-up"],
        ["schedule", f"{shape}, {span}"],
        ["dropout", "{:g}, of attention {:g}".format(*dropout)],
        ["masking", f"{instances.mask_prob:.0%} of the tokens, {words}"],
        ["sentence pairs", _PAIRS[instances.pair]],
        ["instances", again if instances.dupe_factor else "new ones in every epoch"],
        ["seed", f"{config.seed}"],
        ["precision", model.facts["precision"]],
        ["hardware", hardware["gpu"] if model.facts["device"].startswith("cuda") else processor],
        ["versions", ", ".join(f"{k} {v}" for k, v in model.facts["versions"].items())],
    ]
    return _table(["setting", ""], rows)


def _results(model: Described) -> str:
    last = model.measured
    if last is None:
        return "## Results\n\nNothing has been measured yet.\n"
    baseline = model.facts["baseline_mlm_loss"]
    rows = [
        ["masked tokens", f"{last['mlm_loss']:.4f}", f"{last['mlm_accuracy']:.1%}"],
        ["masked tokens, by their frequency alone", f"{baseline:.4f}", ""],
    ]
    if "pair_loss" in last:
        rows.append(["sentence pairs", f"{last['pair_loss']:.4f}", f"{last['pair_accuracy']:.1%}"])
    sequences = model.config.eval_batches * model.config.batch_size
    return (
        f"## Results\n\n{_table(['held-out text', 'loss (nats)', 'accuracy'], rows)}\n"
        f"Measured after step {last['step']:,} on {sequences:,} sequences of length "
        f"{model.plan.stages[0].seq_len} from documents that were never trained on.\n"
    )


def _limits(model: Described) -> str:
    limits = [
        "It knows the text above and no more: what that leaves out or gets wrong, and its "
        "prejudices, are the model's too.",
        "What it fills in is likely, not true.",
        "Only the losses above were measured. How it does on a task is known once it has been "
        "fine-tuned and tested there.",
    ]
    last, baseline = model.measured, model.facts["baseline_mlm_loss"]
    if last is None or last["mlm_loss"] > baseline - 0.05:
        limits.append("It has not been shown to know more than how often each token occurs.")
    if model.step < model.plan.steps:
        limits.append("Its run did not come to an end: more training would have improved it.")
    longest = max(stage.seq_len for stage in model.plan.stages[: model.index + 1])
    positions = model.config.model.max_position_embeddings
    if longest < positions:
        begun = "as they began" if model.facts.get("start") else "as random as they began"
        limits.append(
            f"It has seen sequences of up to {longest} tokens. The positions after them, up to "
            f"{positions}, are {begun}: cut texts at {longest} tokens "
            f"(`truncation=True, max_length={longest}`), or train on longer ones first."
        )
    if start := model.facts.get("start"):
        limits.append(
            f"What {html.escape(start['name'])} had learned before, and from what text, is not "
            f"known here: steps, tokens and times above are of what came after."
        )
    if model.config.instances.pair == "none":
        limits.append("Pooler and sentence-pair head are random: no objective trained them.")
    limits.append(
        "No licence is given here. Whoever publishes the model chooses one, as `license:` at the "
        "head of this file, with the rights in the text in mind."
    )
    return "## Limits\n\n" + "".join(f"- {limit}\n" for limit in limits)
