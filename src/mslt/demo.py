"""The whole way in a few minutes: text, vocabulary, two plans side by side, Hugging Face, [MASK].

Offline. The text is the English prose that every Python installation holds: the docstrings of the
standard library and of the installed packages.
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from mslt.analysis.curves import Curve, draw
from mslt.analysis.report.looks import look
from mslt.analysis.report.page import write_report
from mslt.analysis.report.subjects import subjects
from mslt.analysis.tables import stage_table
from mslt.config import Config
from mslt.data.prepare import PrepareConfig, prepare
from mslt.data.store import TokenStore
from mslt.export import export
from mslt.job import Job
from mslt.model import Encoder
from mslt.recipes import demo_mslt, demo_whole
from mslt.run import Run
from mslt.trainer import Trainer
from mslt.turns import Loop, in_turns
from mslt.words import duration

BLOCKS = 10  # of each plan, taken in turn, so that both see the same drifts of the machine
PROBE_STEPS = 6
SECONDS = 160.0  # of training, for both plans together, unless the machine is too slow for ...
FEWEST_STEPS = 900  # ... these, which a deep model takes to leave the loss of token frequencies
MOST_STEPS = 4000
SENTENCES = (
    "returns a list [MASK] strings .",
    "this can be used [MASK] create a new object .",
    "the number [MASK] bytes to read .",
    "raise an error if the file does [MASK] exist .",
    "a function that [MASK] called with one argument .",
)


def demo(out: Path, seconds: float | None = None) -> None:
    """Run the demo.

    Args:
        out: a new folder for the store, both runs, the picture and the exported model.
        seconds: training time to aim at, for both plans together on this machine; by default
            160, or longer where that is too short to learn anything.

    Raises:
        ValueError: the folder is not empty.
    """
    start = time.monotonic()
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: choose another --out")
    print("Text: the docstrings of the Python packages that are installed here.", flush=True)
    store = prepare(["pydocs"], out / "store", PrepareConfig(vocab_size=2048, heldout=0.02))
    steps = affordable_steps(store, seconds)
    print(f"\nTraining two models for {steps:,} steps each, in turns: whole and mslt.", flush=True)
    runs = side_by_side(store, out, {"whole": demo_whole(), "mslt": demo_mslt()}, steps)
    print("\n" + stage_table(runs))
    print(verdict(runs))
    picture = draw([Curve.of(run.path, name) for name, run in runs.items()], out / "loss.png")
    model = export(runs["mslt"].path, out / "bert-mslt")
    print(f"\nLoss curves: {picture}\nModel for Hugging Face: {model}\n")
    fill_masks(model)
    report(out, list(runs.values()))
    print(f"\nDone in {duration(time.monotonic() - start)}.")


def report(out: Path, runs: list[Run]) -> None:
    """One page about both runs, to be opened in a browser."""
    page = out / "report.html"
    paths = [run.path for run in runs]
    write_report(paths, page, look(subjects(paths)))
    print(f"\nReport: {page.resolve().as_uri()}")


def affordable_steps(store: TokenStore, seconds: float | None) -> int:
    """Steps of each plan that fit the time, judged by a few steps of the whole model.

    MSLT is taken to cost 0.55 of it. Where other work keeps the cores busy, threads that wait for
    each other at every operation are slower than one alone, so the faster number is kept.
    """
    job, most = Job.prepare(demo_whole(), store), torch.get_num_threads()
    each = {threads: step_seconds(job, threads) for threads in sorted({1, most})}
    threads = min(each, key=lambda count: each[count])
    torch.set_num_threads(threads)
    if seconds is not None:
        return max(20, int(seconds / (each[threads] * 1.55)))
    fit = int(SECONDS / (each[threads] * 1.55))
    return max(FEWEST_STEPS, min(MOST_STEPS, fit // 100 * 100))


def step_seconds(job: Job, threads: int) -> float:
    """Median time of a step of the whole model, on one that is thrown away."""
    torch.set_num_threads(threads)
    stage = job.plan.stages[0]
    model = Encoder(job.config.model).to(job.world.device)
    trainer = Trainer(model, job.settings(0), {}, job.world)
    took = []
    for step in range(1 + PROBE_STEPS):  # the first warms caches and allocators up
        begin = time.perf_counter()
        # Who asks for a step's numbers waits for a GPU.
        trainer.step(step, job.instances.batch(step, stage.seq_len), 1e-6, lambda numbers: True)
        took.append(time.perf_counter() - begin)
    return statistics.median(took[1:])


def side_by_side(
    store: TokenStore, out: Path, configs: dict[str, Config], steps: int
) -> dict[str, Run]:
    """Train each config for the same steps, a block of one after a block of the other."""
    loops: dict[str, Loop] = {}
    for name, config in configs.items():
        every = max(1, steps // 20)
        config = replace(config, steps=steps, eval_every=every, save_every=steps)
        job = Job.prepare(config, store)
        run = Run.create(out / name, job.config, job.facts(store), store.path / "tokenizer")
        loops[name] = Loop.of(job, job.first_state(), run)
    print(f"Loss of the tokens' own frequencies: {job.baseline:.3f}", flush=True)
    runs, line = {name: loop.run for name, loop in loops.items()}, list[str]()
    for turn in in_turns(loops, BLOCKS):
        if turn.lost:
            raise turn.lost
        if turn.over:
            last = runs[turn.name].heldout()[-1]
            line.append(f"{turn.name} {last['mlm_loss']:.3f} in {last['seconds']:5.1f} s")
        if len(line) == len(loops):
            step = steps * turn.block // BLOCKS
            print(f"  step {step:5,}/{steps:,}: " + ", ".join(line), flush=True)
            line = []
    return runs


def verdict(runs: dict[str, Run]) -> str:
    """What the demo has shown, in two lines."""
    ends = {name: run.heldout()[-1] for name, run in runs.items()}
    whole, mslt = ends["whole"], ends["mslt"]
    baseline = runs["whole"].facts()["baseline_mlm_loss"]
    share = mslt["seconds"] / whole["seconds"]
    return (
        f"\nMSLT took {share:.2f} of the whole model's training time: {1 / share:.2f}x as fast.\n"
        f"Held-out loss: whole {whole['mlm_loss']:.3f}, mslt {mslt['mlm_loss']:.3f}; "
        f"token frequencies alone: {baseline:.3f}."
    )


def fill_masks(model: Path) -> None:
    """Guess the [MASK] of a few sentences by the exported folder, as its users will load it."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer, logging

    logging.set_verbosity_error()  # of the pair head, which a masked-token model leaves out
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model)
    bert = AutoModelForMaskedLM.from_pretrained(model).eval()
    for sentence in SENTENCES:
        inputs = tokenizer(sentence, return_tensors="pt")
        with torch.no_grad():
            logits = bert(**inputs).logits[0]
        place = int((inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0])
        chances, best = logits[place].softmax(-1).topk(4)
        words = tokenizer.convert_ids_to_tokens(best.tolist())
        guesses = ", ".join(f"{word} {p:.0%}" for word, p in zip(words, chances.tolist()))
        print(f"  {sentence}  ->  {guesses}")
