"""A run of ten steps: it grows, freezes, retrains and lengthens."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from mslt.checkpoint import State
from mslt.config import Config, ModelConfig, PlanConfig
from mslt.console import Console
from mslt.data.store import TokenStore
from mslt.job import Job
from mslt.pretrain import Done, train
from mslt.run import Run
from mslt.schedule import Schedule

TINY = Config(
    steps=10,
    batch_size=4,
    micro_batch=2,
    eval_every=3,
    eval_batches=1,
    save_every=1,
    keep=100,
    log_every=1,
    device="cpu",
    precision="fp32",
    model=ModelConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2),
    plan=PlanConfig(method="mslt", k=2, retrain=0.2, seq_len=32, long_share=0.1, long_seq_len=48),
    schedule=Schedule(lr=1e-3, warmup_steps=3),
)


def start(config: Config, store: Path, out: Path, job: Job | None = None) -> tuple[Job, State, Run]:
    opened = TokenStore.open(store)
    job = job or Job.prepare(config, opened)
    run = Run.create(out, job.config, job.facts(opened), store / "tokenizer")
    return job, job.first_state(), run


def steps(config: Config, store: Path, out: Path, count: int, job: Job | None = None) -> list[Done]:
    """The first steps of a run, whose job is the config's unless another is given."""
    job, state, run = start(config, store, out, job)
    loop = train(job, state, run, Console(job.plan, config.batch_size, quiet=True))
    done = [next(loop) for _ in range(count)]
    run.wait()
    return done


def losses(run: Path) -> list[tuple[str, int, float | None, float | None]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(m["kind"], m["step"], m.get("mlm_loss"), m.get("pair_loss")) for m in lines]


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted((run / "stages").iterdir())[-1] / "model.safetensors")


def damage(run: Path, step: int) -> None:
    file = run / "checkpoints" / f"step-{step:08d}" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
