import errno
import gzip
import io
import json
import re
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mslt.data.sources import Reading, Source, find, paragraphs
from mslt.data.text import Repairs

TEXT = "First paragraph.\nSecond one.\n\n\nA second document, naïve 中文.\n"
DOCUMENTS = [["First paragraph.", "Second one."], ["A second document, naïve 中文."]]


def zstd(raw):
    return pa.compress(raw, codec="zstd", asbytes=True)


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def documents(*names, policy="strict", repairs=None, **how):
    reading = Reading(repairs=repairs or Repairs(policy), **how)
    found = [[]]
    for source in find([str(name) for name in names]):
        for text in paragraphs(source, reading):
            if text is None:
                found.append([])
            else:
                found[-1].append(text)
    return [document for document in found if document]


def refused(match, *names, **how):
    with pytest.raises(ValueError, match=match) as caught:
        documents(*names, **how)
    assert "\n" not in str(caught.value)


def jsonl(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_a_blank_line_ends_a_document(tmp_path):
    assert documents(write(tmp_path, "a.txt", TEXT)) == DOCUMENTS


def test_a_line_or_a_file_can_be_a_document(tmp_path):
    path = write(tmp_path, "a.txt", TEXT)
    assert documents(path, documents="line") == [[p] for d in DOCUMENTS for p in d]
    assert documents(path, documents="file") == [[p for d in DOCUMENTS for p in d]]


def test_the_end_of_a_file_ends_a_document(tmp_path):
    a, b = write(tmp_path, "a.txt", "One."), write(tmp_path, "b.txt", "Two.")
    assert documents(a, b) == [["One."], ["Two."]]


def test_windows_line_ends_and_spaced_blank_lines_change_nothing(tmp_path):
    windows = b"\xef\xbb\xbf" + TEXT.replace("\n\n", "\n  \t\n").replace("\n", "\r\n").encode()
    assert documents(write(tmp_path, "a.txt", windows)) == DOCUMENTS


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstd)])
def test_compressed_files_read_the_same(tmp_path, suffix, pack):
    raw = parquet(tmp_path / "p.parquet", text=["One.\nTwo.", "Three."]).read_bytes()
    lines = jsonl({"text": "One.\nTwo."}, {"text": "Three."}).encode()
    assert documents(write(tmp_path, f"a.txt{suffix}", pack(TEXT.encode()))) == DOCUMENTS
    two = pack(TEXT.encode()[:10]) + pack(TEXT.encode()[10:])
    assert documents(write(tmp_path, f"two.txt{suffix}", two)) == DOCUMENTS
    wanted = [["One.", "Two."], ["Three."]]
    assert documents(write(tmp_path, f"a.jsonl{suffix}", pack(lines))) == wanted
    assert documents(write(tmp_path, f"a.parquet{suffix}", pack(raw))) == wanted


def test_a_disk_too_full_to_unpack_to_says_nothing_of_the_text(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mslt.data.sources.tempfile.TemporaryFile", Full)
    raw = parquet(tmp_path / "p.parquet", text=["One."]).read_bytes()
    packed = write(tmp_path, "a.parquet.gz", gzip.compress(raw))
    with pytest.raises(OSError, match="No space left on device"):
        documents(packed, policy="skip")


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstd)])
def test_a_torn_or_damaged_archive_is_an_error_with_its_line(tmp_path, suffix, pack):
    raw = "".join(f"Line number {i * i * 7919 % 10007}.\n" for i in range(100_000)).encode()
    torn = write(tmp_path, f"a.txt{suffix}", pack(raw)[:-9])
    refused(rf"^{torn}:\d+: cannot be read any further: .*skip goes on", torn)
    repairs = Repairs("skip")
    assert len(documents(torn, repairs=repairs)[0]) > 1000
    assert repairs.counts == {"cannot be read any further, dropped": 1}
    (place,) = repairs.first["cannot be read any further, dropped"]
    assert re.fullmatch(rf"{torn}:\d{{4,}}", place)
    refused(r":1: cannot be read any further", write(tmp_path, f"b.txt{suffix}", "no archive"))


def test_a_folder_gives_its_files_sorted_and_deep(tmp_path):
    for name in ("b.txt", "a/z.jsonl", "a/y/x.txt.gz", "notes.md", "a/c.parquet.zst"):
        write(tmp_path, name, "x")
    found = [source.name.removeprefix(f"{tmp_path}/") for source in find([str(tmp_path)])]
    assert found == ["a/c.parquet.zst", "a/y/x.txt.gz", "a/z.jsonl", "b.txt"]


def test_a_tokenizer_in_a_folder_is_no_text(tmp_path):
    write(tmp_path, "model/vocab.txt", "x")
    write(tmp_path, "model/tokenizer.json", "{}")
    refused("holds no .txt", tmp_path)
    write(tmp_path, "words/vocab.txt", "x")
    assert documents(tmp_path) == [["x"]]


def test_sources_know_their_kind_and_size(tmp_path):
    path = write(tmp_path, "a.b.jsonl.gz", "12345")
    assert find([str(path)]) == [Source(str(path), ".jsonl", "gzip", 5)]
    assert find(["pydocs", "hf:x,y"]) == [Source("pydocs", "pydocs"), Source("hf:x,y", "hf")]


def test_a_source_that_is_none_is_named(tmp_path):
    write(tmp_path, "folder/notes.md", "x")
    refused("nowhere.txt does not exist", tmp_path / "nowhere.txt")
    refused(r"notes.md is none of .txt, .jsonl, .parquet", tmp_path / "folder" / "notes.md")
    refused("folder holds no .txt", tmp_path / "folder")
    refused("no source is given")


def test_what_bert_would_glue_is_apart(tmp_path):
    path = write(tmp_path, "a.txt", "one\u0085two\x0bthree\n")
    assert documents(path) == [["one two three"]]


BAD = {
    "bad UTF-8": (b"caf\xe9 noir", ["caf  noir"]),
    "NUL character": (b"caf\0noir", ["caf noir"]),
    "line too long": (b"long line " * 10, ["long line long", "line long line"]),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_lines_are_refused_mended_or_dropped(tmp_path, monkeypatch, what):
    monkeypatch.setattr("mslt.data.text._BLOCK", 16)
    monkeypatch.setattr("mslt.data.text.LINE_BYTES", 15)
    line, mended = BAD[what]
    path = write(tmp_path, "a.txt", b"before\n" + line + b"\nafter\n")
    refused(f"^{path}:2: {what}.*--on_bad_text replace goes on", path)
    repairs = Repairs("skip")
    assert documents(path, repairs=repairs) == [["before", "after"]]
    assert repairs.counts == {f"{what}, dropped": 1}
    found = documents(path, policy="replace")[0]
    assert found[: len(mended) + 1] == ["before", *mended]
    assert found[-1] == "after"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"text": "torn', "torn or damaged JSON"),
        ("[" * 100_000, "torn or damaged JSON"),
        ('["text"]', "no JSON object: list"),
        ('{"body": "x", "id": 1}', "no field 'text': its fields are body, id"),
        ('{"text": null}', "field 'text' is no text: NoneType"),
        ('{"text": 5}', "field 'text' is no text: int"),
        ('{"text": "half \\ud83d of it"}', "half a surrogate pair"),
        ('{"text": "a \\u0000"}', "NUL character"),
    ],
)
def test_bad_records_are_refused_or_dropped(tmp_path, line, what):
    good = jsonl({"text": "good"})
    path = write(tmp_path, "a.jsonl", f"{good}\n{line}\n{good}")
    refused(f"^{path}:3: {what}", path)
    assert documents(path, policy="skip") == [["good"], ["good"]]


def test_another_field_can_hold_the_text(tmp_path):
    path = write(tmp_path, "a.jsonl", jsonl({"body": "One.\n\nTwo.", "text": "no"}))
    assert documents(path, text_field="body") == [["One.", "Two."]]
    path = parquet(tmp_path / "a.parquet", body=["One.\n\nTwo."], n=[1])
    assert documents(path, text_field="body") == [["One.", "Two."]]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_parquet_of_any_kind_of_string_is_read(tmp_path, kind):
    texts = [f"Text {i}.\nMore\0text." if i == 40 else f"Text {i}." for i in range(100)]
    path = parquet(tmp_path / "a.parquet", text=pa.array(texts, kind))
    refused(f"^{path}:41: NUL", path)
    assert documents(path, policy="skip") == [[f"Text {i}."] for i in range(100) if i != 40]
    path = parquet(tmp_path / "d.parquet", text=pa.array(["a", "b", "a"]).dictionary_encode())
    assert documents(path) == [["a"], ["b"], ["a"]]


def test_a_bad_parquet_is_refused_or_dropped(tmp_path):
    good = parquet(tmp_path / "good.parquet", text=["Good."] * 1000)
    bad_utf8 = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0])), pa.py_buffer(b"\xe9")]
    )
    raw = good.read_bytes()
    for path, what in (
        (parquet(tmp_path / "null.parquet", text=["a", None]), ":2: field 'text' is no text: null"),
        (parquet(tmp_path / "int.parquet", text=[1]), ": field 'text' is no text: int64"),
        (parquet(tmp_path / "other.parquet", body=["a"]), ": no field 'text': its fields are body"),
        (parquet(tmp_path / "none.parquet", text=pa.array([], pa.string())), ": empty file"),
        (parquet(tmp_path / "utf8.parquet", text=bad_utf8), ":1: bad UTF-8: 0xe9 at byte 1"),
        (write(tmp_path, "torn.parquet", raw[: len(raw) // 2]), ": damaged .parquet"),
        (write(tmp_path, "zero.parquet", b""), ": damaged .parquet"),
        (write(tmp_path, "no.parquet.gz", b"no archive"), ": cannot be read"),
        (write(tmp_path, "page.parquet", raw[:4] + b"\0" * 30 + raw[34:]), ": cannot be read"),
    ):
        refused(f"^{path}{what}", path)
        found = documents(path, good, policy="skip")
        assert found[-1] == ["Good."]


def test_an_empty_or_unreadable_file_is_refused_or_dropped(tmp_path):
    write(tmp_path, "a.txt", "")
    refused("a.txt: empty file", tmp_path)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    write(tmp_path, "z.txt", "Good.")
    refused("gone.txt: cannot be read: No such file", tmp_path)
    repairs = Repairs("skip")
    assert documents(tmp_path, repairs=repairs) == [["Good."]]
    assert repairs.counts == {"cannot be read, dropped": 1}


def test_a_paragraph_of_a_book_comes_in_parts(tmp_path):
    path = write(
        tmp_path, "a.jsonl", jsonl({"text": "many words " * 300_000}, {"text": "x" * 3**13})
    )
    book, word = documents(path)
    assert " ".join(part.strip() for part in book) == ("many words " * 300_000).strip()
    assert max(map(len, [*book, *word])) <= 1 << 20
    assert "".join(word) == "x" * 3**13


def test_progress_adds_up_to_the_size_of_the_files(tmp_path):
    write(tmp_path, "a.txt", TEXT * 1000)
    write(tmp_path, "b.jsonl.gz", gzip.compress(jsonl({"text": "Some text."}).encode() * 1000))
    parquet(tmp_path / "c.parquet", text=["Some text."] * 1000)
    counts = []
    documents(tmp_path, advance=counts.append)
    assert sum(counts) == sum(path.stat().st_size for path in tmp_path.iterdir())


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    """A folder that `datasets` loads as it loads a repository of the hub."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path, "set/train.jsonl", jsonl({"text": "One.\nTwo."}, {"text": "Three."}))
    write(tmp_path, "set/test.jsonl", jsonl({"text": "Four."}))
    parquet(tmp_path / "p.parquet", body=["Five."])
    write(tmp_path, "tables/train.parquet", (tmp_path / "p.parquet").read_bytes())
    return tmp_path


def test_a_dataset_of_the_hub_is_streamed(local_hub):
    name = f"hf:{local_hub}/set"
    assert documents(name) == [["One.", "Two."], ["Three."]]
    for split in (",test", ",,test", ",default,test"):
        assert documents(name + split) == [["Four."]]
    assert documents(f"hf:{local_hub}/tables", text_field="body") == [["Five."]]


def test_what_the_hub_cannot_give_is_one_line(local_hub):
    name = f"hf:{local_hub}/set"
    refused("set:1: no field 'body': its fields are text", name, text_field="body")
    refused("set,,valid cannot be loaded: .*split", f"{name},,valid")
    refused("set,other,train cannot be loaded: .*other", f"{name},other,train")
    refused("nowhere cannot be loaded", f"hf:{local_hub}/nowhere")
    refused("is not of the form", "hf:")
    refused("is not of the form", "hf:a,b,c,d")


def test_without_the_library_the_hub_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(r"pip install mslt\[hub\]", "hf:wikimedia/wikipedia")
