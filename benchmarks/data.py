"""How fast text becomes a token store, and a store training instances.

    python benchmarks/data.py [--text FILE] [--store STORE] [--blocks 5] [--seconds 0.25]

`prepare` is the whole command with a tokenizer given, from the start of its worker processes to the
store on the disk, in MB of text and tokens a second, by their number: 1, which works in the process
that reads, and all cores. `batch` is tokens a second on one core. Both are measured on
text that is made up, or on what is given. The cases of each take turns, block by block, so that
whatever else the machine does falls on all of them; the figures are medians over the blocks, with
the least and the most. The last line is one JSON object.
"""

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import accumulate, count, pairwise
from pathlib import Path

import numpy as np

from mslt.config import InstanceConfig
from mslt.data.instances import Instances
from mslt.data.masking import VocabularyFacts
from mslt.data.prepare import PrepareConfig, prepare
from mslt.data.store import Split, TokenStore
from mslt.data.workers import cores

LENGTHS, BATCHES = (128, 512), (32, 256)
TOKENS, VOCAB_SIZE = 20_000_000, 30_522  # of the instances
WORDS, DISTINCT = 2_000_000, 50_000  # of the text: 15 MB

Rates = dict[str, list[float]]


def main() -> None:
    """Measure every case in turn, and print two tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", help="a text file to prepare instead of a made-up one")
    parser.add_argument("--store", help="a store to make instances of instead of a made-up one")
    parser.add_argument("--blocks", type=int, default=5, help="blocks per case (default 5)")
    parser.add_argument(
        "--seconds", type=float, default=0.25, help="per block of batch (default 0.25)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = Path(args.text) if args.text else made_up_text(Path(folder) / "text.txt")
        mb, tokens = measure_prepare(text, Path(folder), args.blocks)
    results = {
        "prepare_mb_per_second": shown("prepare, MB/s", mb, 1, digits=2),
        "prepare_tokens_per_second": shown("prepare, M tokens/s", tokens, 1e6),
    }
    if args.store:
        store = TokenStore.open(args.store)
        split, vocab_size = store.train, store.vocab_size
    else:
        split, vocab_size = made_up_split(TOKENS, VOCAB_SIZE), VOCAB_SIZE
    rates = measure_batches(batch_cases(split, vocab_size), args.blocks, args.seconds)
    results["batch_tokens_per_second"] = shown("batch, M tokens/s, one core", rates, 1e6)
    machine = {"cores": cores(), "python": platform.python_version(), "numpy": np.__version__}
    print(json.dumps({**results, **machine}))


def shown(
    title: str, rates: Mapping[str, list[float]], unit: float, digits: int = 0
) -> dict[str, dict[str, float]]:
    """Print a table. Returns what the JSON line says of it: of each case median, least and most."""
    print(f"\n{title:28} median  (least to most of {len(next(iter(rates.values())))})")
    for name, values in rates.items():
        spread = f"{min(values) / unit:.2f} to {max(values) / unit:.2f}"
        print(f"  {name:26} {statistics.median(values) / unit:6.2f}  ({spread})")
    return {
        name: {
            key: round(of(values), digits or None)
            for key, of in (("median", statistics.median), ("least", min), ("most", max))
        }
        for name, values in rates.items()
    }


def made_up_text(path: Path) -> Path:
    """Words of an invented language with Zipf's frequencies, in sentences and documents."""
    random = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    skew = 1 / (np.arange(26) + 3)
    spelt = random.choice(letters, (DISTINCT, 14), p=skew / skew.sum())
    ranks = np.arange(DISTINCT)
    sizes = np.clip(random.poisson(1 + 0.7 * np.log2(ranks + 2)), 1, 14)  # the frequent are short
    words = ["".join(row[:size]) for row, size in zip(spelt, sizes)]
    frequencies = 1 / (ranks + 2.7)
    drawn = random.choice(DISTINCT, WORDS, p=frequencies / frequencies.sum())
    ends = accumulate(random.integers(4, 40, WORDS // 10).tolist())
    with path.open("w", encoding="utf-8") as file:
        for number, (begin, end) in enumerate(pairwise(ends)):
            if end > WORDS:
                break
            sentence = " ".join(words[i] for i in drawn[begin:end])
            file.write(f"{sentence.capitalize()}.\n" if number % 30 else "\n")
    return path


def measure_prepare(text: Path, folder: Path, blocks: int) -> tuple[Rates, Rates]:
    """MB and tokens a second of each number of workers."""
    start = time.perf_counter()
    first = prepare([str(text)], folder / "first", progress=False)
    seconds = time.perf_counter() - start
    tokens = len(first.train.tokens) + len(first.heldout.tokens)
    mb = text.stat().st_size / 1e6
    print(f"{mb:.1f} MB, {tokens:,} tokens; {seconds:.1f} s with its vocabulary learned, which the")
    print("figures below are without")
    rates: tuple[Rates, Rates] = {}, {}
    for _ in range(blocks):
        for workers in sorted({1, cores()}):
            config = PrepareConfig(tokenizer=str(first.path / "tokenizer"), workers=workers)
            start = time.perf_counter()
            prepare([str(text)], folder / "store", config, progress=False)
            seconds = time.perf_counter() - start
            shutil.rmtree(folder / "store")
            name = f"{workers}_worker{'s' * (workers > 1)}"
            for values, amount in zip(rates, (mb, tokens)):
                values.setdefault(name, []).append(amount / seconds)
    return rates


def made_up_split(tokens: int, vocab_size: int) -> Split:
    """Random ids: sentences of 25 tokens and documents of 40 sentences in the mean, both skew."""
    random = np.random.default_rng(0)
    sizes = np.maximum(1, random.gamma(2.5, 10, size=tokens // 20).astype(np.int64))
    sentences = np.concatenate([[0], np.cumsum(sizes)])
    sentences = sentences[: np.searchsorted(sentences, tokens)].astype(np.uint64)
    per_document = np.maximum(1, random.lognormal(2.5, 1.6, size=len(sentences)).astype(np.int64))
    documents = np.concatenate([[0], np.cumsum(per_document)])
    documents = documents[documents < len(sentences) - 1]
    documents = np.append(documents, len(sentences) - 1).astype(np.uint64)
    ids = random.integers(5, vocab_size, int(sentences[-1])).astype(np.uint16)
    return Split(ids, sentences, documents)


def facts(vocab_size: int) -> VocabularyFacts:
    """Five special tokens, then pieces of which every fifth goes on with a word."""
    ids = np.arange(vocab_size)
    return VocabularyFacts(
        pad=0, cls=2, sep=3, mask=4, special=ids < 5, continuation=(ids >= 5) & (ids % 5 == 0)
    )


Case = tuple[Callable[[int], object], int, Iterator[int]]  # batch(step), its tokens, the steps


def batch_cases(split: Split, vocab_size: int) -> dict[str, Case]:
    """Lengths and batches, with pieces and with whole words masked."""
    print(f"\n{len(split.tokens):,} tokens in {len(split.documents) - 1:,} documents")
    cases: dict[str, Case] = {}
    for whole_word in (False, True):
        config = InstanceConfig(whole_word=whole_word)
        for length in LENGTHS:
            for batch in BATCHES:
                instances = Instances(split, config, facts(vocab_size), seed=0, batch_size=batch)
                name = f"L{length}_B{batch}" + ("_whole_word" if whole_word else "")
                make = partial(instances.batch, seq_len=length)
                cases[name] = (make, batch * length, count())
    return cases


def measure_batches(cases: Mapping[str, Case], blocks: int, seconds: float) -> Rates:
    """Tokens a second of each case, over blocks of about `seconds`; each step is a new one."""
    rates: Rates = {}
    for _ in range(blocks):
        for name, (make, tokens, steps) in cases.items():
            rates.setdefault(name, []).append(tokens * steps_per_second(make, steps, seconds))
    return rates


def steps_per_second(make: Callable[[int], object], steps: Iterator[int], seconds: float) -> float:
    """How often `make` runs in a second, tried for about `seconds`."""
    done, elapsed, start = 0, 0.0, time.perf_counter()
    while elapsed < seconds:
        make(next(steps))
        done, elapsed = done + 1, time.perf_counter() - start
    return done / elapsed


if __name__ == "__main__":
    main()
