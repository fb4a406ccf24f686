"""How many tokens a second one core turns into training instances.

    python benchmarks/data.py [--store STORE] [--blocks 5] [--seconds 1]

Without a store it makes up 20 million tokens with sentences and documents of realistic sizes. The
cases take turns, block by block, so that whatever else the machine does falls on all of them; the
figures are medians over the blocks. The last line is one JSON object.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np

from mslt.config import InstanceConfig
from mslt.data.instances import Instances
from mslt.data.masking import VocabularyFacts
from mslt.data.store import Split, TokenStore

LENGTHS, BATCHES = (128, 512), (32, 256)


def synthetic(tokens: int, vocab_size: int) -> Split:
    """Random text: sentences of 25 tokens and documents of 40 sentences in the mean, both skew."""
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


def block(
    make: Callable[[int], object], tokens: int, seconds: float, steps: Iterator[int]
) -> float:
    """Tokens per second over about `seconds`, each step a new one."""
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        make(next(steps))
        done += tokens
    return done / (time.perf_counter() - start)


def main() -> None:
    """Measure every case in turn, and print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", help="a prepared corpus instead of a made-up one")
    parser.add_argument("--blocks", type=int, default=5, help="blocks per case (default 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="per block (default 1)")
    args = parser.parse_args()
    vocab_size = 30_522
    if args.store:
        store = TokenStore.open(args.store)
        split, vocab_size = store.train, store.vocab_size
    else:
        split = synthetic(20_000_000, vocab_size)
    rates: dict[str, list[float]] = {}
    cases = {}
    for whole_word in (False, True):
        for length in LENGTHS:
            for batch in BATCHES:
                config = InstanceConfig(whole_word=whole_word)
                instances = Instances(split, config, facts(vocab_size), seed=0, batch_size=batch)
                name = f"L{length}_B{batch}" + ("_whole_word" if whole_word else "")
                cases[name] = (instances, length, count())
    for _ in range(args.blocks):
        for name, (instances, length, steps) in cases.items():
            rate = block(
                lambda step, i=instances, n=length: i.batch(step, n),
                instances.batch_size * length,
                args.seconds,
                steps,
            )
            rates.setdefault(name, []).append(rate)
    print(f"{len(split.tokens):,} tokens, {len(split.documents) - 1:,} documents, one thread")
    for name, values in rates.items():
        spread = f"{min(values) / 1e6:.1f} to {max(values) / 1e6:.1f}"
        print(f"{name:20} {statistics.median(values) / 1e6:6.1f} M tokens/s  ({spread})")
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    machine = {"python": platform.python_version(), "numpy": np.__version__}
    print(json.dumps({"batch_tokens_per_second": medians, **machine}))


if __name__ == "__main__":
    main()
