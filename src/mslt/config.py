"""Everything a pre-training run can be told, as frozen dataclasses. Imports no torch.

The command line (`mslt pretrain`), YAML files and `recipes.py` all fill these same classes; range
checks live in `__post_init__`, so a wrong value is refused wherever it comes from.
"""

import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from math import inf
from typing import Any, Literal, get_type_hints

from mslt import foreign
from mslt import plan as plans
from mslt.schedule import Schedule
from mslt.shape import ModelConfig, at_least, one_of

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")  # what mslt.trackers knows

# What a resumed run may change, since it decides nothing about the model that comes out. Whether
# there is a prefix_cache does; which folder it is does not.
OPERATIONAL = frozenset(
    (
        *("save_every", "keep", "log_every", "eval_every", "tensorboard", "track"),
        "device",
        *("prefix_cache", "prefix_cache_gb", "look_ahead"),
    )
)


@dataclass(frozen=True)
class PlanConfig:
    """How the steps are spent: the arguments of `mslt.plan.build_plan`.

    Args:
        method: whole, stacking or mslt.
        k: stages in which the model grows (default: 4 for mslt, 3 for stacking).
        retrain: share of the steps that retrain the whole model at the end of mslt (default 0.2).
        shares: relative length of every stage instead, for instance [50, 5, 5, 5, 35].
        seq_len: tokens per sequence.
        long_share: share of the steps at the end that use long_seq_len (0.1 for SQuAD).
        long_seq_len: tokens per sequence in that last part (default 512).
        start_depth: layers of the first stage, where a trained model is there to start from
            (mslt import). The share of this stage may be 0: then the model grows at once.
    """

    method: Literal["whole", "stacking", "mslt"] = "mslt"
    k: int | None = None
    retrain: float | None = None
    shares: list[float] | None = None
    seq_len: int = 128
    long_share: float = 0.0
    long_seq_len: int | None = None
    start_depth: int | None = None


@dataclass(frozen=True)
class InstanceConfig:
    """How sentences become training instances (Devlin et al. 2018, appendix A.2).

    Args:
        pair: what the second segment is: nsp, the next sentences or random ones from another
            document; sop, the next sentences, in order or swapped (ALBERT); none, one segment.
        short_prob: share of instances with a random shorter length.
        mask_prob: share of the tokens that are predicted. The most per instance is this share of
            the sequence length, rounded up: 20 at 128, 77 at 512.
        whole_word: mask all pieces of a word together.
        dupe_factor: epochs after which the same instances come again, in whole batches with the
            same segments and masks. 0 makes new ones in every epoch.
    """

    pair: Literal["nsp", "sop", "none"] = "nsp"
    short_prob: float = 0.1
    mask_prob: float = 0.15
    whole_word: bool = False
    dupe_factor: int = 0

    def __post_init__(self) -> None:
        one_of("instances.pair", self.pair, "nsp", "sop", "none")
        if not 0 <= self.short_prob <= 1:
            raise ValueError(f"instances.short_prob must be in [0, 1], not {self.short_prob}")
        if not 0 < self.mask_prob < 1:
            raise ValueError(f"instances.mask_prob must be in (0, 1), not {self.mask_prob}")
        at_least(0, "instances.", self, "dupe_factor")


@dataclass(frozen=True)
class OptimizerConfig:
    """LAMB (You et al. 2019), the paper's optimizer, or AdamW. The learning rate is the schedule's.

    Args:
        name: lamb or adamw.
        weight_decay: decoupled; biases and LayerNorm are left out of it.
        beta1: decay of the mean of the gradients.
        beta2: decay of the mean of their squares.
        eps: added to the root of that mean.
        clip_norm: the gradients' norm over all tensors is scaled down to this; 0 leaves them.
        copied_moments: what the moments of a copied layer start from when the model grows: fresh
            zeros, or a copy of the original's.
        returning_moments: what the moments of a layer start from when it learns again after
            having been fixed: kept as they were, or fresh zeros.
    """

    name: Literal["lamb", "adamw"] = "lamb"
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    clip_norm: float = 1.0
    copied_moments: Literal["fresh", "copied"] = "fresh"
    returning_moments: Literal["kept", "fresh"] = "kept"

    def __post_init__(self) -> None:
        one_of("optimizer.name", self.name, "lamb", "adamw")
        one_of("optimizer.copied_moments", self.copied_moments, "fresh", "copied")
        one_of("optimizer.returning_moments", self.returning_moments, "kept", "fresh")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} must be in [0, 1), not {getattr(self, name)}")
        if not 0 < self.eps < inf:
            raise ValueError(f"optimizer.eps must be above 0, not {self.eps}")
        for name in ("weight_decay", "clip_norm"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"optimizer.{name} must be 0 or more, not {getattr(self, name)}")


@dataclass(frozen=True)
class Config:
    """One pre-training run.

    Args:
        steps: optimisation steps over all stages.
        batch_size: sequences per optimisation step, over all processes and micro-batches.
        micro_batch: sequences that go through the model at once; gradients are accumulated up to
            batch_size. 0 derives it from the sequence length and the device.
        seed: of the initial weights, the instances, the masks and the dropout.
        device: auto (a GPU where there is one), cpu, cuda or cuda:N.
        precision: auto takes bf16 where the device is fast at it, fp32 elsewhere.
        prefix: how the forward-only layers of a stage compute. exact is the arithmetic of the
            learning layers, dropout included. fast leaves dropout out and takes the fastest of
            fp32, bf16, int8 and fp8 on the device; each may be asked for by name.
        prefix_cache: a folder that keeps what the forward-only layers put out, where instances come
            again (instances.dupe_factor), so that it is computed once and then read. Dropout is
            left out of these layers and their output rounded to bf16. The folder may be lost,
            which costs time alone; only one run at a time uses it.
        prefix_cache_gb: most that it takes of the disk, in 10^9 bytes over all processes (default
            100). What does not fit is computed anew each time.
        recompute: keep only the input of each learning layer and compute the layer again in the
            backward pass: less memory, for a third more work.
        compile: fuse the operations of a layer: on a GPU, auto and on do so with torch.compile, and
            repeat steps from CUDA graphs. On a CPU auto uses functions in C instead, where there is
            a C compiler (cc, or what CC names) to make them on first use; on, torch.compile, which
            is slower there. off uses torch's operations one by one.
        reduce: how gradients travel between processes. bf16 rounds each process' sum, and halves
            the bytes; one process sends nothing.
        look_ahead: pass the forward-only layers of the next step while the gradients of several
            processes travel, or while a GPU would wait. Changes nothing but the time.
        eval_every: steps between held-out evaluations, which also happen at every stage's end.
            0 evaluates at the stages' ends alone.
        eval_batches: batches of held-out text per evaluation.
        save_every: steps between checkpoints, which are also written at every stage's end.
        keep: checkpoints to keep, the newest; the one that was evaluated best and the model of
            every stage's end are always kept.
        log_every: steps between lines in metrics.jsonl.
        skip_spikes: pass over a batch whose loss or gradient norm is far above what it has been
            lately in the stage, as those with numbers that are not finite always are.
        tensorboard: the same as track tensorboard.
        track: where else figures go: some of tensorboard, wandb, mlflow, trackio, with a comma
            between. Each is an extra, writes into the run's folder, and uses no network unless its
            own environment variables say so.
        model: shape of the encoder.
        plan: the stages.
        schedule: the learning rate.
        optimizer: LAMB or AdamW.
        instances: how text becomes training instances.
    """

    steps: int = 1_000_000
    batch_size: int = 1024
    micro_batch: int = 0
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    prefix: Literal["exact", "fast", "fp32", "bf16", "int8", "fp8"] = "exact"
    prefix_cache: str | None = None
    prefix_cache_gb: float | None = None
    recompute: bool = False
    compile: Literal["auto", "on", "off"] = "auto"
    reduce: Literal["fp32", "bf16"] = "fp32"
    look_ahead: bool = True
    eval_every: int = 10_000
    eval_batches: int = 8
    save_every: int = 5_000
    keep: int = 2
    log_every: int = 10
    skip_spikes: bool = True
    tensorboard: bool = False
    track: list[str] | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    schedule: Schedule = field(default_factory=Schedule)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    instances: InstanceConfig = field(default_factory=InstanceConfig)

    def __post_init__(self) -> None:
        one_of("precision", self.precision, "auto", "fp32", "bf16")
        one_of("compile", self.compile, "auto", "on", "off")
        one_of("reduce", self.reduce, "fp32", "bf16")
        one_of("prefix", self.prefix, "exact", "fast", "fp32", "bf16", "int8", "fp8")
        names = ("steps", "batch_size", "eval_batches", "save_every", "keep", "log_every")
        at_least(1, "", self, *names)
        at_least(0, "", self, "micro_batch", "eval_every", "seed")
        if self.micro_batch > self.batch_size:
            raise ValueError(
                f"micro_batch must be at most batch_size, {self.batch_size}, not {self.micro_batch}"
            )
        if not re.fullmatch("auto|cpu|cuda(:[0-9]+)?", self.device):
            raise ValueError(f"device must be auto, cpu, cuda or cuda:N, not {self.device!r}")
        for name in self.track or ():
            one_of("track", name, *TRACKERS)
        self._check_prefix_cache()
        self._check_blocks()
        longest = max(stage.seq_len for stage in self.stages().stages)
        if longest > self.model.max_position_embeddings:
            raise ValueError(
                f"a sequence of {longest} tokens needs model.max_position_embeddings of {longest} "
                f"or more, not {self.model.max_position_embeddings}"
            )

    def _check_blocks(self) -> None:
        """Raise ValueError where a stage would grow by, or fix, a part of a block."""
        for number, stage in enumerate(self.stages().stages, 1):
            for layers in (stage.depth, stage.learns_from):
                try:
                    self.model.blocks(layers)
                except ValueError as error:
                    raise ValueError(f"stage {number} of the plan: {error}") from None

    def _check_prefix_cache(self) -> None:
        """Raise ValueError where a cache is asked for and nothing would be read from it."""
        if self.prefix_cache is None:
            if self.prefix_cache_gb is not None:
                raise ValueError("prefix_cache_gb has no effect without prefix_cache")
            return
        if self.prefix_cache_gb is not None and not 0 < self.prefix_cache_gb < inf:
            raise ValueError(f"prefix_cache_gb must be above 0, not {self.prefix_cache_gb}")
        if not any(stage.learns_from for stage in self.stages().stages):
            raise ValueError("prefix_cache has no effect: no stage of this plan fixes layers")
        if not self.instances.dupe_factor:
            raise ValueError(
                "prefix_cache has no effect without instances.dupe_factor: no instance comes again"
            )

    @property
    def trackers(self) -> list[str]:
        """Names of all that the run is tracked by, each once."""
        named = [*(self.track or ()), *(["tensorboard"] if self.tensorboard else [])]
        return list(dict.fromkeys(named))

    def stages(self) -> plans.Plan:
        """The plan that these settings describe.

        Raises:
            ValueError: naming the key, where they describe none.
        """
        how = {f.name: getattr(self.plan, f.name) for f in fields(self.plan)}
        return plans.build_plan(
            depth=self.model.num_hidden_layers, steps=self.steps, schedule=self.schedule, **how
        )

    def with_vocabulary(self, vocab_size: int) -> "Config":
        """The same run on a store whose tokenizer knows `vocab_size` pieces.

        Raises:
            ValueError: the model was asked for with another vocabulary.
        """
        if self.model.vocab_size not in (0, vocab_size):
            raise ValueError(
                f"model.vocab_size is {self.model.vocab_size}, but the store's tokenizer has "
                f"{vocab_size} pieces"
            )
        return replace(self, model=replace(self.model, vocab_size=vocab_size))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are written to a run's config.yaml."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """The inverse of `to_dict`; what is left out has its default.

        Raises:
            ValueError: naming the key, where a value is not what it must be.
        """
        return made(cls, values)


def made(cls: Any, values: Any, prefix: str = "") -> Any:
    """An object of a dataclass and of those in it.

    Raises:
        ValueError: naming the key that is not known, or whose value is of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{prefix.rstrip('.') or 'a config'} must be `key: value`, not {values!r}")
    kinds = get_type_hints(cls)
    fields_of = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in kinds:
            raise ValueError(f"unknown key {name}")
        kind = kinds[key]
        if is_dataclass(kind):
            fields_of[key] = made(kind, value, f"{name}.")
        elif foreign.fits(value, kind):
            fields_of[key] = value
        else:
            raise ValueError(f"{name} must be {foreign.wanted(kind)}, not {value!r}")
    return cls(**fields_of)
