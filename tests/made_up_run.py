"""A run's folder as training leaves it, without the training."""

from dataclasses import asdict
from pathlib import Path

import torch

from mslt.config import Config, ModelConfig, PlanConfig
from mslt.data import tokenizer as tokenizers
from mslt.model import Encoder
from mslt.run import Run
from mslt.schedule import Schedule

WORDS = ["the", "capital", "is", "paris", "of", "france", "##s", ".", "\u00e9t\u00e9", "ete"]
PIECES = [*tokenizers.SPECIAL, *WORDS]

CONFIG = Config(
    steps=1000,
    batch_size=8,
    eval_batches=2,
    model=ModelConfig(
        vocab_size=len(PIECES),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=40,
    ),
    plan=PlanConfig(method="mslt", k=2, retrain=0.2, seq_len=32),
    schedule=Schedule(lr=1e-3, warmup_steps=30, shape="wsd"),
)


def new_run(path: Path, config: Config = CONFIG, pieces: list[str] = PIECES) -> Run:
    """A run that is about to begin, on a store whose path must not be given away."""
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizers.save(tokenizers.build(vocab, lowercase=True), path.parent / "tokenizer")
    facts = {
        "data": "/home/somebody/private/my|store",
        "store_sha256": "c0ffee" * 10,
        "text": {
            "train": {"tokens": 64_000, "sentences": 900, "documents": 1234},
            "heldout": {"tokens": 2_000, "sentences": 30, "documents": 56},
        },
        "device": "cpu",
        "precision": "fp32",
        "prefix": "exact",
        "stages": [asdict(stage) for stage in config.stages().stages],
        "micro_batches": [8] * len(config.stages().stages),
        "baseline_mlm_loss": 2.5,
    }
    return Run.create(path, config, facts, path.parent / "tokenizer")


def trained_model(depth: int, seed: int = 0, config: Config = CONFIG) -> Encoder:
    """Numbers that are nowhere 0 or 1, as after training."""
    model = Encoder(config.model, depth)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def end_stages(run: Run, count: int) -> None:
    """As if the first stages of the plan had been trained, at 0.1 seconds a step."""
    plan, pairs = run.config.stages(), run.config.instances.pair != "none"
    for index, (stage, end) in enumerate(list(zip(plan.stages, plan.ends))[:count]):
        values = {"mlm_loss": 2.0 - index / 4, "mlm_accuracy": 0.375, "seconds": end / 10}
        values |= {"pair_loss": 0.5, "pair_accuracy": 0.75} if pairs else {}
        run.record("heldout", end, values)
        facts = {"step": end, "seconds": end / 10}
        run.save_stage(index, plan, trained_model(stage.depth, index, run.config), facts)


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")
