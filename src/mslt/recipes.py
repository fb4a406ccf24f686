"""One recipe per row of the paper's tables, the same rows small, and the demo. Imports no torch.

A recipe is a `Config`; every field of it can be overridden on the command line:
`mslt pretrain bert_base_mslt --data STORE --out RUN --steps 200000 --model.hidden_size 512`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mslt.config import Config, ModelConfig, OptimizerConfig, PlanConfig
from mslt.options import Values, did_you_mean, flatten
from mslt.schedule import Schedule

Method = Literal["whole", "stacking", "mslt"]

RECIPES: dict[str, Callable[[], Config]] = {}


def recipe(function: Callable[[], Config]) -> Callable[[], Config]:
    """Register a recipe under its function's name."""
    RECIPES[function.__name__] = function
    return function


def _for_one_cpu(hidden_size: int, seq_len: int, lr: float, layers: int = 12) -> Config:
    """Narrow layers at rates and initial weights that they learn with (docs/choices.md).

    No dropout, since less than an epoch or a few are seen: there is little to overfit. Forward-only
    layers compute in fewer bits, which costs such models nothing.
    """
    return Config(
        steps=2000,
        batch_size=64,
        prefix="fast",
        eval_every=200,
        save_every=200,
        model=ModelConfig(
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            max_position_embeddings=512,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer="local",
            # BERT-Base's 0.02, in proportion to the root of the width.
            initializer_range=round(0.02 * (768 / hidden_size) ** 0.5, 3),
        ),
        plan=PlanConfig(seq_len=seq_len),
        schedule=Schedule(lr=lr, warmup_steps=100, shape="wsd"),
        optimizer=OptimizerConfig(name="adamw"),
    )


def recipe_values(name: str) -> Values:
    """A recipe's values. What it derives from the width goes back to 0, derived anew later.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES) or "; mslt recipes lists them"
        raise ValueError(f"unknown recipe {name}{hint}")
    config = RECIPES[name]()
    values = flatten(config.to_dict())
    usual = ModelConfig(hidden_size=config.model.hidden_size)
    for key in ("num_attention_heads", "intermediate_size"):
        if getattr(config.model, key) == getattr(usual, key):
            values[f"model.{key}"] = 0
    return values


def _shared(model: ModelConfig, embedding_size: int) -> ModelConfig:
    """An ALBERT of a BERT's shape. Its activation is that of Google's ALBERT."""
    return replace(model, embedding_size=embedding_size, hidden_act="gelu_new")


def _in_groups(model: ModelConfig, groups: int) -> ModelConfig:
    """The same whose layers share so many blocks of weights; 0 leaves them their own.

    What r layers of the same weights add to their input adds up r times, and not √r times as that
    of random ones: 12 layers of one block leave next to nothing of their input to the last. So a
    small model's weights begin ∛r times smaller (docs/log.md).
    """
    model = replace(model, num_hidden_groups=groups)
    if model.initializer != "local":
        return model
    smaller = model.initializer_range / model.repeat ** (1 / 3)
    return replace(model, initializer_range=round(smaller, 3))


@dataclass(frozen=True)
class _Shape:
    """A model and how it is trained, whatever the plan.

    Args:
        title: what it is, for people.
        config: everything but the plan's method, with the steps of a whole training.
    """

    title: str
    config: Config


_SHAPES = {
    "bert_base": _Shape("BERT-Base", Config(model=ModelConfig(hidden_size=768))),
    "bert_large": _Shape(
        "BERT-Large", Config(model=ModelConfig(hidden_size=1024, num_hidden_layers=24))
    ),
    "albert_base": _Shape("ALBERT-Base", Config(model=_shared(ModelConfig(hidden_size=768), 128))),
    "bert_tiny": _Shape("12 layers of 128, length 64, on one CPU", _for_one_cpu(128, 64, 7e-4)),
    "bert_small": _Shape("12 layers of 256, length 128", _for_one_cpu(256, 128, 5e-4)),
    "bert_deep": _Shape(
        "24 layers of 128, length 64, on one CPU", _for_one_cpu(128, 64, 5e-4, layers=24)
    ),
}
_SHAPES["albert_tiny"] = _Shape(
    "ALBERT of 12 layers of 128, length 64, on one CPU",
    replace(_SHAPES["bert_tiny"].config, model=_shared(_SHAPES["bert_tiny"].config.model, 64)),
)
_TWINS = {  # the same rows on one CPU
    "bert_base": "bert_tiny",
    "bert_large": "bert_deep",
    "albert_base": "albert_tiny",
}

_PLANS: dict[Method, str] = {
    "whole": "the original training",
    "stacking": "progressive stacking (Gong et al. 2019)",
    "mslt": "MSLT",
}


@dataclass(frozen=True)
class _Row:
    """A row of one of the paper's tables.

    Args:
        shape: a key of `_SHAPES`.
        method: of the plan.
        where: in the paper.
        hours: it took there on 32 V100, where the paper says so.
        kind: what tells it from other rows of shape and method, for its name.
        share: of a whole training's steps that it takes.
        plan: further fields of the plan.
        groups: blocks of weights that the layers share, in an ALBERT.
    """

    shape: str
    method: Method
    where: str
    hours: int | None = None
    kind: str = ""
    share: float = 1.0
    plan: Mapping[str, Any] = field(default_factory=dict)
    groups: int = 0

    def register(self, shape: str) -> None:
        """Make a recipe of it for one shape: the paper's, or one that is small."""
        look = _SHAPES[shape]
        steps = round(self.share * look.config.steps)
        name = f"{shape}_{self.method}"
        if self.kind:
            name += f"_{self.kind}"
        elif self.share != 1:
            name += f"_{steps // 1000}k" if steps >= 100_000 else f"_{steps}"
        hours = f" ({self.hours} h on 32 V100)" if self.hours and shape == self.shape else ""

        def make() -> Config:
            plan = replace(look.config.plan, method=self.method, **self.plan)
            model = _in_groups(look.config.model, self.groups)
            return replace(look.config, steps=steps, plan=plan, model=model)

        make.__name__ = name
        make.__doc__ = f"{look.title}, {self._says()}: {self.where}{hours}."
        recipe(make)

    def _says(self) -> str:
        says = _PLANS[self.method]
        if self.groups:
            says = f"{self.groups} block{'s' * (self.groups > 1)} of shared weights, {says}"
        if self.kind == "without_retraining":
            return f"{says} without the retrain stage"
        return (
            f"{says}, the last tenth of the steps at length 512" if self.kind == "squad" else says
        )


def _squad(shape: str, method: Method, row: int) -> _Row:
    where = f"Table 1, row {row}, for SQuAD (section 4.2)"
    return _Row(shape, method, where, kind="squad", plan={"long_share": 0.1})


def _bare(shape: str, where: str, hours: int) -> _Row:
    plan = {"retrain": 0.0}
    return _Row(shape, "mslt", where, hours, "without_retraining", share=0.8, plan=plan)


_PAPER = (
    _Row("bert_base", "whole", "Table 1, row 2; Table 5, row 2", 85),
    _Row("bert_base", "stacking", "Table 1, row 3", 63),
    _Row("bert_base", "mslt", "Tables 1, 2 and 5, row 1; Table 4, row 2", 40),
    _squad("bert_base", "whole", 2),
    _squad("bert_base", "stacking", 3),
    _squad("bert_base", "mslt", 1),
    _bare("bert_base", "Table 4, row 1", 26),
    _Row("bert_base", "whole", "Table 2, row 2", 41, share=0.48),
    _Row("bert_large", "whole", "Table 1, row 5; Table 5, row 4", 188),
    _Row("bert_large", "stacking", "Table 1, row 6", 136),
    _Row("bert_large", "mslt", "Table 1, row 4; Table 4, row 4; Table 5, row 3", 84),
    _squad("bert_large", "whole", 5),
    _squad("bert_large", "stacking", 6),
    _squad("bert_large", "mslt", 4),
    _bare("bert_large", "Table 4, row 3", 54),
    _Row("bert_large", "mslt", "Table 2, row 3", 42, share=0.5),
    _Row("bert_large", "whole", "Table 2, row 4", 42, share=0.23),
    _Row("albert_base", "whole", "Table 3, row 2", 62, groups=1),
    _Row("albert_base", "mslt", "Table 3, row 1", 32, groups=4),
)

for _row in _PAPER:
    _row.register(_row.shape)
for _row in _PAPER:
    _row.register(_TWINS[_row.shape])
for _method in _PLANS:
    _Row("bert_small", _method, "an hour or two on one CPU").register("bert_small")


def _demo(method: Method, shares: list[float] | None = None) -> Config:
    """Small enough for two runs in minutes on two cores without bf16; see `mslt.demo`."""
    config = _for_one_cpu(64, 32, 8e-4)
    return replace(
        config,
        steps=1000,
        batch_size=32,
        model=replace(config.model, num_attention_heads=2),
        plan=replace(config.plan, method=method, shares=shares),
    )


@recipe
def demo_whole() -> Config:
    """12 layers, 64 wide, length 32, trained whole: what `mslt demo` compares with."""
    return _demo("whole")


@recipe
def demo_mslt() -> Config:
    """12 layers, 64 wide, length 32, by MSLT: what `mslt demo` shows.

    The embeddings learn in the first stage alone before the retraining, and need the time.
    """
    return _demo("mslt", shares=[50.0, 10.0, 10.0, 10.0, 20.0])
