import hashlib
import json

import numpy as np
import pytest

from mslt.data.store import (
    SplitWriter,
    TokenStore,
    write_manifest,
    write_splits,
    write_unigrams,
)
from mslt.files import appearing

U16 = np.dtype(np.uint16)


def write(folder, documents, dtype=U16, parts=1):
    """Documents are lists of sentences, which are lists of ids; `parts` of them at a time."""
    with SplitWriter(folder) as writer:
        for begin in range(0, len(documents), parts):
            some = documents[begin : begin + parts]
            sentences = [sentence for document in some for sentence in document]
            tokens = np.array([i for sentence in sentences for i in sentence], dtype).tobytes()
            ends = np.cumsum([len(document) for document in some], dtype=np.int64)
            writer.add(tokens, np.array([len(s) for s in sentences], np.uint32), ends)
    return writer


def read(split):
    sentences = [
        split.tokens[int(a) : int(b)].tolist()
        for a, b in zip(split.sentences[:-1], split.sentences[1:])
    ]
    return [sentences[int(a) : int(b)] for a, b in zip(split.documents[:-1], split.documents[1:])]


def numbered(count):
    """Document i has i % 3 + 1 sentences of i % 5 + 1 times the id i."""
    return [[[i] * (i % 5 + 1)] * (i % 3 + 1) for i in range(count)]


def store(path, documents, dtype=U16, heldout=0.1, vocab_size=1000, parts=7):
    with appearing(path) as folder:
        write(folder / "all", documents, dtype, parts)
        counts = write_splits(folder, folder / "all", dtype, heldout)
        write_unigrams(folder, dtype, vocab_size)
        facts = {"vocab_size": vocab_size, "token_dtype": dtype.name, "counts": counts}
        write_manifest(folder, facts)
    return TokenStore.open(path)


@pytest.mark.parametrize("dtype", [U16, np.dtype(np.uint32)])
def test_what_is_written_is_read(tmp_path, dtype):
    documents = numbered(100)
    made = store(tmp_path / "store", documents, dtype)
    train, heldout = read(made.train), read(made.heldout)
    assert [document[0][0] for document in heldout] == list(range(5, 100, 10))
    assert train == [document for i, document in enumerate(documents) if i % 10 != 5]
    assert heldout == [document for i, document in enumerate(documents) if i % 10 == 5]
    assert made.train.tokens.dtype == dtype


def test_the_parts_that_documents_come_in_change_nothing(tmp_path):
    documents = numbered(50)
    first = store(tmp_path / "a", documents, parts=1).manifest
    assert store(tmp_path / "b", documents, parts=50).manifest == first
    with SplitWriter(tmp_path / "c") as writer:  # a sentence at a time
        for document in documents:
            for sentence in document:
                tokens = np.array(sentence, U16).tobytes()
                writer.add(tokens, np.array([len(sentence)]), np.array([], int))
            writer.add(b"", np.array([], np.uint32), np.array([0]))
    write(tmp_path / "d", documents)
    for name in ("tokens", "sentences", "documents"):
        ours, theirs = (tmp_path / f / f"{name}.bin" for f in "cd")
        assert ours.read_bytes() == theirs.read_bytes()


def test_documents_without_sentences_are_dropped(tmp_path):
    documents = [[], [[1]], [], [], [[2], [3]], [[4]], [], [[5]], []]
    for parts in (1, 2, 9):
        made = store(tmp_path / f"store{parts}", documents, parts=parts)
        assert read(made.train) == [[[1]], [[4]]]
        assert read(made.heldout) == [[[2], [3]], [[5]]]


@pytest.mark.parametrize("heldout", [1e-9, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("count", [4, 5, 101])
def test_both_sides_have_at_least_two_documents(tmp_path, count, heldout):
    made = store(tmp_path / "store", numbered(count), heldout=heldout)
    sides = [made.manifest["counts"][name]["documents"] for name in ("train", "heldout")]
    assert sum(sides) == count
    assert min(sides) >= 2
    if count == 101 and heldout >= 0.01:
        assert sides[1] == pytest.approx(max(2, heldout * 101), abs=1.5)


def test_fewer_than_four_documents_are_refused_with_the_reason(tmp_path):
    with pytest.raises(
        ValueError, match=r"too few documents .* 3 where 4 .*blank line.*--documents line"
    ):
        store(tmp_path / "store", [*numbered(3), []])
    assert list(tmp_path.iterdir()) == []


def test_unigrams_count_the_training_text(tmp_path, monkeypatch):
    monkeypatch.setattr("mslt.data.store._TOKENS", 10)
    monkeypatch.setattr("mslt.data.store._SENTENCES", 3)
    made = store(tmp_path / "store", numbered(60))
    assert made.unigrams.dtype == np.uint64
    assert made.unigrams.tolist() == np.bincount(made.train.tokens, minlength=1000).tolist()


def test_the_manifest_counts_and_hashes(tmp_path):
    made = store(tmp_path / "store", numbered(40))
    for split in ("train", "heldout"):
        documents = read(getattr(made, split))
        assert made.manifest["counts"][split] == {
            "documents": len(documents),
            "sentences": sum(map(len, documents)),
            "tokens": sum(len(s) for d in documents for s in d),
        }
    names = [
        f"{s}/{n}.bin" for s in ("train", "heldout") for n in ("tokens", "sentences", "documents")
    ]
    assert set(made.manifest["files"]) == {*names, "unigrams.bin"}
    for name, entry in made.manifest["files"].items():
        raw = (made.path / name).read_bytes()
        assert entry == {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


def test_a_damaged_store_is_refused(tmp_path):
    path = store(tmp_path / "store", numbered(10)).path
    with pytest.raises(ValueError, match="is not a token store"):
        TokenStore.open(tmp_path)
    tokens = path / "train" / "tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"train/tokens.bin is damaged: \d+ bytes, not \d+"):
        TokenStore.open(path)
    tokens.unlink()
    with pytest.raises(ValueError, match=r"train/tokens.bin is damaged"):
        TokenStore.open(path)
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="not a token store of format 1"):
        TokenStore.open(path)
    manifest.write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        TokenStore.open(path)


@pytest.fixture
def blocks(monkeypatch):
    """Files have a hash for each kilobyte."""
    monkeypatch.setattr("mslt.data.store.BLOCK", 1000)


def test_every_byte_of_a_store_is_compared_where_that_is_asked_for(tmp_path, blocks):
    made = store(tmp_path / "store", numbered(300))
    assert made.verify(None) == made.bytes == sum(f.stat().st_size for f in files(made))
    for file in files(made):
        before = file.read_bytes()
        for place in (0, len(before) // 2, len(before) - 1):
            damaged = bytearray(before)
            damaged[place] ^= 1
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match=f"^{file} is damaged: its SHA-256"):
                TokenStore.open(made.path).verify(None)
        file.write_bytes(before)


def files(made):
    return [p for p in made.path.rglob("*") if p.is_file() and p.name != "manifest.json"]


def test_a_sample_holds_all_small_files_and_in_time_every_block_of_the_large(tmp_path, blocks):
    made = store(tmp_path / "store", numbered(600))
    entries = made.manifest["files"]
    small = {name for name, entry in entries.items() if entry["bytes"] <= 1000}
    assert small
    assert len(entries) - len(small) >= 4
    assert all(("blocks" in entries[name]) == (name not in small) for name in entries)
    assert made.verify(10**6) == made.bytes
    least = sum(entries[name]["bytes"] for name in small)
    assert least < made.verify(0) <= least + 1000
    assert made.verify(3999) <= least + 3000
    for name in entries:
        file = made.path / name
        before = file.read_bytes()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        found, starts = False, 0
        while not found:
            starts += 1
            try:
                made.verify(3000)
            except ValueError as error:
                assert str(error).startswith(f"{file} is damaged: ")  # noqa: PT017
                found = True
        assert starts == 1 or name not in small
        file.write_bytes(before)


def test_a_store_is_read_only(tmp_path):
    made = store(tmp_path / "store", numbered(40))
    for split in (made.train, made.heldout):
        for array in (split.tokens, split.sentences, split.documents, made.unigrams):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        *((("vocab_size",), "it has no vocab_size"), (("token_dtype",), "it has no token_dtype")),
        *((("counts",), "it has no counts"), (("files",), "it has no files")),
        (("files", "unigrams.bin"), "its files do not include unigrams.bin"),
        (("files", "train/tokens.bin"), "its files do not include train/tokens.bin"),
        (("files", "unigrams.bin", "bytes"), "it lacks the size or the hash of unigrams.bin"),
        (("files", "unigrams.bin", "sha256"), "it lacks the size or the hash of unigrams.bin"),
    ],
)
def test_a_manifest_that_lacks_something_is_damaged(tmp_path, keys, says):
    file = store(tmp_path / "store", numbered(10)).path / "manifest.json"
    manifest = json.loads(file.read_text())
    *outer, last = keys
    node = manifest
    for key in outer:
        node = node[key]
    del node[last]
    file.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=f"^{file} is damaged: {says}$"):
        TokenStore.open(file.parent)


@pytest.mark.parametrize("hashes", [None, 3, [], ["0" * 64] * 9, {}])
def test_a_manifest_without_the_hash_of_every_block_is_damaged(tmp_path, blocks, hashes):
    file = store(tmp_path / "store", numbered(300)).path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"]["train/tokens.bin"]["blocks"] = hashes
    file.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="it lacks the hash of a block of train/tokens"):
        TokenStore.open(file.parent)


def test_a_manifest_of_another_type_of_token_is_damaged(tmp_path):
    file = store(tmp_path / "store", numbered(10)).path / "manifest.json"
    file.write_text(file.read_text().replace('"uint16"', '"object"'))
    with pytest.raises(ValueError, match="is damaged: token_dtype is 'object'"):
        TokenStore.open(file.parent)
