"""Multi-stage layerwise training (section 3.2). The baselines are other plans, not other code."""

import hashlib
import json
import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from mslt.checkpoint import State
from mslt.config import Config
from mslt.console import Console
from mslt.data.instances import Batch, Instances
from mslt.data.store import TokenStore
from mslt.data.tokenizer import read_vocabulary
from mslt.growth import copied_from, freeze, grow, is_fixed
from mslt.model import Encoder
from mslt.optim import Moment, Moments
from mslt.plan import Plan, Stage
from mslt.run import Clock, Run
from mslt.trainer import Precision, Settings, Trainer, pick_device, pick_precision
from mslt.world import World


@dataclass(frozen=True)
class Job:
    """What a run works with, and what stays the same from its first step to its last.

    Args:
        config: resolved, vocabulary included.
        plan: the stages.
        world: where it runs.
        precision: of the layers' arithmetic.
        instances: training instances by step.
        heldout: batches that every evaluation uses.
        baseline: loss on their masked tokens, in nats, of knowing only how often each piece occurs.
        micro_batches: sequences that go through the model at once, in each stage.
    """

    config: Config
    plan: Plan
    world: World
    precision: Precision
    instances: Instances
    heldout: list[Batch]
    baseline: float
    micro_batches: tuple[int, ...]

    @classmethod
    def prepare(
        cls, config: Config, store: TokenStore, micro_batches: Sequence[int] | None = None
    ) -> "Job":
        """Resolve a config against a store and this machine.

        Args:
            config: the run.
            store: its text.
            micro_batches: of each stage, as a run began with; chosen anew where they are not given.

        Raises:
            ValueError: the store, the config and the machine do not fit together.
        """
        config = config.with_vocabulary(store.vocab_size)
        plan = config.stages()
        device = pick_device(config.device)
        vocabulary = read_vocabulary(store.path / "tokenizer")
        instances = Instances(
            store.train, config.instances, vocabulary, config.seed, config.batch_size
        )
        # Every run is measured on the same held-out instances, whatever its own seed.
        measured = Instances(store.heldout, config.instances, vocabulary, 0, config.batch_size)
        seq_len = plan.stages[0].seq_len
        heldout = [
            hidden_only(measured.batch(i, seq_len), vocabulary.mask)
            for i in range(config.eval_batches)
        ]
        return cls(
            config=config,
            plan=plan,
            world=World(device=device),
            precision=pick_precision(config.precision, device),
            instances=instances,
            heldout=heldout,
            baseline=unigram_loss(store.unigrams, heldout),
            micro_batches=tuple(
                micro_batches
                or (fitting_micro_batch(config, stage.seq_len, device) for stage in plan.stages)
            ),
        )

    def settings(self, index: int) -> Settings:
        """How the steps of stage `index` are computed."""
        return Settings(
            optimizer=self.config.optimizer,
            precision=self.precision,
            micro_batch=self.micro_batches[index],
            pair=self.config.instances.pair != "none",
            seed=self.config.seed,
        )

    def first_state(self) -> State:
        """Step 0: the first stage's model with random weights."""
        depth = self.plan.stages[0].depth
        model = Encoder(self.config.model, depth, seed=self.config.seed)
        return State(step=0, model=model.to(self.world.device))

    def facts(self, store: TokenStore) -> dict[str, Any]:
        """What run.json remembers of it."""
        pairs = self.config.instances.pair != "none"
        return {
            "data": str(store.path.resolve()),
            "store_sha256": store_hash(store),
            "tokenizer_sha256": store.manifest["files"]["tokenizer/tokenizer.json"]["sha256"],
            "text": store.manifest["counts"],
            "device": self.world.device,
            "precision": self.precision,
            "stages": [asdict(stage) for stage in self.plan.stages],
            "micro_batches": list(self.micro_batches),
            "baseline_mlm_loss": self.baseline,
            "baseline_pair_accuracy": majority_share(self.heldout) if pairs else None,
        }


@dataclass(frozen=True)
class Progress:
    """One step further."""

    step: int
    index: int
    stage: Stage
    trainer: Trainer
    clock: Clock

    def state(self) -> State:
        """All that the next step, or a resumed run, needs. Shares memory with the training."""
        return State(self.step, self.trainer.model, self.trainer.moments(), self.clock.seconds)


def train(job: Job, state: State, run: Run, console: Console) -> Iterator[Progress]:
    """The loop: yields after every step, so that the caller may stop, or interleave runs."""
    clock = Clock(state.seconds, job.world.device)
    for index, stage, steps in job.plan.remaining(state.step):
        model, moments = enter_stage(job, state, index)
        freeze(model, stage.learns_from, pair_head=job.config.instances.pair != "none")
        trainer = Trainer(model, job.settings(index), moments, job.world)
        console.enter(index, stage, steps)
        mark = (steps.start, clock.seconds)
        for step in steps:
            with clock.running():
                batch = job.instances.batch(step, stage.seq_len)
                metrics = trainer.step(step, batch, job.plan.lr(step))
            progress = Progress(step + 1, index, stage, trainer, clock)
            console.advance(step + 1)
            last = step + 1 == steps.stop
            if last or (step + 1) % job.config.log_every == 0:
                values = {name: float(value) for name, value in metrics.items()}
                refuse_nonfinite(values, step + 1)
                values |= _rates(job, progress, mark)
                mark = (step + 1, clock.seconds)
                run.record("train", step + 1, values)
                console.train(step + 1, values)
            if last or _due(step + 1, job.config.eval_every):
                run.record("heldout", step + 1, heldout(job, progress, console))
            if last:
                run.save_stage(index, job.plan, model, _summary(run, progress))
            if last or _due(step + 1, job.config.save_every):
                save(run, progress)
            yield progress
        state = progress.state()


def enter_stage(job: Job, state: State, index: int) -> tuple[Encoder, Moments]:
    """Model and moments as a stage starts with them, or goes on with them after a resume."""
    stage, optimizer = job.plan.stages[index], job.config.optimizer
    model, moments = state.model, dict(state.moments)
    if model.depth != stage.depth:
        model = grow(state.model, to=stage.depth)
        if optimizer.copied_moments == "copied":
            for name, _ in model.named_parameters():
                source = copied_from(name, state.model.depth, stage.depth)
                if source in moments:
                    mean, square, updates = moments[source]
                    moments[name] = Moment(mean.clone(), square.clone(), updates)
    starts = state.step == job.plan.ends[index] - stage.steps
    if starts and index and optimizer.returning_moments == "fresh":
        before = job.plan.stages[index - 1].learns_from
        for name in list(moments):
            if is_fixed(name, before) and not is_fixed(name, stage.learns_from):
                del moments[name]
    return model, moments


def heldout(job: Job, progress: Progress, console: Console) -> dict[str, Any]:
    """Losses and accuracies on the held-out batches; the training clock stands still."""
    values: dict[str, Any] = dict(progress.trainer.evaluate(job.heldout))
    console.heldout(progress.step, values)
    if progress.step > job.plan.steps // 4 and job.baseline - values["mlm_loss"] < 0.05:
        console.warn_once(
            f"step {progress.step}: the held-out loss is not below that of the tokens' own "
            f"frequencies ({job.baseline:.3f}): nothing of their context is learned yet. A short "
            f"run needs more steps; one that stays at this loss needs a lower schedule.lr "
            f"(now {job.config.schedule.lr:g})."
        )
    return values | _place(progress)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _place(progress: Progress) -> dict[str, Any]:
    stage = progress.stage
    return {
        "stage": progress.index + 1,
        "depth": stage.depth,
        "learns_from": stage.learns_from,
        "seconds": progress.clock.seconds,
    }


def _rates(job: Job, progress: Progress, mark: tuple[int, float]) -> dict[str, Any]:
    """Where a logged step stands, and tokens per second since the one before it."""
    step, seconds = mark
    tokens = (progress.step - step) * job.config.batch_size * progress.stage.seq_len
    return {
        "lr": job.plan.lr(progress.step - 1),
        "seq_len": progress.stage.seq_len,
        "tokens_per_second": tokens / max(progress.clock.seconds - seconds, 1e-9),
        **_place(progress),
    }


def _summary(run: Run, progress: Progress) -> dict[str, Any]:
    """What a stage's folder remembers: where it ended and how well."""
    lines = [line for line in run.metrics() if line["kind"] == "heldout"]
    return {"step": progress.step, "seconds": progress.clock.seconds, "heldout": lines[-1]}


def save(run: Run, progress: Progress) -> None:
    """Write a checkpoint, unless one of this step is there already.

    Raises:
        ValueError: a weight is not finite.
    """
    state = progress.state()
    if run.checkpoint(state.step).exists():
        return
    if not torch.isfinite(progress.trainer.optimizer.weights).all():
        refuse_nonfinite({"a weight": math.nan}, progress.step)
    run.save(state)


def refuse_nonfinite(values: dict[str, float], step: int) -> None:
    """Stop before a broken number reaches a checkpoint.

    Raises:
        ValueError: naming the value.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(
                f"{name} is {value} at step {step}: training has diverged. Lower schedule.lr or "
                f"lengthen schedule.warmup_steps; the last checkpoint is from before"
            )


def unigram_loss(unigrams: np.ndarray, batches: list[Batch]) -> float:
    """Cross-entropy in nats of predicting each masked token by how often it occurs in train.

    What a model reaches that has learned nothing about context. Counts are smoothed by one.
    """
    counts = unigrams.astype(np.float64) + 1
    nats = -np.log(counts / counts.sum())
    total = sum(float((nats[b.masked_ids] * b.masked_weights).sum()) for b in batches)
    return total / sum(float(b.masked_weights.sum()) for b in batches)


def hidden_only(batch: Batch, mask_id: int) -> Batch:
    """The batch without the predictions of tokens that the model can see.

    One in five is of a token that was kept or replaced by another: a model that only copies its
    input is right on half of them, which would pass for knowing the language.
    """
    shown = np.take_along_axis(batch.input_ids, batch.masked_positions, axis=1)
    return replace(batch, masked_weights=batch.masked_weights * (shown == mask_id))


def majority_share(batches: list[Batch]) -> float:
    """Accuracy of always answering with the more frequent pair label."""
    share = float(np.concatenate([batch.pair_labels for batch in batches]).mean())
    return max(share, 1 - share)


def fitting_micro_batch(config: Config, seq_len: int, device: str) -> int:
    """What the config says, or else the largest divisor of the batch that suits the device.

    A CPU gains nothing beyond 4,096 tokens at once, which still share its caches. A GPU takes what
    half of its free memory holds: about 34 D + 5 L H values are saved per token and layer
    (Korthikanti et al. 2022, equation 1, at two bytes each).
    """
    if config.micro_batch:
        return config.micro_batch
    tokens = 4096
    if device.startswith("cuda"):
        model = config.model
        width, heads = model.hidden_size, model.num_attention_heads
        per_token = model.num_hidden_layers * (34 * width + 5 * seq_len * heads)
        tokens = max(seq_len, int(torch.cuda.mem_get_info(device)[0] * 0.5 / per_token))
    most = min(max(1, tokens // seq_len), config.batch_size)
    return max(n for n in range(1, most + 1) if config.batch_size % n == 0)


def store_hash(store: TokenStore) -> str:
    """One hash for the content of a store: of its files' hashes."""
    files = {name: entry["sha256"] for name, entry in store.manifest["files"].items()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


class Stop:
    """Turns the first Ctrl-C or SIGTERM into a request; a second one stops at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self.__exit__()


def pretrain(config: Config, data: Path, out: Path, *, resume: bool = False) -> int:
    """Pre-train by a config on a token store, into a run's folder.

    Args:
        config: the run; of a resumed one, the same as it was started with.
        data: the token store.
        out: the run's folder: new, or with `resume` the one to go on in.
        resume: go on from the newest good checkpoint.

    Returns:
        0 when the plan is finished; 130 or 143 when a signal stopped it after a saved step.

    Raises:
        ValueError: what was given does not fit together, or training has diverged.
    """
    store = TokenStore.open(data)
    if resume:
        job, run, state = reopen(config, store, out)
    else:
        job = Job.prepare(config, store)
        run = Run.create(out, job.config, job.facts(store), store.path / "tokenizer")
        state = job.first_state()
    with Console(job.plan, job.config.batch_size, state.step) as console, Stop() as stop:
        console.header(job.config, run.facts(), out)
        for progress in train(job, state, run, console):
            if stop.signal and progress.step < job.plan.steps:
                save(run, progress)
                console.say(
                    f"stopped after step {progress.step} and saved; go on with:\n"
                    f"  mslt pretrain --resume --out {out}"
                )
                run.close()
                return 128 + stop.signal
        console.footer(run, out)
    run.close()
    return 0


def reopen(config: Config, store: TokenStore, out: Path) -> tuple[Job, Run, State]:
    """The run in a folder and the state to go on from.

    Raises:
        ValueError: naming what is not as it was when the run began.
    """
    run = Run.open(out)
    facts = run.facts()
    job = Job.prepare(config, store, facts["micro_batches"])
    now = _flat(job.config.to_dict())
    for name, before in _flat(run.config.to_dict()).items():
        if now[name] != before:
            raise ValueError(
                f"{name} is {now[name]}, but the run in {out} was started with {before}"
            )
    if facts["store_sha256"] != store_hash(store):
        raise ValueError(f"the store {store.path} is not the one that the run in {out} began with")
    state = run.latest() or job.first_state()
    run.rewind(state.step)
    state.model.to(job.world.device)
    return job, run, state


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        result |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return result
