"""What the page says in sentences: what was run, what came out, how to run it again."""

import shlex
from collections.abc import Container, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from mslt.analysis.report.groups import Group
from mslt.analysis.report.subjects import Subject
from mslt.analysis.results import inside_noise
from mslt.words import duration, metric

_METHODS = {
    "whole": "the whole model from the first step to the last",
    "stacking": "progressive stacking: the depth doubles between stages, and every layer learns",
    "mslt": "multi-stage layerwise training: new layers on top learn while those below only run "
    "forward",
}
LEARNED = 0.05  # nats below the tokens' own frequencies that show anything learned of context


def span(seconds: float) -> str:
    """A time, finer than `duration` where it is short: 5.2 s, 54.3 s, 3.6 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5370 else duration(seconds)


def what_ran(groups: Sequence[Group]) -> list[str]:
    """A sentence for each plan."""
    return [_ran(group) for group in groups]


def _ran(group: Group) -> str:
    run = group.first
    config, model = run.config, run.config.model
    seeds = ", ".join(f"{each.config.seed}" for each in group.runs)
    method = _METHODS.get(config.plan.method, config.plan.method)
    return (
        f"{group.name}: {method}. {model.num_hidden_layers} layers of {model.hidden_size}, "
        f"{model.vocab_size:,} pieces, {config.batch_size:,} sequences a step, "
        f"{run.plan.steps:,} steps in {_count(len(run.plan.stages), 'stage')}, "
        f"{'seeds' if len(group.runs) > 1 else 'seed'} {seeds}."
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def results(groups: Sequence[Group]) -> list[str]:
    """What came out: each finished plan beside the whole model's, and what must be known."""
    done = [group for group in groups if all(run.finished for run in group.runs)]
    whole = next((group for group in done if group.is_whole), None)
    said = []
    for group in done:
        if whole is None or group is whole:
            loss, seconds = _end(group)
            if whole is None or len(done) == 1:
                said.append(
                    f"{group.name} took {span(seconds)} of training and ended at a held-out loss "
                    f"of {loss:.3f} nats."
                )
        else:
            said.append(_beside(group, whole))
    if any(len(group.runs) > 1 for group in done):
        said.append(
            "Where a plan has several seeds, these are medians; plans are compared seed by seed."
        )
    return said + warnings(groups)


def _end(group: Group) -> tuple[float, float]:
    """Medians of held-out loss and training time at the end."""
    ends = [_last(run) for run in group.runs]
    return median(loss for loss, _ in ends), median(seconds for _, seconds in ends)


def _last(run: Subject) -> tuple[float, float]:
    """Held-out loss and training time at the end."""
    line = run.lines("heldout")[-1]
    return line["mlm_loss"], line["seconds"]


def _beside(group: Group, whole: Group) -> str:
    """A plan and the whole model, compared seed by seed where they have seeds in common."""
    theirs = {run.config.seed: _last(run) for run in whole.runs}
    pairs = [(_last(run), theirs[run.config.seed]) for run in _with_seeds(group, theirs)]
    pairs = pairs or [(_end(group), _end(whole))]
    times = median(base / max(seconds, 1e-9) for (_, seconds), (_, base) in pairs)
    differences = [loss - other for (loss, _), (other, _) in pairs]
    far, noise = median(differences), inside_noise(differences)
    steps, base = group.first.plan.steps, whole.first.plan.steps
    budget = "the same steps" if steps == base else f"{steps:,} steps instead of {base:,}"
    speed = f"{times:.2f} times as fast" if times >= 1 else f"{1 / times:.2f} times as long"
    loss, seconds = _end(group)
    other, took = _end(whole)
    return (
        f"{group.name} took {span(seconds)} for {budget}, where {whole.name} took {span(took)}: "
        f"{speed}. It ended at a held-out loss of {loss:.3f} nats, {whole.name} at {other:.3f}: "
        f"{abs(far):.3f} {'more' if far > 0 else 'less'}"
        f"{', which may be noise' if noise else ''}."
    )


def _with_seeds(group: Group, seeds: Container[int]) -> list[Subject]:
    return [run for run in group.runs if run.config.seed in seeds]


def warnings(groups: Sequence[Group]) -> list[str]:
    """What a reader must know before trusting the figures."""
    said, ignorant = [], []
    for run in (run for group in groups for run in group.runs):
        heldout, baseline = run.lines("heldout"), run.facts["baseline_mlm_loss"]
        if not run.finished:
            said.append(f"{run.name} is not finished: {run.step:,} of {run.plan.steps:,} steps.")
        if heldout and heldout[-1]["mlm_loss"] > baseline - LEARNED:
            ignorant.append(run.name)
        skipped, back = len(run.lines("skipped")), len(run.lines("back"))
        if skipped:
            said.append(f"{run.name} passed over {_count(skipped, 'step')}.")
        if back:
            said.append(f"{run.name} went back to a checkpoint {_count(back, 'time')}.")
        resumed = run.facts.get("resumed")
        if isinstance(resumed, list) and resumed:
            said.append(f"{run.name} was resumed {_count(len(resumed), 'time')}.")
    if ignorant:
        said.append(
            f"Not shown to know more than how often each token occurs: {', '.join(ignorant)}. "
            f"Their held-out loss is not {LEARNED} nats below that of the tokens' frequencies."
        )
    bases = {round(group.first.facts["baseline_mlm_loss"], 6) for group in groups}
    if len({run.first.facts["store_sha256"] for run in groups}) > 1 or len(bases) > 1:
        said.append("These runs did not learn from the same text: their losses do not compare.")
    return said


def facts(run: Subject) -> list[list[str]]:
    """What a run learned from, and where."""
    found, train, heldout = run.facts, run.facts["text"]["train"], run.facts["text"]["heldout"]
    hardware = found["hardware"]
    threads = f"{hardware['cores']} cores, {_count(hardware['threads'], 'thread')}"
    computer = f"{hardware['processor']}, {threads}"
    return [
        ["state", "finished" if run.finished else f"{run.step:,} of {run.plan.steps:,} steps"],
        ["token store", Path(found["data"]).name],
        ["its SHA-256", found["store_sha256"]],
        ["text", f"{metric(train['tokens'])} tokens, {train['documents']:,} documents"],
        ["held out", f"{metric(heldout['tokens'])} tokens, {heldout['documents']:,} documents"],
        ["trained on", f"{metric(run.tokens(run.step))} tokens, padding included"],
        ["token frequencies alone", f"{found['baseline_mlm_loss']:.4f} nats"],
        ["computed in", f"{found['precision']}, forward-only layers {found['prefix']}"],
        ["hardware", hardware["gpu"] if found["device"].startswith("cuda") else computer],
        ["versions", ", ".join(f"{k} {v}" for k, v in found["versions"].items())],
    ]


def again(run: Subject) -> dict[str, Any]:
    """The commands that train a run anew. The store is named, not where it was."""
    file, out = f"{Path(run.name).name}.yaml", Path(run.name).name
    store = Path(run.facts["data"]).name or "STORE"
    version = run.facts["versions"]["mslt"]
    words = ["mslt", "pretrain", "--config", file, "--data", store, "--out", out]
    return {"file": file, "version": version, "command": shlex.join(words)}
