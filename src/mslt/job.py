"""What a run works with: a config, resolved against a store and a machine."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mslt
from mslt import launcher
from mslt.cache import PrefixCache, Visits
from mslt.checkpoint import State, load_model
from mslt.config import Config
from mslt.data.instances import Batch, Instances
from mslt.data.masking import VocabularyFacts
from mslt.data.store import TokenStore
from mslt.data.tokenizer import read_vocabulary
from mslt.devices import Precision, instructions, pick_device, pick_kernels, pick_precision
from mslt.layout import Start
from mslt.model import Encoder
from mslt.options import flatten
from mslt.plan import Plan
from mslt.prefix import CACHED_TOKENS, Kind, pick_kind
from mslt.records import opened
from mslt.trainer import Settings
from mslt.world import World

# Tokens that go through the forward-only layers at once, where more of them than of the learning
# layers can: enough to fill a GPU, and in bf16 some 400 MB of the widest activation of BERT-Base.
PREFIX_TOKENS = 65_536
PREFIX_GB = 100.0  # prefix_cache_gb, where it is not given


@dataclass(frozen=True)
class Job:
    """What a run works with, and what stays the same from its first step to its last.

    Args:
        config: resolved, vocabulary included.
        plan: the stages.
        world: where it runs.
        precision: of the layers' arithmetic.
        prefix: how the forward-only layers compute.
        instances: training instances by step.
        heldout: batches that every evaluation uses.
        baseline: loss on their masked tokens, in nats, of knowing only how often each piece occurs.
        micro_batches: sequences that go through the model at once, in each stage.
        frequencies: log of each piece's share of the training text, counts smoothed by one [V].
        store_sha256: of the text.
        start: the trained model that the run begins with; None where it begins with random weights.
    """

    config: Config
    plan: Plan
    world: World
    precision: Precision
    prefix: Kind
    instances: Instances
    heldout: list[Batch]
    baseline: float
    micro_batches: tuple[int, ...]
    frequencies: np.ndarray
    store_sha256: str
    start: Start | None = None

    @classmethod
    def prepare(
        cls,
        config: Config,
        store: TokenStore,
        began: Mapping[str, Any] | None = None,
        world: World | None = None,
        start: Start | None = None,
    ) -> "Job":
        """Resolve a config against a store and this machine.

        Args:
            config: the run.
            store: its text.
            began: run.json of a run that goes on, or a part of it. Precision and micro-batches,
                which decide how sums are rounded, are as they were then, whatever this machine
                would choose.
            world: where it runs; alone on the config's device by default. All its processes call
                this at once, and what the machine decides the main process decides for all.

            start: the trained model that the run begins with.

        Raises:
            ValueError: the store, the config and the machine do not fit together, or the processes
                differ in what they were given.
        """
        began = began or {}
        config = config.with_vocabulary(store.vocab_size)
        plan = config.stages()
        refuse_unlearned(plan, start)
        world = world or World(device=pick_device(config.device))
        refuse_too_many(world.size, config)
        vocabulary = read_vocabulary(store.path / "tokenizer")
        instances = Instances(
            store.train, config.instances, vocabulary, config.seed, config.batch_size
        )
        if config.prefix_cache is not None:
            refuse_single_visits(plan, instances)
        heldout = held_out(config, plan, store, vocabulary)
        frequencies = log_frequencies(store.unigrams)
        chosen = json.loads(world.tell(json.dumps(choices(config, plan, began, world))))
        job = cls(
            config=config,
            plan=plan,
            world=world,
            precision=chosen["precision"],
            prefix=chosen["prefix"],
            instances=instances,
            heldout=heldout,
            baseline=unigram_loss(frequencies, heldout),
            frequencies=frequencies,
            store_sha256=store_hash(store),
            micro_batches=tuple(chosen["micro_batches"]),
            start=start,
        )
        world.agree(job.agreement())
        return job

    def settings(self, index: int) -> Settings:
        """How the steps of stage `index` are computed."""
        return Settings(
            optimizer=self.config.optimizer,
            precision=self.precision,
            micro_batch=self.micro_batches[index],
            prefix=self.prefix,
            prefix_batch=PREFIX_TOKENS // self.plan.stages[index].seq_len,
            recompute=self.config.recompute,
            compile=self.config.compile == "on"
            or (self.config.compile == "auto" and self.world.device.startswith("cuda")),
            kernels=self.in_c is not None,
            pair=self.config.instances.pair != "none",
            seed=self.config.seed,
            first=self.rows(index).start,
            reduce=self.config.reduce,
            look_ahead=self.config.look_ahead
            and (self.world.size > 1 or self.world.device.startswith("cuda")),
        )

    @property
    def in_c(self) -> str | None:
        """Which functions in C the layers compute by, if by any."""
        found = pick_kernels(self.config.compile, self.world.device, self.precision)
        return None if found is None else found.version

    @contextmanager
    def prefix_cache(self, say: Callable[[str], None]) -> Iterator[PrefixCache | None]:
        """What keeps the forward-only layers' output, where that is asked for.

        Each of several processes has a folder of its own and an equal share of the bound.

        Raises:
            ValueError: another process uses the folder.
            OSError: it cannot be made or written to.
        """
        config = self.config
        if config.prefix_cache is None:
            yield None
            return
        how = self.settings(0)
        # Other kernels give other last bits, so that what they computed is not what these would.
        facts = {
            "versions": [mslt.__version__, torch.__version__],
            "device": self.world.device.partition(":")[0],
            "computed": [self.prefix, self.precision, how.compile, self.in_c, CACHED_TOKENS],
            "model": asdict(config.model),
            "instances": [self.store_sha256, asdict(config.instances)],
            "order": [config.seed, config.batch_size],
        }
        folder, rank, size = Path(config.prefix_cache), self.world.rank, self.world.size
        if size > 1:
            folder /= f"{rank + 1}-of-{size}"
        with opened(folder, (config.prefix_cache_gb or PREFIX_GB) / size, say) as records:
            cache = PrefixCache(records, self.plan, self.instances, self.rows, facts, say)
            yield cache
            cache.report()

    def rows(self, index: int) -> slice:
        """Which instances of a step's batch are this process' part in stage `index`."""
        return self.world.rows(self.config.batch_size, self.micro_batches[index])

    def batches(self, index: int) -> Callable[[int], Batch]:
        """This process' part of the batch, by step, in stage `index`. The last two are kept."""
        seq_len, rows = self.plan.stages[index].seq_len, self.rows(index)
        return lru_cache(maxsize=2)(lambda step: self.instances.batch(step, seq_len, rows))

    def agreement(self) -> list[tuple[str, str]]:
        """Name and value of what must be the same in every process."""
        facts = {
            "store_sha256": self.store_sha256,
            "torch": torch.__version__,
            "mslt": mslt.__version__,
            "precision": self.precision,
            "prefix": self.prefix,
            "micro_batches": self.micro_batches,
            # Others round sums in other ways, and weights would drift apart.
            "threads": torch.get_num_threads(),
            "kernels": f"{instructions(self.world.device)}, in C: {self.in_c}",
            **flatten(self.config.to_dict()),
        }
        return [(name, str(value)) for name, value in facts.items() if name != "device"]

    def first_state(self) -> State:
        """Step 0: the trained model to begin with, or the first stage's with random weights.

        Raises:
            ValueError: the trained model is damaged.
        """
        if self.start is not None:
            model, _ = load_model(self.start.folder, self.config.model)
            return State(step=0, model=model.to(self.world.device))
        model = Encoder(self.config.model, self.plan.stages[0].depth, seed=self.config.seed)
        if self.config.model.initializer == "local":
            # Adam takes a thousand steps to carry a bias from 0 to the rarest token's -10.
            model.head.bias.data = torch.from_numpy(self.frequencies).float()
        return State(step=0, model=model.to(self.world.device))

    def facts(self, store: TokenStore) -> dict[str, Any]:
        """What run.json remembers of it."""
        pairs = self.config.instances.pair != "none"
        start = self.start
        return {
            "data": str(store.path.resolve()),
            "store_sha256": self.store_sha256,
            "tokenizer_sha256": store.manifest["files"]["tokenizer/tokenizer.json"]["sha256"],
            "text": store.manifest["counts"],
            "device": self.world.device,
            "processes": self.world.size,
            "launch": launcher.identity(),
            "precision": self.precision,
            "prefix": self.prefix,
            "kernels": self.in_c,
            "stages": [asdict(stage) for stage in self.plan.stages],
            "micro_batches": list(self.micro_batches),
            "baseline_mlm_loss": self.baseline,
            "start": {"name": start.name, "depth": start.depth} if start else None,
            "baseline_pair_accuracy": majority_share(self.heldout) if pairs else None,
        }


def choices(config: Config, plan: Plan, began: Mapping[str, Any], world: World) -> dict[str, Any]:
    """What is as it was when the run began, or else what the machine decides."""
    precision = began.get("precision") or pick_precision(config.precision, world.device)
    prefix = began.get("prefix") or prefix_wanted(config, precision)
    how = config.compile, world.device, precision
    return {
        "precision": precision,
        "prefix": pick_kind(prefix, world.device, config.model, pick_kernels(*how)),
        "micro_batches": pick_micro_batches(config, plan, began, world),
    }


def prefix_wanted(config: Config, precision: Precision) -> str:
    """How the forward-only layers are to compute. What is kept of them has no dropout."""
    kept = config.prefix_cache is not None
    return precision if kept and config.prefix == "exact" else config.prefix


def refuse_unlearned(plan: Plan, start: Start | None) -> None:
    """Raise ValueError where a plan does not begin with the model that there is."""
    depth = start.depth if start else 0
    if start and plan.start_depth != depth:
        raise ValueError(f"plan.start_depth is {plan.start_depth}, but {start.folder} has {depth}")
    if plan.stages[0].learns_from > depth:
        raise ValueError(
            f"the first stage fixes {plan.stages[0].learns_from} layers, and there is no trained "
            f"model to begin with (mslt import)"
        )


def held_out(
    config: Config, plan: Plan, store: TokenStore, vocabulary: VocabularyFacts
) -> list[Batch]:
    """Batches to measure on: the same for every run, whatever its seed, and no instance twice."""
    once = replace(config.instances, dupe_factor=0)
    measured = Instances(store.heldout, once, vocabulary, 0, config.batch_size)
    seq_len = plan.stages[0].seq_len
    return [
        hidden_only(measured.batch(i, seq_len), vocabulary.mask) for i in range(config.eval_batches)
    ]


def refuse_single_visits(plan: Plan, instances: Instances) -> None:
    """Raise ValueError where no batch goes through forward-only layers twice."""
    spans = [
        Visits.of(plan, length, instances.period(length))
        for length in sorted({stage.seq_len for stage in plan.stages if stage.learns_from})
    ]
    if not any(span.batches for span in spans):
        raise ValueError(
            f"prefix_cache has no effect: layers are fixed for {spans[0].stop - spans[0].start} "
            f"steps, and batches come again after {spans[0].period} (instances.dupe_factor)"
        )


def log_frequencies(unigrams: np.ndarray) -> np.ndarray:
    """Log of each piece's share of all, counts smoothed by one [V]."""
    counts = unigrams.astype(np.float64) + 1
    return np.log(counts / counts.sum())


def unigram_loss(frequencies: np.ndarray, batches: list[Batch]) -> float:
    """Cross-entropy in nats of predicting each masked token by how often it occurs in train.

    What a model reaches that has learned nothing about context.

    Raises:
        ValueError: the batches predict nothing.
    """
    number = sum(float(b.masked_weights.sum()) for b in batches)
    if not number:
        raise ValueError("no token is hidden in the held-out batches: raise eval_batches")
    return (
        -sum(float((frequencies[b.masked_ids] * b.masked_weights).sum()) for b in batches) / number
    )


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


def refuse_too_many(processes: int, config: Config) -> None:
    """Raise ValueError where a run cannot be shared among so many processes."""
    if config.batch_size < processes:
        raise ValueError(f"batch_size is {config.batch_size}, too few for {processes} processes")


def pick_micro_batches(
    config: Config, plan: Plan, began: Mapping[str, Any], world: World
) -> tuple[int, ...]:
    """Sequences that go through the model at once, by stage: as the run began, or what fits.

    Where it began with fewer processes they may be fewer now, so that each process has some.
    """
    sizes = began.get("micro_batches") or [
        fitting_micro_batch(config, s.seq_len, world.device, world.size) for s in plan.stages
    ]
    return tuple(min(size, config.batch_size // world.size) for size in sizes)


def fitting_micro_batch(
    config: Config, seq_len: int, device: str, processes: int = 1, free: float | None = None
) -> int:
    """What the config says, or else equal parts of the batch that suit the device.

    As many for each process; the same parts for 1, 2, 4, ... of them wherever there are enough.
    A CPU gains nothing beyond 4,096 tokens at once, which still share its caches. A GPU takes what
    half of its free memory holds: about 34 D + 5 L H values are saved per token and layer
    (Korthikanti et al. 2022, equation 1, at two bytes each).

    Args:
        config: the run.
        seq_len: tokens per sequence.
        device: where it runs.
        processes: that share a batch.
        free: bytes of a GPU that is not at hand; those of the device by default.
    """
    if config.micro_batch:
        return config.micro_batch
    tokens = 4096
    if device.startswith("cuda"):
        model = config.model
        width, heads = model.hidden_size, model.num_attention_heads
        per_token = model.num_hidden_layers * (34 * width + 5 * seq_len * heads)
        free = torch.cuda.mem_get_info(device)[0] if free is None else free
        tokens = max(seq_len, int(free * 0.5 / per_token))
    most = min(max(1, tokens // seq_len), config.batch_size)
    parts = math.ceil(config.batch_size / most / processes) * processes
    return math.ceil(config.batch_size / parts)


def store_hash(store: TokenStore) -> str:
    """One hash for the content of a store: of its files' hashes."""
    files = {name: entry["sha256"] for name, entry in store.manifest["files"].items()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
