"""Training steps of single stages, as a run's loop does them, with their phases timed."""

import math
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
from common import LR, Setting, now
from invented import made_up_model

from mslt.data.instances import Batch
from mslt.growth import freeze
from mslt.model import Encoder
from mslt.phases import Phases
from mslt.plan import Stage
from mslt.run import Run
from mslt.trainer import Trainer

CACHED = "cached"
VISITED = 3  # batches that come again and again where they are cached
PHASES = ("data", "prefix", "forward", "backward", "optimizer")


@dataclass(frozen=True)
class Way:
    """What decides how long a step takes.

    Args:
        stage: which layers stand and learn.
        mode: how the forward-only layers compute; empty where there are none.
    """

    stage: Stage
    mode: str

    @classmethod
    def of(cls, stage: Stage, mode: str) -> "Way":
        """That of a stage, whatever its number of steps."""
        return cls(replace(stage, steps=1), mode if stage.learns_from else "")

    def __str__(self) -> str:
        learn = self.stage.depth - self.stage.learns_from
        text = f"{self.stage.depth} layers, {learn} learn"
        return f"{text}, {self.mode}" if self.mode else text


def ways(settings: dict[str, Setting]) -> dict[Way, Setting]:
    """The whole model and every stage, in every mode: each way once, with its setting."""
    found: dict[Way, Setting] = {}
    for mode, setting in settings.items():
        for stage in (setting.whole, *setting.job.plan.stages):
            found.setdefault(Way.of(stage, mode), setting)
    return found


class Built:
    """A trainer of one stage, with a folder for what its forward-only layers put out if cached.

    Args:
        setting: whose job trains.
        way: which layers stand and learn, and how the others compute.
        model: of the stage's depth, on the device.
    """

    def __init__(self, setting: Setting, way: Way, model: Encoder) -> None:
        job, stage = setting.job, way.stage
        freeze(model, stage.learns_from)
        keep = None
        if way.mode == CACHED:
            self._open = ExitStack()
            folder = tempfile.mkdtemp(dir=setting.scratch)
            kept = replace(job, config=replace(job.config, prefix_cache=folder))
            cache = self._open.enter_context(kept.prefix_cache(lambda _: None))
            index = [Way.of(other, CACHED) for other in job.plan.stages].index(way)
            assert cache is not None
            keep = cache.stage(index, model, job.settings(index).group)
        self.trainer = Trainer(model, job.settings(0), {}, job.world, keep)


class Steps:
    """Training steps of one stage, from the batch on.

    On a GPU, to time a phase is to wait for the device, so it is done where `watching` is set.

    Args:
        setting: whose job trains.
        way: which layers stand and learn, and how the others compute.
    """

    def __init__(self, setting: Setting, way: Way) -> None:
        model = made_up_model(setting.model, way.stage.depth, setting.device)
        self.built = Built(setting, way, model)
        self.setting = setting
        self.cached = way.mode == CACHED
        self.watching = not setting.device.startswith("cuda")
        self.update_seconds: float | None = None  # where they were timed apart
        self._first_visits: list[float] = []
        self._watched: dict[int, dict[str, float]] = {}
        self._made: dict[int, Batch] = {}  # the next one, made in the step before

    def __call__(self, step: int) -> None:
        """Train on a batch; where that is cached, on one that has been seen before."""
        if self.cached and not self._first_visits:
            self._first_visits = [self._visit(number) for number in range(VISITED)]
        seconds = self._train(step)
        if self.watching:
            self._watched[step] = seconds  # of a step that is done again, those count

    def rest(self) -> None:
        """Give the memory of a GPU that it does not hold on to back, for others' turns."""
        if self.setting.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def update(self, _: int) -> None:
        """Update what learns, by no way, along whatever gradients are there."""
        self.built.trainer.optimizer.update(lr=0.0)

    def _visit(self, step: int) -> float:
        start = self._now()
        self._train(step)
        return self._now() - start

    def _train(self, step: int) -> dict[str, float]:
        trainer = self.built.trainer
        phases = trainer.phases = Phases(self._now if self.watching else None)
        batch = self._made.pop(step, None)
        if batch is None:
            with phases("data"):
                batch = self._batch(step)
        trainer.step(step, batch, LR, _accept, partial(self._make, step + 1))
        return phases.seconds

    def _make(self, step: int) -> Batch:
        self._made = {step: self._batch(step)}
        return self._made[step]

    def _batch(self, step: int) -> Batch:
        return self.setting.batch(step % VISITED if self.cached else step)

    def _now(self) -> float:
        return now(self.setting.device)

    @property
    def first_visit(self) -> float:
        """Seconds of a step whose batch was not seen before, the very first one left out."""
        return statistics.median(self._first_visits[1:])

    @property
    def phases(self) -> dict[str, float]:
        """Median seconds of each phase, but for the first step's; 0 where there is none."""
        later = list(self._watched.values())[1:]
        found = {
            name: statistics.median(seconds.get(name, 0.0) for seconds in later) for name in PHASES
        }
        if self.update_seconds is not None:
            found["optimizer"] = self.update_seconds
        return found


def _accept(values: dict[str, float]) -> bool:
    """As a run, which looks at every step's numbers before the weights move."""
    return all(math.isfinite(value) for value in values.values())


class Logging:
    """What a run writes of a step."""

    def __init__(self, setting: Setting) -> None:
        assert setting.scratch
        self._run = Run(setting.scratch, setting.job.config)
        names = ("mlm_loss", "grad_norm", "pair_loss", "lr", "seq_len", "tokens_per_second")
        self._values = dict.fromkeys((*names, "stage", "depth", "learns_from", "seconds"), 1.25)

    def __call__(self, step: int) -> None:
        """Write the line of a logged step."""
        self._run.record("train", step, self._values)
