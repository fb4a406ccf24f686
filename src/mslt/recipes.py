"""One function per row of the paper's tables, and small ones for one CPU. Imports no torch.

A recipe is a `Config`; every field of it can be overridden on the command line:
`mslt pretrain bert_base_mslt --data STORE --out RUN --steps 200000 --model.hidden_size 512`.
"""

from collections.abc import Callable
from dataclasses import replace

from mslt.config import Config, ModelConfig, OptimizerConfig, PlanConfig
from mslt.schedule import Schedule

RECIPES: dict[str, Callable[[], Config]] = {}


def recipe(function: Callable[[], Config]) -> Callable[[], Config]:
    """Register a recipe under its function's name."""
    RECIPES[function.__name__] = function
    return function


_BASE = ModelConfig(hidden_size=768, num_hidden_layers=12)
_LARGE = ModelConfig(hidden_size=1024, num_hidden_layers=24)


@recipe
def bert_base_whole() -> Config:
    """BERT-Base, the original training: Table 1, row 2 (85 h on 32 V100)."""
    return Config(model=_BASE, plan=PlanConfig(method="whole"))


@recipe
def bert_base_stacking() -> Config:
    """BERT-Base by progressive stacking (Gong et al. 2019): Table 1, row 3 (63 h)."""
    return Config(model=_BASE, plan=PlanConfig(method="stacking"))


@recipe
def bert_base_mslt() -> Config:
    """BERT-Base by MSLT, 4 stages and a retraining of 200k steps each: Table 1, row 1 (40 h)."""
    return Config(model=_BASE, plan=PlanConfig(method="mslt"))


@recipe
def bert_base_mslt_squad() -> Config:
    """The same with the last 10 % of the steps at length 512, for SQuAD (section 4.2)."""
    return Config(model=_BASE, plan=PlanConfig(method="mslt", long_share=0.1))


@recipe
def bert_base_mslt_without_retraining() -> Config:
    """BERT-Base by MSLT without the retrain stage, 800k steps: Table 4, row 1 (26 h)."""
    return Config(steps=800_000, model=_BASE, plan=PlanConfig(method="mslt", retrain=0.0))


@recipe
def bert_base_whole_480k() -> Config:
    """BERT-Base, the original training in the time of MSLT's 1M steps: Table 2, row 2 (41 h)."""
    return replace(bert_base_whole(), steps=480_000)


@recipe
def bert_large_whole() -> Config:
    """BERT-Large, the original training: Table 1, row 5 (188 h)."""
    return Config(model=_LARGE, plan=PlanConfig(method="whole"))


@recipe
def bert_large_stacking() -> Config:
    """BERT-Large by progressive stacking (Gong et al. 2019): Table 1, row 6 (136 h)."""
    return Config(model=_LARGE, plan=PlanConfig(method="stacking"))


@recipe
def bert_large_mslt() -> Config:
    """BERT-Large by MSLT, 4 stages and a retraining of 200k steps each: Table 1, row 4 (84 h)."""
    return Config(model=_LARGE, plan=PlanConfig(method="mslt"))


@recipe
def bert_large_mslt_squad() -> Config:
    """The same with the last 10 % of the steps at length 512, for SQuAD (section 4.2)."""
    return Config(model=_LARGE, plan=PlanConfig(method="mslt", long_share=0.1))


@recipe
def bert_large_mslt_without_retraining() -> Config:
    """BERT-Large by MSLT without the retrain stage, 800k steps: Table 4, row 3 (54 h)."""
    return Config(steps=800_000, model=_LARGE, plan=PlanConfig(method="mslt", retrain=0.0))


@recipe
def bert_large_mslt_500k() -> Config:
    """BERT-Large by MSLT, 500k steps: Table 2, row 3 (42 h)."""
    return replace(bert_large_mslt(), steps=500_000)


@recipe
def bert_large_whole_230k() -> Config:
    """BERT-Large, the original training in the time of MSLT's 500k steps: Table 2, row 4 (42 h)."""
    return replace(bert_large_whole(), steps=230_000)


def _for_one_cpu(method: str, hidden_size: int, seq_len: int, lr: float) -> Config:
    """Twelve narrow layers at rates and initial weights that they learn with (docs/choices.md).

    No dropout, since less than an epoch or a few are seen: there is little to overfit.
    """
    return Config(
        steps=2000,
        batch_size=64,
        eval_every=200,
        save_every=200,
        model=ModelConfig(
            hidden_size=hidden_size,
            num_hidden_layers=12,
            max_position_embeddings=512,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer="local",
            # BERT-Base's 0.02, in proportion to the root of the width.
            initializer_range=round(0.02 * (768 / hidden_size) ** 0.5, 3),
        ),
        plan=PlanConfig(method=method, seq_len=seq_len),  # type: ignore[arg-type]
        schedule=Schedule(lr=lr, warmup_steps=100, shape="wsd"),
        optimizer=OptimizerConfig(name="adamw"),
    )


@recipe
def bert_tiny_whole() -> Config:
    """12 layers, 128 wide, length 64, trained whole: minutes on one CPU."""
    return _for_one_cpu("whole", 128, 64, 7e-4)


@recipe
def bert_tiny_stacking() -> Config:
    """12 layers, 128 wide, length 64, by progressive stacking."""
    return _for_one_cpu("stacking", 128, 64, 7e-4)


@recipe
def bert_tiny_mslt() -> Config:
    """12 layers, 128 wide, length 64, by MSLT."""
    return _for_one_cpu("mslt", 128, 64, 7e-4)


@recipe
def bert_small_whole() -> Config:
    """12 layers, 256 wide, length 128, trained whole: an hour or two on one CPU."""
    return _for_one_cpu("whole", 256, 128, 5e-4)


@recipe
def bert_small_stacking() -> Config:
    """12 layers, 256 wide, length 128, by progressive stacking."""
    return _for_one_cpu("stacking", 256, 128, 5e-4)


@recipe
def bert_small_mslt() -> Config:
    """12 layers, 256 wide, length 128, by MSLT."""
    return _for_one_cpu("mslt", 256, 128, 5e-4)


def _demo(method: str, shares: list[float] | None = None) -> Config:
    """Small enough for two runs in minutes on two cores without bf16; see `mslt.demo`."""
    config = _for_one_cpu(method, 64, 32, 8e-4)
    return replace(
        config,
        steps=1000,
        batch_size=32,
        model=replace(config.model, num_attention_heads=2),
        plan=replace(config.plan, shares=shares),
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
