"""A WordPiece vocabulary, learned by the tokenizers library from a sample held in memory."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Tokenizer, trainers

from mslt.data.tokenizer import PREFIX, SPECIAL, build

SAMPLE_CHARACTERS = 50_000_000
_SHORTEST = 16  # characters that a text counts at least: as an object it takes memory anyway
_RAREST = 1e-7  # a character that makes up less of the sample is left to [UNK]
_DISTINCT_BYTES = 5_000_000  # of distinct words; the trainer takes about 100 bytes for each
_LETTER = "[^\\W\u3400-\u9fff\uf900-\ufaff]"  # a Chinese character is its own word
_WORD = re.compile(f"{_LETTER}+")
# A word of more than 100 characters is [UNK] whatever is learned from it, and the trainer takes the
# square of a word's length in time. What may be several words to it is cut up instead.
_NO_WORD = re.compile(f"{_LETTER}{{101,}}")
_LONG = re.compile(r"\S{100}")


def sample(texts: Iterable[str], most: int = SAMPLE_CHARACTERS) -> list[str]:
    """Every n-th text, with the n (a power of two) that keeps at most `most` characters.

    A text of less than 16 counts as 16.
    """
    kept: list[str] = []
    size, every = 0, 1
    for i, text in enumerate(texts):
        if i % every:
            continue
        kept.append(text)
        size += max(len(text), _SHORTEST)
        while size > most and len(kept) > 1:
            kept = kept[::2]
            size = sum(max(len(text), _SHORTEST) for text in kept)
            every *= 2
    return kept


def train(
    texts: Sequence[str],
    vocab_size: int,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    alphabet: int = 10_000,
) -> Tokenizer:
    """Learn a vocabulary. The same texts give the same one, which the library alone does not.

    It numbers the `##x` pieces, and with them breaks ties between merges, in the order of a hash
    map that is seeded anew in each process. So the characters are counted here, and their
    continuation pieces are given ids beforehand, as if they were special tokens.

    Args:
        texts: what to learn from; they are thinned out evenly where their distinct words would
            take too much memory.
        vocab_size: most pieces; text of few words yields fewer.
        lowercase: whether case is dropped.
        strip_accents: whether accents are dropped; None follows lowercase.
        alphabet: most distinct characters. With their `##` forms they take at most half of the
            vocabulary, and those below one in ten million are left out.
    """
    texts = [_LONG.sub(r"\g<0> ", _NO_WORD.sub(" ", text)) for text in texts]
    while len(texts) > 1 and _too_many_words(texts):
        texts = texts[::2]
    tokenizer = build({}, lowercase, strip_accents)
    characters, inner = _alphabet(texts, tokenizer, alphabet, vocab_size // 2)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*SPECIAL, *(PREFIX + character for character in inner)],
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return build(tokenizer.get_vocab(), lowercase, strip_accents)


def _too_many_words(texts: Iterable[str]) -> bool:
    seen: set[str] = set()
    size = 0
    for text in texts:
        new = set(_WORD.findall(text)) - seen
        seen |= new
        size += sum(len(word.encode()) for word in new)
        if size > _DISTINCT_BYTES:
            return True
    return False


def _alphabet(
    texts: Iterable[str], tokenizer: Tokenizer, most: int, most_pieces: int
) -> tuple[list[str], list[str]]:
    """The characters that get a piece, and those of them that also get one inside words."""
    counts = _characters(texts, tokenizer)
    rarest = counts.total() * _RAREST
    characters: list[str] = []
    inner: list[str] = []
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        pieces = len(SPECIAL) + len(characters) + len(inner)
        if count < rarest or len(characters) == most or pieces + 2 > most_pieces:
            break
        characters.append(character)
        after_a_letter = tokenizer.normalizer.normalize_str("a" + character)
        if len(tokenizer.pre_tokenizer.pre_tokenize_str(after_a_letter)) == 1:
            inner.append(character)
    return sorted(characters), sorted(inner)


def _characters(texts: Iterable[str], tokenizer: Tokenizer) -> Counter[str]:
    """How often each character occurs once the text is normalised."""
    raw: Counter[int] = Counter()
    block: list[str] = []
    for text in (*texts, ""):
        block.append(text)
        if len(block) == 10_000 or not text:
            codes = np.frombuffer("".join(block).encode("utf-32-le"), np.uint32)
            found, times = np.unique(codes, return_counts=True)
            raw.update(dict(zip(found.tolist(), times.tolist())))
            block = []
    counts: Counter[str] = Counter()
    for code, count in raw.items():
        for character in tokenizer.normalizer.normalize_str(chr(code)):
            counts[character] += count
    del counts[" "]
    return counts
