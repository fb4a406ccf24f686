"""Bad configurations: options, files of options and places, through `mslt pretrain`.

Each must be refused in one line that names the key or the file and line, before anything heavy is
imported, so within two seconds.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from mslt.cli import main
from torture.cases import Case, campaign, good_text

SECONDS = 2.0
STORE = "../shared/store"
_BEGIN = ("pretrain", "bert_tiny_mslt", "--data", STORE, "--out", "run")

# Options, and what the refusal must say.
OPTIONS: Mapping[str, str] = {
    "--steps 0": "steps must be 1 or more, not 0",
    "--steps -5": "steps must be 1 or more",
    "--steps 1e99": "steps must be",
    "--steps many": "steps",
    "--steps 2": "steps are too few",
    "--stepz 5": "did you mean",
    "--batch_size 0": "batch_size must be 1 or more",
    "--batch_size 999999999999": "batch_size must be 10,000,000 or less",
    "--micro_batch 100000": "micro_batch must be at most batch_size",
    "--seed -1": "seed must be 0 or more",
    "--device tpu": "device must be",
    "--precision fp8": "precision must be",
    "--prefix int4": "prefix must be",
    "--reduce fp8": "reduce must be",
    "--compile maybe": "compile must be",
    "--eval_batches 0": "eval_batches must be 1 or more",
    "--save_every 0": "save_every must be 1 or more",
    "--keep 0": "keep must be 1 or more",
    "--skip_spikes=perhaps": "skip_spikes must be true or false",
    "--prefix_cache c": "prefix_cache has no effect",
    "--prefix_cache_gb 5": "prefix_cache_gb has no effect",
    "--model.hidden_size 0": "model.hidden_size must be 1 or more",
    "--model.hidden_size 65 --model.num_attention_heads 2": "model.num_attention_heads must divide",
    "--model.num_hidden_layers 0": "model.num_hidden_layers must be 1 or more",
    "--model.vocab_size 7": "model.vocab_size is 7",
    "--model.hidden_dropout_prob 1": "model.hidden_dropout_prob must be in [0, 1)",
    "--model.initializer_range nan": "model.initializer_range must be",
    "--model.layer_norm_eps 0": "model.layer_norm_eps must be above 0",
    "--model.max_position_embeddings 16": "model.max_position_embeddings",
    "--model.depth 3": "model.depth",
    "--plan.method layerwise": "plan.method must be",
    "--plan.k 0": "plan.k must",
    "--plan.k 5": "plan.k must divide",
    "--plan.retrain 1.5": "plan.retrain must",
    "--plan.retrain 0.5 --plan.shares [1,1,1,1,1]": "plan.",
    "--plan.shares [1,2]": "plan.shares",
    "--plan.shares [0,0,0,0,0]": "plan.shares",
    "--plan.seq_len 4": "seq_len must be 8 or more",
    "--plan.long_share 2": "plan.long_share must",
    "--plan.long_seq_len 64": "plan.long_seq_len has no effect",
    "--schedule.lr 0": "schedule.lr must be",
    "--schedule.lr -1": "schedule.lr must be",
    "--schedule.lr inf": "schedule.lr must be",
    "--schedule.shape cosine": "schedule.shape must be",
    "--optimizer.name sgd": "optimizer.name must be",
    "--optimizer.beta1 1": "optimizer.beta1 must be in [0, 1)",
    "--optimizer.weight_decay nan": "optimizer.weight_decay must be",
    "--instances.pair rtd": "instances.pair must be",
    "--instances.mask_prob 0": "instances.mask_prob must be",
    "--allow_change seed": "allow_change has no effect",
}

# Files of options, and what the refusal must say.
FILES: Mapping[str, str] = {
    "stepz: 3\n": "bad.yaml",
    "steps: [3]\n": "steps must be",
    "steps: 3\nsteps: 4\n": "bad.yaml, line 2: the key steps is there twice",
    "steps: 300\nmodel: {hidden_size: &a [1]}\nplan: *a\n": "bad.yaml, line 3: aliases",
    "steps: !!python/object/apply:os.system ['touch executed']\n": "bad.yaml, line 1: tags",
    "model: 5\n": "model",
    "a: [\n": "bad.yaml, line",
    "\0": "bad.yaml is not a text of YAML",
    "[" * 1000: "bad.yaml is nested too deep",
    "a: " + "x" * 100_000: "bad.yaml has more than 64 KB",
}

# The words of the command line, and what the refusal must say.
WORDS: Mapping[str, str] = {
    "pretrain": "RECIPE is missing",
    "pretrain bert_huge --data s --out run": "unknown recipe bert_huge",
    "pretrain bert_tiny_mslt --out run": "data",
    f"pretrain bert_tiny_mslt --data {STORE}": "out",
    "pretrain bert_tiny_mslt --data nowhere --out run": "nowhere",
    "pretrain bert_tiny_mslt --data ../shared --out run": "../shared",
    f"pretrain bert_tiny_mslt --data {STORE} --out run --config nowhere.yaml": "nowhere.yaml",
    "pretrain --resume --out nowhere": "nowhere is no run to resume",
}


def _cases() -> list[Case]:
    options = [
        Case(words, (*_BEGIN, *words.split()), says=says, seconds=SECONDS)
        for words, says in OPTIONS.items()
    ]
    files = [
        Case(
            f"a file that begins with {text[:40]!r}",
            (*_BEGIN, "--config", "bad.yaml"),
            {"bad.yaml": text.encode()},
            says,
            seconds=SECONDS,
        )
        for text, says in FILES.items()
    ]
    words = [
        Case(f"mslt {line}", line.split(), says=says, seconds=SECONDS)
        for line, says in WORDS.items()
    ]
    return [*options, *files, *words]


CASES = _cases()


def setting(folder: Path) -> None:
    """The store that all of them name."""
    (folder / "text.txt").write_bytes(good_text(60))
    words = f"prepare {folder / 'text.txt'} --out {folder / 'store'} --workers 1 --vocab_size 120"
    assert main(words.split()) == 0


if __name__ == "__main__":
    sys.exit(campaign("configs", CASES, setting))
