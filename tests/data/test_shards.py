"""Shards, wherever they meet, merge into the store of one machine; what does not fit is refused."""

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mslt.cli import main
from mslt.data import shards
from mslt.data.prepare import PrepareConfig, prepare
from mslt.data.shards import merge, parse, prepare_shard, share
from mslt.data.sources import Source
from mslt.data.store import TokenStore
from mslt.data.tokenizer import SPECIAL

WORDS = ["the", "of", "and", "a", "in", "river", "city", "engine", "people", "small", "é", "中"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """What takes most of the time here, and none of the content."""
    monkeypatch.setattr("mslt.files.flush", lambda _: None)


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS, ".", "!", "##s"]))
    return str(tmp_path / "vocab.txt")


@pytest.fixture
def small_parts(monkeypatch):
    """Files are divided every 64 bytes, and read by 50; a line of 200 is too long."""
    monkeypatch.setattr("mslt.data.shards.PART", 64)
    monkeypatch.setattr("mslt.data.text._BLOCK", 50)
    monkeypatch.setattr("mslt.data.text.LINE_BYTES", 200)
    monkeypatch.setattr("mslt.data.prepare._CHUNK", 300)


def lines(count, seed):
    """Sentences, blank lines in runs and alone, bad bytes, lines that are too long."""
    draw = random.Random(seed)
    kinds = {
        b"": 3,
        b"  \t": 1,
        b"bad \xff byte\x01.": 1,
        b"nul \0 here.": 1,
        b"small " * 40: 1,
        None: 12,
    }
    for _ in range(count):
        (kind,) = draw.choices(list(kinds), list(kinds.values()))
        text = f"{' '.join(draw.choices(WORDS, k=draw.randint(1, 9)))}.".encode()
        yield (text if kind is None else kind) + draw.choice([b"\n", b"\n", b"\r\n"])


def text(count=150, seed=0, end=b"The end"):
    return b"".join(lines(count, seed)) + end


def write_sources(folder):
    """A file of each kind."""
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbf" + text())
    (folder / "b.txt.gz").write_bytes(gzip.compress(text(40, 1), mtime=0))
    records = [{"text": f"A small city. {word}.\nThe river."} for word in WORDS * 3]
    torn = [json.dumps(record) for record in records]
    torn[7] = torn[7][:-5]
    (folder / "c.jsonl").write_text("\n".join(torn), encoding="utf-8")
    pq.write_table(pa.table({"text": ["The engine was built."] * 9}), folder / "d.parquet")
    (folder / "e.txt").write_bytes(b"")
    (folder / "f.txt").write_bytes(text(60, 2, end=b"\n"))
    (folder / "g.txt").write_bytes("\ufeffno text at all\n".encode("utf-16-le") * 20)
    (folder / "h.txt").symlink_to("nowhere")
    return str(folder)


def contents(path):
    return {p.relative_to(path): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}


def sharded(sources, folder, count, config):
    folders = [folder / f"{index}" for index in range(1, count + 1)]
    for index, path in enumerate(folders, 1):
        prepare_shard(sources, path, index, count, config, progress=False)
    return folders


@pytest.mark.parametrize(
    ("count", "learned"), [(1, True), (2, False), (3, True), (5, False), (20, False)]
)
def test_shards_merge_into_the_store_of_one_machine(
    tmp_path, small_parts, tokenizer, count, learned
):
    sources = [write_sources(tmp_path / "text"), str(tmp_path / "again.txt")]
    shutil.copyfile(tmp_path / "text" / "a.txt", tmp_path / "again.txt")
    how = {"vocab_size": 150} if learned else {"tokenizer": tokenizer}
    config = PrepareConfig(on_bad_text="replace", heldout=0.2, workers=1, **how)
    store = prepare(sources, tmp_path / "store", config, progress=False)
    folders = sharded(sources, tmp_path / "shards", count, config)
    merged = merge(folders[::-1], tmp_path / "merged", progress=False)
    assert contents(merged.path) == contents(store.path)
    assert len(store.manifest["repairs"]) == 8
    assert {source["sha256"] is None for source in store.manifest["sources"]} == {True, False}


@pytest.mark.parametrize(
    ("documents", "policy"), [("blank_line", "replace"), ("line", "replace"), ("file", "skip")]
)
def test_it_does_not_matter_where_files_are_divided(
    tmp_path, small_parts, monkeypatch, tokenizer, documents, policy
):
    sources = []
    for i in range(4):
        path = tmp_path / f"{i}.txt"
        path.write_bytes(text(12, seed=i, end=[b"", b"\n\n", b"The end", b"The end\n"][i]))
        sources.append(str(path))
    config = PrepareConfig(tokenizer, documents=documents, on_bad_text=policy, workers=1)
    store = prepare(sources, tmp_path / "store", config, progress=False)
    for part in (1, 37):
        monkeypatch.setattr("mslt.data.shards.PART", part)
        folders = sharded(sources, tmp_path / f"{part}", 7, config)
        merged = merge(folders, tmp_path / f"merged-{part}", progress=False)
        assert contents(merged.path) == contents(store.path)


def test_there_may_be_more_shards_than_there_is_text(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_bytes(b"\n\nThe river.\n\n" * 4)
    config = PrepareConfig(tokenizer, workers=1)
    store = prepare([str(tmp_path / "a.txt")], tmp_path / "store", config, progress=False)
    folders = sharded([str(tmp_path / "a.txt")], tmp_path / "shards", 5, config)
    assert sum((folder / "text" / "tokens.bin").stat().st_size > 0 for folder in folders) == 1
    merged = merge(folders, tmp_path / "merged", progress=False)
    assert contents(merged.path) == contents(store.path)


def test_the_number_of_workers_may_differ(tmp_path, tokenizer, small_parts):
    (tmp_path / "a.txt").write_bytes(text())
    sources, how = [str(tmp_path / "a.txt")], {"tokenizer": tokenizer, "on_bad_text": "skip"}
    store = prepare(sources, tmp_path / "store", PrepareConfig(**how, workers=1), progress=False)
    for index in (1, 2):
        config = PrepareConfig(**how, workers=index)
        prepare_shard(sources, tmp_path / f"{index}", index, 2, config, progress=False)
    merged = merge([tmp_path / "1", tmp_path / "2"], tmp_path / "merged", progress=False)
    assert contents(merged.path) == contents(store.path)


@pytest.mark.parametrize("count", range(1, 12))
def test_every_byte_of_every_source_is_in_one_shard(monkeypatch, count):
    monkeypatch.setattr(shards, "PART", 10)
    sizes = {"a.txt": 95, "b.txt": 0, "c.parquet": 30, "d.jsonl": 10, "hf:x": 0, "e.txt": 61}
    kinds = {"parquet": ".parquet", "jsonl": ".jsonl", "txt": ".txt", "hf:x": "hf"}
    sources = [Source(name, kinds[name.split(".")[-1]], None, size) for name, size in sizes.items()]
    parts = [share(sources, index, count) for index in range(1, count + 1)]
    for source, found in zip(sources, zip(*parts)):
        meant = [part for part in found if part is not None]
        assert [part.begin for part in meant] == [0, *(part.end for part in meant[:-1])]
        assert meant[-1].end is None
        assert len(meant) == 1 or source.has_parts
        assert all(part.begin % 10 == 0 for part in meant)
    of_each = [sum(part.size for part in found if part is not None) for found in parts]
    assert sum(of_each) == sum(sizes.values())
    assert max(of_each) <= sum(sizes.values()) / count + 30 + 10  # one that is not divided, a part


def test_bad_text_in_a_later_shard_is_named_by_its_line(tmp_path, small_parts, tokenizer):
    (tmp_path / "a.txt").write_bytes(b"The river.\n" * 100 + b"bad \xff\n" + b"A city.\n" * 10)
    config = PrepareConfig(tokenizer, workers=1)
    with pytest.raises(ValueError, match=r"a\.txt:101: bad UTF-8: 0xff at byte 5"):
        prepare_shard([str(tmp_path / "a.txt")], tmp_path / "s", 3, 3, config, progress=False)
    assert not (tmp_path / "s").exists()


def test_a_shard_that_was_killed_is_made_again(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_bytes(b"The river.\n\n" * 9)
    code = """
        import os, sys
        from mslt.data import shards
        shards._digest = lambda _: os.kill(os.getpid(), 9)  # all is written but the name
        config = shards.PrepareConfig(sys.argv[2], workers=1)
        shards.prepare_shard([sys.argv[1] + "/a.txt"], sys.argv[1] + "/1", 1, 2, config, False)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), tokenizer]
    assert subprocess.run(command, check=False).returncode == -9
    assert (tmp_path / ".1.tmp" / "text" / "tokens.bin").exists()
    sources, config = [str(tmp_path / "a.txt")], PrepareConfig(tokenizer, workers=1)
    folders = [tmp_path / "1", tmp_path / "2"]
    prepare_shard(sources, folders[1], 2, 2, config, progress=False)
    with pytest.raises(ValueError, match=f"{folders[0]} is no shard: it has no shard.json"):
        merge(folders, tmp_path / "merged")
    prepare_shard(sources, folders[0], 1, 2, config, progress=False)
    assert not (tmp_path / ".1.tmp").exists()
    store = prepare(sources, tmp_path / "store", config, progress=False)
    assert contents(merge(folders, tmp_path / "merged").path) == contents(store.path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three shards of a file in one part each, and what they were made of."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS, "."]))
    for name in ("a", "b", "c"):
        (folder / f"{name}.txt").write_bytes(b"The river.\n\n" * 9)
    sources = [str(folder / f"{name}.txt") for name in ("a", "b", "c")]
    config = PrepareConfig(str(folder / "vocab.txt"), workers=1)
    return sharded(sources, folder / "shards", 3, config), sources, config


def refused(match, folders, out):
    with pytest.raises(ValueError, match=match) as caught:
        merge(folders, out, progress=False)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_missing_and_repeated_shards_are_named(tmp_path, made):
    (one, two, three), sources, config = made
    out = tmp_path / "merged"
    refused("^not all shards are given: 2/3 missing", [one, three], out)
    refused("^not all shards are given: 1/3, 3/3 missing", [two], out)
    refused(f"^{one} and {one} are both shard 1 of 3", [one, two, three, one], out)
    other = prepare_shard(sources, tmp_path / "of-2", 2, 2, config, progress=False)
    refused(f"^{other} is shard 2 of 2, but {one} is one of 3", [one, other, three], out)
    refused("^.*nowhere is no shard: it has no shard.json", [one, tmp_path / "nowhere"], out)


def test_shards_of_another_preparation_are_named(tmp_path, made):
    (one, _, three), sources, config = made
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIAL, *WORDS[::-1], "."]))

    def other(name, sources=sources, **how):
        options = {"tokenizer": config.tokenizer, "workers": 1, **how}
        made = prepare_shard(sources, tmp_path / name, 2, 3, PrepareConfig(**options), False)
        return [one, made, three]

    out = tmp_path / "merged"
    refused("s1 was made with heldout 0.2, but .* with 0.01", other("s1", heldout=0.2), out)
    refused("s2 was made with tokenizer .*vocab", other("s2", tokenizer=str(vocabulary)), out)
    few = other("s3", sources[:2])
    refused(r"s3 was made of other sources .*: nothing more, not .*c\.txt \(108 bytes\)", few, out)
    back = other("s4", sources[::-1])
    refused(r"s4 was made of other sources .*: .*c\.txt \(108 bytes\), not .*a\.txt", back, out)


def test_a_tokenizer_that_changed_between_shards_is_noticed(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_bytes(b"The river.\n\n" * 9)
    folders = []
    for index in (1, 2):
        config = PrepareConfig(tokenizer, workers=1)
        sources = [str(tmp_path / "a.txt")]
        folders.append(prepare_shard(sources, tmp_path / f"{index}", index, 2, config, False))
        Path(tokenizer).write_text("\n".join([*SPECIAL, *WORDS[::-1], "."]))
    refused(r"2 was made with another tokenizer than .*1", folders, tmp_path / "merged")


def test_a_file_that_changed_between_shards_is_noticed(tmp_path, small_parts, tokenizer):
    path = tmp_path / "a.txt"
    path.write_bytes(b"The river.\n\n" * 50)
    folders = []
    for index in (1, 2):
        config = PrepareConfig(tokenizer, workers=1)
        folders.append(
            prepare_shard([str(path)], tmp_path / f"{index}", index, 2, config, progress=False)
        )
        path.write_bytes(b"A  river.\n\n\n" * 50)
    refused(rf"2 was made of another {path} than .*1", folders, tmp_path / "merged")


def test_other_versions_are_refused(tmp_path, made, monkeypatch):
    (one, _, three), sources, config = made
    monkeypatch.setattr("mslt.data.prepare.platform.python_version", lambda: "3.11.0")
    two = prepare_shard(sources, tmp_path / "two", 2, 3, config, progress=False)
    refused("two was made with python 3.11.0, but ", [one, two, three], tmp_path / "merged")


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_shard_is_named(tmp_path, made, damage):
    folders, *_ = made
    files = sorted(path for path in folders[1].rglob("*") if path.is_file())
    assert len(files) == 7
    for file in files:
        content = bytearray(file.read_bytes())
        before = bytes(content)
        if damage == "remove":
            file.unlink()
        else:
            content[len(content) // 2] ^= 1
            file.write_bytes(content if damage == "flip" else before[:-3])
        word = "is (damaged|no shard|missing)"
        refused(rf"^{folders[1]}(/.*)? {word}", folders, tmp_path / "merged")
        file.write_bytes(before)
    assert merge(folders, tmp_path / "whole", progress=False)


def test_every_bit_of_a_shards_description_counts(tmp_path, made):
    folders, *_ = made
    file = folders[0] / "shard.json"
    before = file.read_bytes()
    draw = random.Random(0)
    for _ in range(100):
        content = bytearray(before)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
        try:
            read = shards.read(folders[0])
        except ValueError as error:
            assert str(error).startswith(f"{file} is damaged: ")  # noqa: PT017
        else:
            assert json.loads(content) == json.loads(before)
            assert read.index == 1
    file.write_bytes(before)


@pytest.mark.parametrize("text", ["", "3", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1 / 3"])
def test_a_wrong_shard_is_refused(text):
    with pytest.raises(ValueError, match=r"^shard must be I/N with I from 1 to N"):
        parse(text)
    assert parse("1/1") == (1, 1)
    assert parse("12/300") == (12, 300)


def test_the_command_line_makes_and_merges_shards(tmp_path, made, capsys):
    _, sources, config = made
    words = ["prepare", *sources, "--tokenizer", str(config.tokenizer), "--workers", "1"]
    assert main([*words, "--out", str(tmp_path / "store")]) == 0
    for index in (1, 2):
        shard = ["--shard", f"{index}/2", "--out", str(tmp_path / f"{index}")]
        assert main([*words, *shard]) == 0
    assert f"{tmp_path / '2'}: shard 2 of 2\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match="1 is a shard: mslt prepare --merge makes a store of all"):
        TokenStore.open(tmp_path / "1")
    folders = [str(tmp_path / "2"), str(tmp_path / "1")]
    assert main(["prepare", "--merge", *folders, "--out", str(tmp_path / "merged")]) == 0
    assert "2 shards merged in" in capsys.readouterr().out
    assert contents(tmp_path / "merged") == contents(tmp_path / "store")
    assert sorted(os.listdir(tmp_path)) == ["1", "2", "merged", "store"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("a.txt --shard 4/3", "shard must be I/N with I from 1 to N, as in 1/8, not 4/3"),
        ("a.txt --shard", "--shard needs a value: a text"),
        ("1 --merge --shard 1/3", "shard has no effect beside merge"),
        ("1 --merge --heldout 0.1", "heldout has no effect beside merge"),
        ("--merge", "SOURCE is missing"),
        ("1 --merge", "1 is no shard: it has no shard.json"),
    ],
)
def test_a_wrong_command_line_gets_one_line(tmp_path, capsys, words, says):
    assert main(["prepare", *words.split(), "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("mslt: ")
    assert captured.err.count("\n") == 1
    assert says in captured.err
    assert not list(tmp_path.iterdir())
