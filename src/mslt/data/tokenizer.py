"""BERT's WordPiece tokenizer: built, checked, saved for Hugging Face, and fast over a corpus.

A folder made by `save` is what `transformers.AutoTokenizer` reads, but nothing here imports
transformers: that takes seconds, and a worker process needs the Rust tokenizer alone.
"""

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from string import punctuation

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mslt.data.masking import VocabularyFacts

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PREFIX = "##"
_LONGEST = 64  # characters of a word that is remembered; Chinese or Thai may have no spaces
MAX_LENGTH = 512  # positions that a BERT has; left out, transformers says 1e30


def build(
    vocab: dict[str, int],
    lowercase: bool,
    strip_accents: bool | None = None,
    chinese_chars: bool = True,
) -> Tokenizer:
    """BERT's tokenizer over a vocabulary that knows the special tokens, or is still empty.

    Args:
        vocab: piece to id.
        lowercase: whether case is dropped.
        strip_accents: whether accents are dropped; None follows lowercase.
        chinese_chars: whether each Chinese character is a word.
    """
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese_chars
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=PREFIX)
    if vocab:
        tokenizer.add_special_tokens(list(SPECIAL))
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[(name, vocab[name]) for name in ("[CLS]", "[SEP]")],
        )
    return tokenizer


def given(
    path: str | Path, lowercase: bool | None = None, strip_accents: bool | None = None
) -> Tokenizer:
    """A tokenizer that the user brings.

    Args:
        path: a vocab.txt, a tokenizer.json, or a Hugging Face folder with one of them.
        lowercase: whether case is dropped, where the tokenizer does not say it: a vocab.txt alone.
            None drops it.
        strip_accents: the same for accents; None follows lowercase.

    Raises:
        ValueError: it cannot be read, is no BERT WordPiece tokenizer, or lacks a special token; or
            it says itself what is asked for here.
    """
    path, config = Path(path), {}
    if path.is_dir():
        config = _json(path / "tokenizer_config.json")
        names = [n for n in ("tokenizer.json", "vocab.txt") if (path / n).is_file()]
        if not names:
            raise ValueError(f"{path} has neither tokenizer.json nor vocab.txt")
        path = path / names[0]
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist: a tokenizer is a vocab.txt, tokenizer.json or folder"
        )
    whole = path.suffix == ".json"
    for name, key, wanted in (
        ("lowercase", "do_lower_case", lowercase),
        ("strip_accents", "strip_accents", strip_accents),
    ):
        if wanted is not None and (whole or key in config):
            says = path if whole else path.with_name("tokenizer_config.json")
            raise ValueError(f"{name} has no effect: {says} says it")
    if whole:
        return _from_json(path)
    return build(
        _vocabulary(path),
        config.get("do_lower_case", lowercase is not False),
        config.get("strip_accents", strip_accents),
        config.get("tokenize_chinese_chars", True),
    )


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object")
    return content


def _from_json(path: Path) -> Tokenizer:
    """The same vocabulary and settings in a tokenizer of our own making, truncation left behind."""
    _json(path)  # for its message, which names the line
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise ValueError(f"{path} is not a tokenizer: {error}") from None
    model, normalizer = tokenizer.model, tokenizer.normalizer
    if not isinstance(model, models.WordPiece):
        raise ValueError(f"{path} is a {type(model).__name__} tokenizer; BERT needs WordPiece")
    if model.continuing_subword_prefix != PREFIX:
        raise ValueError(f"{path} continues words by {model.continuing_subword_prefix!r}, not ##")
    for part, wanted in (
        (normalizer, normalizers.BertNormalizer),
        (tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer),
    ):
        if not isinstance(part, wanted):
            raise ValueError(f"{path} has {type(part).__name__} where BERT has {wanted.__name__}")
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    plain = tokenizer.get_vocab(with_added_tokens=False)
    if added := sorted(set(vocab) - set(plain) - set(SPECIAL)):
        raise ValueError(f"{path} adds tokens outside its WordPiece vocabulary: {added[:5]}")
    _check(vocab, path)
    return build(
        vocab, normalizer.lowercase, normalizer.strip_accents, normalizer.handle_chinese_chars
    )


def _vocabulary(path: Path) -> dict[str, int]:
    """A vocab.txt: one piece per line, its id is the line's number from 0."""
    vocab: dict[str, int] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a vocab.txt: bad UTF-8") from None
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines):
        piece = line.rstrip("\r")
        if piece in vocab:
            raise ValueError(f"{path}:{number + 1}: {piece!r} is there twice")
        vocab[piece] = number
    _check(vocab, path)
    return vocab


def _check(vocab: dict[str, int], path: Path) -> None:
    if missing := [name for name in SPECIAL if name not in vocab]:
        raise ValueError(f"{path} lacks the special token {', '.join(missing)}")
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError(f"{path} leaves ids out: {len(vocab)} pieces up to {max(vocab.values())}")


def save(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and vocab.txt, as `AutoTokenizer` wants them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Not by its own save, which raises a bare Exception where the disk is full.
    whole = tokenizer.to_str(pretty=True)
    (folder / "tokenizer.json").write_text(whole, encoding="utf-8", newline="\n")
    vocab = tokenizer.get_vocab()
    lines = "".join(f"{piece}\n" for piece in sorted(vocab, key=vocab.__getitem__))
    (folder / "vocab.txt").write_text(lines, encoding="utf-8", newline="\n")
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    config = {
        "tokenizer_class": "BertTokenizer",
        "model_max_length": MAX_LENGTH,
        "do_lower_case": tokenizer.normalizer.lowercase,
        "strip_accents": tokenizer.normalizer.strip_accents,
        "tokenize_chinese_chars": tokenizer.normalizer.handle_chinese_chars,
        **dict(zip(names, SPECIAL)),
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )


def load(path: str | Path) -> Tokenizer:
    """The tokenizer that `save` wrote to a folder.

    Raises:
        ValueError: it is not there, or damaged.
    """
    path = Path(path) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    return _from_json(path)


def refuse_other(folder: Path, wanted: Path) -> None:
    """Raise ValueError where two folders' tokenizers do not read text alike, saying in what."""
    one, other = load(folder), load(wanted)
    ours, theirs = one.get_vocab(), other.get_vocab()
    advice = f"prepare the text with --tokenizer {wanted}"
    if len(ours) != len(theirs):
        raise ValueError(
            f"{folder} has {len(ours):,} pieces, and the model's tokenizer in {wanted} "
            f"{len(theirs):,}: {advice}"
        )
    if ours != theirs:
        piece = min(piece for piece in theirs if ours.get(piece) != theirs[piece])
        raise ValueError(
            f"{folder} is another tokenizer than the model's in {wanted}, where {piece!r} has the "
            f"id {theirs[piece]}: {advice}"
        )
    for name in ("lowercase", "strip_accents", "handle_chinese_chars"):
        here, there = (getattr(t.normalizer, name) for t in (one, other))
        if here != there:
            raise ValueError(
                f"{folder} has {name} {here}, and the model's tokenizer in {wanted} {there}: "
                f"{advice}"
            )


def read_vocabulary(path: str | Path) -> VocabularyFacts:
    """What training instances need to know of the tokenizer that `save` wrote to a folder.

    Raises:
        ValueError: it is not there, or damaged.
    """
    vocab = load(path).get_vocab()
    special, continuation = np.zeros(len(vocab), bool), np.zeros(len(vocab), bool)
    special[[vocab[name] for name in SPECIAL]] = True
    continuation[[i for piece, i in vocab.items() if piece.startswith(PREFIX)]] = True
    pad, _, cls, sep, mask = (vocab[name] for name in SPECIAL)
    return VocabularyFacts(pad, cls, sep, mask, special, continuation)


class WordEncoder:
    """Sentences to ids, each distinct word tokenized once: several times as fast as each text.

    Exact, because BERT's tokenizer treats the words between spaces one by one. A special token's
    name in the text is text.

    Args:
        tokenizer: what knows the pieces.
        most_words: how many words to remember; then all are forgotten.
    """

    def __init__(self, tokenizer: Tokenizer, most_words: int) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True
        self._model, self._lower = tokenizer.model, tokenizer.normalizer.lowercase
        self.dtype = token_dtype(tokenizer.get_vocab_size())
        self._most_words = most_words
        self._known: dict[str, bytes] = {}

    def __call__(self, sentences: Sequence[str]) -> tuple[bytes, list[int]]:
        """The ids of all sentences back to back, as bytes of `dtype`, and how many each has.

        The sentences hold no control characters: BERT drops some that count as space here.
        """
        encoded = [self._encode_known(sentence) for sentence in sentences]
        new = [i for i, ids in enumerate(encoded) if ids is None]
        learned = self._learn({word for i in new for word in sentences[i].split()})
        for i in new:
            encoded[i] = self._encode_known(sentences[i])
        for word in learned:
            if len(word) > _LONGEST:
                del self._known[word]
        whole = [ids for ids in encoded if ids is not None]
        assert len(whole) == len(sentences)
        return b"".join(whole), [len(ids) // self.dtype.itemsize for ids in whole]

    def _encode_known(self, sentence: str) -> bytes | None:
        """The ids of a sentence, or None where one of its words is not known yet."""
        try:
            return b"".join(map(self._known.__getitem__, sentence.split()))
        except KeyError:
            return None

    def _learn(self, words: set[str]) -> set[str]:
        """Tokenize words, what stands between ASCII punctuation by itself; returns the new keys."""
        unseen = words.difference(self._known)
        if len(self._known) + len(unseen) > self._most_words:
            self._known.clear()
            unseen = words
        cores = {word: word.strip(punctuation) for word in unseen}
        new = list({*cores.values(), *punctuation}.difference(self._known))
        self._known.update(self._tokenized(new))
        for word, core in cores.items():
            if word != core:
                start = word.find(core)
                parts = (*word[:start], core, *word[start + len(core) :])
                self._known[word] = b"".join(map(self._known.__getitem__, parts))
        return {*new, *cores}

    def _tokenized(self, words: Sequence[str]) -> dict[str, bytes]:
        """The ids of each word. Most are plain: for them the normaliser, which takes most of the
        time, would change the case at most.
        """
        plain = [word for word in words if word.isascii() and word.isalnum()]
        odd = list(set(words).difference(plain))
        ids = {
            word: [
                token.id for token in self._model.tokenize(word.lower() if self._lower else word)
            ]
            for word in plain
        }
        encodings = self._tokenizer.encode_batch_fast(odd, add_special_tokens=False)
        ids.update(zip(odd, (encoding.ids for encoding in encodings)))
        return {word: array(self.dtype.char, some).tobytes() for word, some in ids.items()}


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest type of the two in use that holds every id."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
