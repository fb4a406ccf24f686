import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from itertools import pairwise

import numpy as np
import pytest
from odd_text import odd_texts

from mslt.data import prepare as prepare_module
from mslt.data import workers
from mslt.data.prepare import PrepareConfig, prepare
from mslt.data.sentences import sentences
from mslt.data.sources import Reading, Source
from mslt.data.store import TokenStore
from mslt.data.tokenizer import SPECIAL, load, read_vocabulary

CONFIG = PrepareConfig(vocab_size=400, heldout=0.2, workers=1)
WORDS = (
    "the",
    "of",
    "and",
    "a",
    "in",
    "river",
    "city",
    "engine",
    "people",
    "small",
    "was",
    "built",
)


def corpus(count=60, seed=0):
    """Documents of plain sentences, so that no cleaning changes them."""
    draw = np.random.default_rng(seed)
    return [
        [
            " ".join(draw.choice(WORDS, draw.integers(3, 9))).capitalize() + "."
            for _ in range(draw.integers(1, 6))
        ]
        for _ in range(count)
    ]


def write(path, documents):
    path.write_text("\n\n".join("\n".join(d) for d in documents) + "\n", encoding="utf-8")
    return str(path)


def decoded(store):
    """Each split as documents of sentences of text."""
    tokenizer = load(store.path / "tokenizer")
    found = []
    for split in (store.train, store.heldout):
        offsets = split.sentences.astype(int)
        texts = [tokenizer.decode(split.tokens[a:b].tolist()) for a, b in pairwise(offsets)]
        ends = split.documents.astype(int)
        found.append([texts[a:b] for a, b in pairwise(ends)])
    return found


def files(store, manifest=False):
    """The store's content; its manifest names the sources."""
    return {
        path.relative_to(store.path): path.read_bytes()
        for path in store.path.rglob("*")
        if path.is_file() and (manifest or path.name != "manifest.json")
    }


def test_the_store_holds_the_text(tmp_path):
    documents = corpus()
    store = prepare([write(tmp_path / "a.txt", documents)], tmp_path / "store", CONFIG, False)
    train, heldout = decoded(store)
    lower = [[sentence.lower().replace(".", " .").strip() for sentence in d] for d in documents]
    lower = [[s.replace(" .", ".") for s in d] for d in lower]
    assert train == [d for i, d in enumerate(lower) if i % 5 != 2]
    assert heldout == [d for i, d in enumerate(lower) if i % 5 == 2]


def test_the_manifest_says_what_was_done(tmp_path):
    path = write(tmp_path / "a.txt", corpus())
    store = prepare([path], tmp_path / "store", CONFIG, False)
    facts = json.loads((store.path / "manifest.json").read_text())
    assert facts["vocab_size"] == len(read_vocabulary(store.path / "tokenizer").special) <= 400
    assert facts["token_dtype"] == "uint16"
    assert facts["special_ids"] == {name: i for i, name in enumerate(SPECIAL)}
    options = facts["options"]
    assert options["heldout"] == 0.2
    assert [options[name] for name in ("vocab_size", "alphabet")] == [400, 10_000]
    assert [options[name] for name in ("lowercase", "strip_accents")] == [True, True]
    assert facts["repairs"] == {}
    assert facts["sources"][0]["name"] == path
    assert facts["sources"][0]["bytes"] == os.path.getsize(path)
    assert len(facts["sources"][0]["sha256"]) == 64
    assert facts["counts"]["train"]["tokens"] == len(store.train.tokens)
    assert facts["counts"]["heldout"]["documents"] == 12
    assert {"tokenizer/tokenizer.json", "tokenizer/vocab.txt"} <= set(facts["files"])
    assert set(facts["versions"]) >= {"mslt", "python", "tokenizers"}


def test_no_special_token_but_unk_is_stored(tmp_path):
    texts = ["The [MASK] is [SEP] here [PAD] and [CLS]. 𝕏"] * 8 + list(odd_texts(50))
    store = prepare(
        [write(tmp_path / "a.txt", [[t.replace("\n", " ")] for t in texts])],
        tmp_path / "store",
        PrepareConfig(vocab_size=300, on_bad_text="replace", workers=1),
        False,
    )
    tokens = np.concatenate([store.train.tokens, store.heldout.tokens])
    assert not np.isin(tokens, [0, 2, 3, 4]).any()


@pytest.fixture
def small_chunks(monkeypatch):
    """Many chunks from little text. (Workers get it by way of the chunks.)"""
    monkeypatch.setattr(prepare_module, "_CHUNK", 300)


def test_any_number_of_workers_makes_the_same_store(tmp_path, small_chunks):
    path = write(tmp_path / "a.txt", [*corpus(150), *[[text] for text in odd_texts(50)]])
    stores = [
        prepare([path], tmp_path / f"{n}", PrepareConfig(vocab_size=400, workers=n), False)
        for n in (1, 2, 3)
    ]
    assert files(stores[0], True) == files(stores[1], True) == files(stores[2], True)


def test_how_the_text_is_stored_changes_nothing(tmp_path, small_chunks):
    documents = corpus()
    write(tmp_path / "a.txt", documents)
    (tmp_path / "b.jsonl").write_text(
        "".join(json.dumps({"text": "\n".join(d), "id": i}) + "\n" for i, d in enumerate(documents))
    )
    (tmp_path / "c").mkdir()
    for i, document in enumerate(documents):
        write(tmp_path / "c" / f"{i:03}.txt", [document])
    stores = [
        prepare([str(tmp_path / name)], tmp_path / f"store-{name}", CONFIG, False)
        for name in ("a.txt", "b.jsonl", "c")
    ]
    assert files(stores[0]) == files(stores[1]) == files(stores[2])


def test_a_document_larger_than_a_chunk_stays_one(tmp_path, small_chunks):
    documents = [["It goes on. " * 200], *corpus(10)]
    store = prepare([write(tmp_path / "a.txt", documents)], tmp_path / "store", CONFIG, False)
    assert len(decoded(store)[0][0]) == 200


def test_sentences_and_documents_without_pieces_are_dropped(tmp_path):
    documents = [["\u200d"], *corpus(6), ["\u00ad\u200c", "\u2060"], ["Word. \u200d! Word."]]
    store = prepare([write(tmp_path / "a.txt", documents)], tmp_path / "store", CONFIG, False)
    assert sum(map(len, decoded(store))) == 7
    for split in (store.train, store.heldout):
        assert (np.diff(split.sentences.astype(int)) > 0).all()
        assert (np.diff(split.documents.astype(int)) > 0).all()


def test_a_given_tokenizer_is_kept_as_it_is(tmp_path):
    path = write(tmp_path / "a.txt", corpus())
    first = prepare([path], tmp_path / "first", CONFIG, False)
    config = PrepareConfig(tokenizer=str(first.path / "tokenizer"), heldout=0.2, workers=1)
    second = prepare([path], tmp_path / "second", config, False)
    assert files(first) == files(second)
    (tmp_path / "vocab.txt").write_bytes((first.path / "tokenizer" / "vocab.txt").read_bytes())
    config = PrepareConfig(tokenizer=str(tmp_path / "vocab.txt"), heldout=0.2, workers=1)
    assert files(prepare([path], tmp_path / "third", config, False)) == files(first)


def test_a_large_vocabulary_takes_four_bytes_a_token(tmp_path):
    words = [f"w{i}" for i in range(70_000)]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *words]))
    path = write(tmp_path / "a.txt", [[f"w{i} w69999"] for i in range(8)])
    config = PrepareConfig(tokenizer=str(tmp_path / "vocab.txt"), workers=1)
    store = prepare([path], tmp_path / "store", config, False)
    assert store.train.tokens.dtype == np.uint32
    assert store.train.tokens.max() == 70_004


def test_chinese_keeps_its_characters(tmp_path):
    draw = np.random.default_rng(0)
    characters = [chr(0x4E00 + i) for i in range(3000)]
    documents = [["".join(draw.choice(characters, 200)) + "。"] for _ in range(300)]
    config = PrepareConfig(vocab_size=8000, workers=1)
    store = prepare([write(tmp_path / "a.txt", documents)], tmp_path / "store", config, False)
    assert set(characters) <= set(load(store.path / "tokenizer").get_vocab())
    assert store.unigrams[1] == 0


REPAIRS = b"good text here\n\nbad \xff text\n\nnul \0 text\n\nU+0085 \xc2\x85 text\n\nmore text\n"


def test_repairs_are_counted_and_told(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_bytes(REPAIRS)
    config = PrepareConfig(vocab_size=100, on_bad_text="replace", workers=1)
    store = prepare([str(path)], tmp_path / "store", config)
    assert store.manifest["repairs"] == {
        "NUL character, made a space": {"count": 1, "first": [f"{path}:5"]},
        "bad UTF-8, bad bytes made spaces": {"count": 1, "first": [f"{path}:3"]},
        "control character, made a space": {"count": 2, "first": [f"{path}:3", f"{path}:7"]},
    }
    assert store.manifest["counts"]["train"]["documents"] == 3
    printed = capsys.readouterr().out
    assert f"bad text: 1 x NUL character, made a space, first at {path}:5\n" in printed
    assert "tokens/s" in printed


def refused(match, tmp_path, *sources, config=CONFIG):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=match) as caught:
        prepare(list(map(str, sources)), tmp_path / "store", config, False)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("tokenizer", [False, True])
def test_bad_text_stops_with_its_place_and_leaves_nothing(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_bytes(REPAIRS)
    config = CONFIG
    if tokenizer:
        (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "a", "##b"]))
        config = PrepareConfig(tokenizer=str(tmp_path / "vocab.txt"), workers=1)
    refused(r"a.txt:3: bad UTF-8: 0xff at byte 5", tmp_path, tmp_path / "a.txt", config=config)


def test_text_that_is_too_little_is_refused(tmp_path):
    blank, three = tmp_path / "blank.txt", tmp_path / "three.txt"
    blank.write_text("\n \n\n")
    refused("there is no text in .*blank.txt", tmp_path, blank)
    write(three, corpus(3))
    refused(r"too few documents have words in them, 3 where 4", tmp_path, three)
    refused("does not exist", tmp_path, tmp_path / "nowhere.txt")


def test_an_existing_store_is_refused_before_any_work(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", corpus())
    (tmp_path / "store").mkdir()
    write(tmp_path / "store" / "mine.txt", [])
    monkeypatch.setattr(prepare_module, "_tokenizer", lambda *_: pytest.fail("work was done"))
    refused("store exists: choose another --out", tmp_path, path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("vocab_size", 99), ("alphabet", 0), ("workers", -1), ("heldout", 0.0), ("heldout", 1.0)),
        *(("documents", "page"), ("on_bad_text", "ignore")),
    ],
)
def test_a_wrong_option_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*not '?{value}"):
        PrepareConfig(**{name: value})


@pytest.mark.parametrize("name", ["vocab_size", "alphabet"])
def test_a_given_tokenizer_learns_nothing_and_takes_no_option_for_it(name):
    with pytest.raises(ValueError, match=f"^{name} has no effect beside tokenizer"):
        PrepareConfig(tokenizer="vocab.txt", **{name: 1000})


def test_the_manifest_says_how_a_given_tokenizer_spells(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS, "."]))
    config = PrepareConfig(tokenizer=str(tmp_path / "vocab.txt"), lowercase=False, workers=1)
    path = write(tmp_path / "a.txt", corpus())
    options = prepare([path], tmp_path / "store", config, False).manifest["options"]
    assert [options[name] for name in ("lowercase", "strip_accents")] == [False, False]
    assert [options[name] for name in ("vocab_size", "alphabet")] == [None, None]


def test_ctrl_c_leaves_nothing_and_ends_the_workers(tmp_path):
    (tmp_path / "text").mkdir()
    path = write(tmp_path / "text" / "0.txt", corpus(20_000))
    for number in range(1, 50):
        os.link(path, tmp_path / "text" / f"{number}.txt")
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS, "."]))
    code = f"""
        import signal
        from mslt.data import prepare, workers
        prepare._CHUNK = 1000
        # What a shell has put into the background ignores it from birth, and so would we.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if __name__ == "__main__":
            config = prepare.PrepareConfig(tokenizer={str(tmp_path / "vocab.txt")!r}, workers=2)
            print("begin", flush=True)
            prepare.prepare([{str(tmp_path / "text")!r}], {str(tmp_path / "store")!r}, config)
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begin\n"
    tokens = tmp_path / ".store.tmp" / "text" / "tokens.bin"
    while process.poll() is None and not (tokens.exists() and tokens.stat().st_size):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (1, -signal.SIGINT)
    assert errors.count("Traceback") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py", "text", "vocab.txt"]


def test_a_long_line_takes_little_memory(tmp_path):
    """A line of 300 MB from an archive of 8 MB, cut up and dropped."""
    code = """
        import gzip, os, re, sys
        from pathlib import Path
        from mslt.data.prepare import PrepareConfig, prepare
        folder = Path(sys.argv[1])
        with gzip.open(folder / "a.txt.gz", "wb", compresslevel=1) as file:
            file.write(b"Some text.\\n\\n" * 4)
            for _ in range(300):
                file.write(b"many words " * 91_000 + os.urandom(20_000).hex().encode())
        try:
            prepare([str(folder / "a.txt.gz")], folder / "store")
        except ValueError as error:
            print(error)
        config = PrepareConfig(vocab_size=100, on_bad_text="skip", workers=1)
        prepare([str(folder / "a.txt.gz")], folder / "store", config, False)
        # Not ru_maxrss, which begins at the memory of the process that started this one.
        peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
        print(int(peak[1]) // 1024)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    error, megabytes = done.stdout.splitlines()
    assert "a.txt.gz:9: line too long: more than 16 MB" in error
    assert int(megabytes) < 500


def test_workers_and_parent_use_no_torch(tmp_path):
    code = "import sys, mslt.data.prepare; print('torch' in sys.modules, 'pyarrow' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False False\n"


def test_a_worker_that_dies_is_reported(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", corpus(200))
    store = prepare([path], tmp_path / "first", CONFIG, False)
    with pytest.raises(OSError, match="a worker process died"):
        list(workers.encoded([["Some text."]] * 100, store.path / "nowhere", 2))


def test_sentences_are_those_of_the_segmenter(tmp_path):
    texts = ["Mr. Smith went home. He slept! Did he? Yes."] * 8
    path = write(tmp_path / "a.txt", [[text] for text in texts])
    store = prepare([path], tmp_path / "store", PrepareConfig(vocab_size=100, workers=1), False)
    assert [len(document) for document in decoded(store)[0]] == [len(sentences(texts[0]))] * 6


def test_a_store_opens_where_it_is_moved(tmp_path):
    path = write(tmp_path / "a.txt", corpus())
    store = prepare([path], tmp_path / "new" / "folder" / "store", CONFIG, False)
    store.path.rename(tmp_path / "moved")
    assert len(TokenStore.open(tmp_path / "moved").train.tokens) == len(store.train.tokens)


def test_of_the_hub_only_the_beginning_is_read_twice(monkeypatch):
    monkeypatch.setattr(prepare_module.vocabulary, "SAMPLE_CHARACTERS", 10)
    monkeypatch.setattr(prepare_module, "paragraphs", lambda *_: iter(["four", None] * 9))
    read = prepare_module._for_vocabulary
    assert list(read(Source("hf:x", "hf"), Reading())) == ["four"] * 3
    assert list(read(Source("x.txt", ".txt"), Reading())) == ["four"] * 9
