import json
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from odd_text import odd_texts
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, BertTokenizerFast

from mslt.data.tokenizer import (
    SPECIAL,
    WordEncoder,
    build,
    given,
    load,
    read_vocabulary,
    save,
    token_dtype,
)
from mslt.data.vocabulary import sample, train

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "Épée and naïve façade: the Straße of Köln, 中文和日本語, カタカナ.",
    "jumping jumped jumps quickly quicker quickest",
] * 20

letters = "abcdefghijklmnopqrstuvwxyz"
VOCAB = [*SPECIAL, *letters, *(f"##{c}" for c in letters), ".", "the", "##ing", "É", "##é"]


@pytest.fixture(scope="module")
def trained():
    return train([*TEXTS, *odd_texts(300)], 1500)


def vocab_file(folder, lines=VOCAB, name="vocab.txt"):
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def ids_of(encoder, texts):
    data, lengths = encoder(texts)
    ids = np.frombuffer(data, encoder.dtype)
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


def test_special_tokens_have_the_first_ids(trained):
    assert [trained.token_to_id(name) for name in SPECIAL] == [0, 1, 2, 3, 4]


def test_words_of_known_characters_are_never_unknown(trained):
    assert "[UNK]" not in trained.encode("xylophone zzyzx öäü").tokens


def test_the_vocabulary_is_as_large_as_the_text_allows():
    assert train(TEXTS, 100).get_vocab_size() == 100
    small = train(TEXTS, 5000).get_vocab_size()
    assert 100 < small < 5000


def test_the_alphabet_takes_the_most_frequent_characters():
    characters = {piece[-1] for piece in train(["aaaa bbb cc d"] * 3, 200, alphabet=2).get_vocab()}
    assert characters - {"]"} == {"a", "b"}


def test_chinese_characters_are_words_and_have_no_continuation_piece(trained):
    vocab = trained.get_vocab()
    assert "中" in vocab
    assert "##中" not in vocab


@pytest.mark.parametrize(
    ("lowercase", "strip_accents", "tokens"),
    [(True, None, "epee"), (True, False, "épée"), (False, None, "Épée"), (False, True, "Epee")],
)
def test_case_and_accents_are_explicit(lowercase, strip_accents, tokens):
    tokenizer = train(["Épée " * 5], 200, lowercase, strip_accents)
    assert tokenizer.decode(tokenizer.encode("Épée").ids) == tokens


def test_every_process_learns_the_same_vocabulary():
    """The library orders `##x` pieces and breaks ties by a hash that differs between processes."""
    code = """
        import hashlib, random
        from mslt.data.vocabulary import train
        draw = random.Random(0)
        words = ["".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(400)]
        texts = [" ".join(draw.choices(words, k=30)) for _ in range(60)] + ["qrstuvwxyz äöü ☃☂☁"]
        tokenizer = train(texts, 300, alphabet=22)
        print(hashlib.sha256(tokenizer.to_str().encode()).hexdigest())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(4)]
    assert len({run.stdout for run in runs}) == 1


def test_a_sample_is_spread_evenly_and_bounded():
    texts = [f"{i:020}" for i in range(1000)]
    assert sample(texts, 20_000) == texts
    assert sample(texts, 19_999) == texts[::2]
    assert sample(texts, 500) == texts[::64]
    assert sample(["x" * 100], 10) == ["x" * 100]


def test_a_short_text_counts_as_16_characters_which_its_object_takes():
    assert sample(["x"] * 1000, 16_000) == ["x"] * 1000
    assert sample(["x"] * 1000, 15_999) == ["x"] * 500


def test_a_word_of_a_megabyte_is_no_work_for_the_trainer():
    word = "".join(chr(97 + i * i * 7919 % 10007 % 26) for i in range(1_000_000))
    runs = "".join(f"{word[i : i + 60]}." for i in range(0, 100_000, 60))
    assert "alpha" in train([word, runs, "alpha " * 9999], 200).get_vocab()  # not in hours


def test_words_too_many_for_memory_thin_the_sample_out(monkeypatch):
    monkeypatch.setattr("mslt.data.vocabulary._DISTINCT_BYTES", 40)
    texts = ["alpha beta gamma", "delta epsilon zeta", "alpha beta gamma", "eta theta iota kappa"]
    vocab = train(texts * 8, 300).get_vocab()
    assert "alpha" in vocab
    assert "delta" not in vocab


@pytest.mark.parametrize("most_words", [10, 300, 10_000])
@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [None, True, False])
def test_word_by_word_is_what_the_tokenizer_does(lowercase, strip_accents, most_words):
    texts = list(odd_texts(400, seed=most_words))
    tokenizer = train([*TEXTS, *odd_texts(100)], 1000, lowercase, strip_accents)
    encoder = WordEncoder(build(tokenizer.get_vocab(), lowercase, strip_accents), most_words)
    tokenizer.encode_special_tokens = True
    wanted = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    found = [ids for i in range(0, 400, 50) for ids in ids_of(encoder, texts[i : i + 50])]
    assert found == wanted


def test_a_special_token_in_the_text_is_text(trained):
    encoder = WordEncoder(trained, 100)
    ids = ids_of(encoder, ["the [MASK] and [SEP]x [PAD]"])[0]
    assert not set(ids) & {0, 2, 3, 4}


def test_nothing_is_encoded_as_nothing(trained):
    encoder = WordEncoder(trained, 100)
    assert encoder([]) == (b"", [])
    assert encoder(["", "the", " "])[1] == [0, 1, 0]


def test_long_words_are_not_remembered(trained):
    encoder = WordEncoder(trained, 100)
    encoder(["a" * 50 + " " + "b" * 90 + "."])
    assert max(map(len, encoder._known)) == 50


def test_tokens_take_two_bytes_where_that_is_enough():
    assert token_dtype(65536) == np.uint16
    assert token_dtype(65537) == np.uint32


@pytest.mark.parametrize(
    ("lowercase", "strip_accents"), [(True, None), (False, None), (True, False)]
)
def test_transformers_reads_what_is_saved(tmp_path, lowercase, strip_accents):
    tokenizer = train([*TEXTS, *odd_texts(100)], 1000, lowercase, strip_accents)
    save(tokenizer, tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(theirs, BertTokenizerFast)
    assert theirs.is_fast
    assert theirs.model_max_length == 512
    assert (theirs.do_lower_case, theirs.strip_accents) == (lowercase, strip_accents)
    special = (theirs.pad_token, theirs.unk_token, theirs.cls_token, theirs.sep_token)
    assert (*special, theirs.mask_token) == SPECIAL
    assert theirs.all_special_ids == [1, 3, 0, 2, 4]
    for text in odd_texts(200, seed=9):
        assert theirs(text)["input_ids"] == tokenizer.encode(text).ids
    pair = theirs("The fox.", "A dog.")
    assert pair["token_type_ids"] == tokenizer.encode("The fox.", "A dog.").type_ids


def test_vocab_txt_lists_the_pieces_by_id(tmp_path, trained):
    save(trained, tmp_path)
    lines = (tmp_path / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert {piece: i for i, piece in enumerate(lines[:-1])} == trained.get_vocab()
    assert lines[-1] == ""


def test_what_is_saved_is_loaded_the_same(tmp_path, trained):
    save(trained, tmp_path)
    assert load(tmp_path).to_str() == trained.to_str()


def test_read_vocabulary_knows_special_and_continuation_pieces(tmp_path):
    save(given(vocab_file(tmp_path)), tmp_path / "saved")
    facts = read_vocabulary(tmp_path / "saved")
    assert (facts.pad, facts.cls, facts.sep, facts.mask) == (0, 2, 3, 4)
    assert [VOCAB[i] for i in np.flatnonzero(facts.special)] == list(SPECIAL)
    assert [VOCAB[i] for i in np.flatnonzero(facts.continuation)] == [
        piece for piece in VOCAB if piece.startswith("##")
    ]


def test_a_vocab_txt_can_be_given(tmp_path):
    path = vocab_file(tmp_path)
    assert given(path).encode("The Reading.").tokens[1:-1] == [
        *("the", "r", "##e", "##a", "##d", "##ing", ".")
    ]
    assert given(path, lowercase=False).encode("Éé").tokens[1:-1] == ["É", "##é"]


def test_a_vocab_txt_may_have_windows_line_ends_and_a_bom(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(VOCAB).encode())
    assert given(path).get_vocab() == given(vocab_file(tmp_path, name="unix.txt")).get_vocab()


def test_a_hugging_face_folder_can_be_given(tmp_path):
    vocab = vocab_file(tmp_path)
    config = {"do_lower_case": False, "tokenize_chinese_chars": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = given(tmp_path)
    assert tokenizer.normalizer.lowercase is False
    assert tokenizer.normalizer.handle_chinese_chars is False
    BertTokenizerFast(given(vocab).get_vocab()).save_pretrained(tmp_path / "theirs")
    tokenizer = given(tmp_path / "theirs")
    assert tokenizer.normalizer.lowercase is True
    assert tokenizer.get_vocab() == given(vocab).get_vocab()


def test_what_a_given_tokenizer_says_itself_cannot_be_asked_for(tmp_path, trained):
    save(trained, tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        says = f"lowercase has no effect: {tmp_path / 'tokenizer.json'} says it"
        with pytest.raises(ValueError, match=re.escape(says)):
            given(path, lowercase=False)
        with pytest.raises(ValueError, match=r"^strip_accents has no effect"):
            given(path, strip_accents=True)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"^lowercase has no effect: .*tokenizer_config.json says"):
        given(tmp_path, lowercase=True)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert given(tmp_path, strip_accents=True).normalizer.strip_accents is True


def test_a_given_tokenizer_keeps_neither_truncation_nor_padding(tmp_path, trained):
    save(trained, tmp_path)
    copy = load(tmp_path)
    copy.enable_truncation(8)
    copy.enable_padding(length=16)
    copy.save(str(tmp_path / "cut.json"))
    assert given(tmp_path / "cut.json").to_str() == trained.to_str()


def refused(path, says, **how):
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        given(path, **how)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_is_no_bert_is_refused_by_name(tmp_path):
    vocab = {piece: i for i, piece in enumerate(VOCAB)}
    file = tmp_path / "tokenizer.json"
    bert = (normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer())
    for model, (normalizer, pre_tokenizer), says in (
        (models.BPE(), bert, "BPE tokenizer"),
        (models.WordLevel(vocab, unk_token="[UNK]"), bert, "WordLevel tokenizer"),
        (models.WordPiece(vocab, unk_token="[UNK]", continuing_subword_prefix="@@"), bert, "@@"),
        (models.WordPiece(vocab, unk_token="[UNK]"), (normalizers.NFC(), bert[1]), "NFC where"),
        (
            models.WordPiece(vocab, unk_token="[UNK]"),
            (bert[0], pre_tokenizers.Whitespace()),
            "Whitespace",
        ),
        (models.WordPiece({"[PAD]": 0, "a": 1}, unk_token="[UNK]"), bert, "[UNK], [CLS], [SEP]"),
    ):
        tokenizer = Tokenizer(model)
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
        tokenizer.save(str(file))
        refused(file, says)
    tokenizer = build(vocab, True)
    tokenizer.add_tokens(["New York"])
    tokenizer.save(str(file))
    refused(file, "New York")


def test_a_damaged_tokenizer_is_refused_by_name(tmp_path):
    refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "neither tokenizer.json nor vocab.txt")
    for name, content, says in (
        ("torn.json", '{"model": ', "damaged"),
        ("list.json", "[]", "not a JSON object"),
        ("other.json", "{}", "not a tokenizer"),
        ("latin.txt", b"caf\xe9\n", "bad UTF-8"),
        ("short.txt", "[PAD]\n[UNK]\n[CLS]\n", "[SEP], [MASK]"),
        ("twice.txt", "\n".join([*VOCAB, "the"]), f":{len(VOCAB) + 1}: 'the' is there twice"),
    ):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        refused(file, says)


def test_a_missing_saved_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer.json does not exist"):
        load(tmp_path)
