"""Bad corpora: text, archives, records, tables and names as they come from the world.

Each is read under the three policies of `mslt prepare`: strict must refuse it by file and line,
skip and replace must go on with the good file that lies beside it. What cannot be passed over, such
as a file that is not there, is refused under all of them. Some are merely odd, and must be taken.
"""

import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torture import archives
from torture.archives import MB, bad_utf8, bomb, gz, parquet, zst
from torture.cases import Case, Content, campaign, good_text

GOOD = good_text()
POLICIES = ("strict", "skip", "replace")


@dataclass(frozen=True)
class Corpus:
    """A row of the table.

    Args:
        name: what is wrong with it.
        files: what lies there; all of them are sources, unless `sources` says which.
        says: what the refusal must say; nothing, where the corpus is merely odd.
        always: whether it is refused under every policy.
        heavy: as in a case.
        sources: the words of the command line between `prepare` and the options.
        alone: whether no good file lies beside it.
    """

    name: str
    files: Mapping[str | bytes, Content]
    says: str = ""
    always: bool = False
    heavy: bool = False
    sources: tuple[str | bytes, ...] = ()
    alone: bool = False

    def case(self, policy: str) -> Case:
        """The command line for it; `good.txt` is what remains when it is dropped."""
        sources = self.sources or tuple(self.files)
        good = () if self.alone else ("good.txt",)
        options = ("--out", "store", "--vocab_size", "120", "--on_bad_text", policy)
        return Case(
            f"{self.name}, {policy}",
            ("prepare", *sources, *good, *options),
            {**self.files, "good.txt": GOOD},
            self.says if self.always or policy == "strict" else "",
            self.heavy,
        )


def link(to: str) -> Callable[[Path], object]:
    """A symbolic link."""
    return lambda path: path.symlink_to(to)


def bound_socket(path: Path) -> None:
    """A socket's name in the file system."""
    before = os.getcwd()
    os.chdir(path.parent)  # such a name may have 107 bytes
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(before)


def deep(path: Path) -> None:
    """A text file under folders so deep that its path is too long to open."""
    before = os.getcwd()
    path.mkdir()
    os.chdir(path)
    for _ in range(30):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    Path("a.txt").write_bytes(GOOD)
    os.chdir(before)


_GOOD_RECORD = b'{"text": "A good record. It has two sentences."}\n'


def _texts() -> list[Corpus]:
    rows = {
        "a byte that is no UTF-8": (b"fine\ncaf\xe9 noir\n", ":2: bad UTF-8: 0xe9 at byte 4"),
        "a first byte that is no UTF-8": (b"\xff\xfdfine\n", ":1: bad UTF-8: 0xff at byte 1"),
        "a character cut off by the end": ("fine\nété".encode()[:-1], ":2: bad UTF-8"),
        "an overlong NUL": (b"fine\n\xc0\x80\n", ":2: bad UTF-8"),
        "a surrogate as UTF-8": (b"fine\n\xed\xa0\x80\n", ":2: bad UTF-8"),
        "Latin-1": ("Où est l'été ?\n".encode("latin-1") * 50, ":1: bad UTF-8"),
        "UTF-16": (("Fine.\n" * 50).encode("utf-16"), ":1: UTF-16 instead of UTF-8"),
        "UTF-16 without its mark": (("Fine.\n" * 50).encode("utf-16-le"), ":1: NUL character"),
        "UTF-32": (("Fine.\n" * 50).encode("utf-32"), ":1: UTF-16 instead of UTF-8"),
        "a NUL": (b"fine\n\na\0b\n", ":3: NUL character"),
        "nothing but NUL": (bytes(100_000), ":1: NUL character"),
        "an empty file": (b"", ": empty file"),
        "a program": (Path(sys.executable).read_bytes()[:100_000], ":1: bad UTF-8"),
        "a line of 17 MB": (b"word " * (17 * MB // 5), ":1: line too long"),
        "a word of 17 MB": (b"x" * 17 * MB, ":1: line too long"),
        # What follows is odd, and to be taken.
        "blank lines alone": (b"\n" * 10_000, ""),
        "spaces alone": (" \t\u3000\u00a0".encode() * 1000, ""),
        "a byte-order mark alone": (b"\xef\xbb\xbf", ""),
        "byte-order marks everywhere": (b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n" * 9, ""),
        "Windows line ends": (GOOD.replace(b"\n", b"\r\n"), ""),
        "old Mac line ends": (GOOD.replace(b"\n", b"\r"), ""),
        "control characters": (bytes(range(1, 32)) * 100, ""),
        "terminal escapes": (b"\x1b[2J\x1b]0;title\x07 words\n" * 10, ""),
        "mixed scripts": ("Ünï 中文かな עִבְרִית عربي ไทย हिन्दी 🙂👩‍👩‍👧 text.\n\n".encode() * 20, ""),
        "right to left with overrides": ("\u202eright\u202c \u2067left\u2069 שלום.\n".encode(), ""),
        "zero width, private use and noncharacters": (
            "a\u200bb\u200d\u2060c \ue000\uf8ff\U0010fffd \ufffe\uffff \U000e0001.\n".encode(),
            "",
        ),
        "replacement characters": ("good \ufffd bad\n".encode() * 5, ""),
        "a letter under 100,000 accents": ("e" + "\u0301" * 100_000 + "\n").encode(),
        "100,000 dots": b"." * 100_000,
        "special tokens as words": (b"[CLS] [MASK] [SEP] [PAD] [UNK] ##s\n\n" * 20, ""),
        "one character over and over": (b"a " * 10_000 + b"\n", ""),
        "a million empty documents": (b"x\n\n" * 1_000_000, ""),
        "code and markup": (b"<script>alert(1)</script> {{7*7}} ${jndi:ldap://x/} '; DROP\n", ""),
    }
    made = []
    for name, row in rows.items():
        content, says = row if isinstance(row, tuple) else (row, "")
        heavy = len(content) > 2 * MB or name.startswith("a million empty")
        made.append(Corpus(name, {"a.txt": content}, says and f"a.txt{says}", heavy=heavy))
    word = "".join(chr(97 + i * i * 7919 % 10007 % 26) for i in range(10_000_000)).encode()
    return [*made, Corpus("a word of 10 MB", {"a.txt": word}, heavy=True)]


def _archives() -> list[Corpus]:
    lines = b"".join(b"Line %d of it.\n" % (i * i * 7919 % 10007) for i in range(20_000))
    torn, further = "cannot be read any further", "a.txt.gz:1: cannot be read any further"
    rows: list[tuple[str, str, Content, str, bool]] = [
        ("a torn .gz", "a.txt.gz", gz(lines)[:-9], torn, False),
        ("half a .gz", "a.txt.gz", gz(lines)[: len(gz(lines)) // 2], torn, False),
        ("a .gz with a wrong checksum", "a.txt.gz", archives.damaged_gz(lines), torn, False),
        ("garbage after a .gz", "a.txt.gz", gz(lines) + b"garbage", torn, False),
        ("a .gz of nothing", "a.txt.gz", gz(b""), "a.txt.gz: empty file", False),
        ("an empty .gz", "a.txt.gz", b"", "a.txt.gz: ", False),
        ("text called .gz", "a.txt.gz", lines, further, False),
        ("zlib called .gz", "a.txt.gz", archives.deflate_tail(GOOD), "", False),
        ("a .gz called .txt", "a.txt", gz(lines), "a.txt:1: ", False),
        ("a .gz in a .gz", "a.txt.gz", gz(gz(lines)), "a.txt.gz:1: ", False),
        ("a torn .zst", "a.txt.zst", zst(lines)[:-9], torn, False),
        ("a .zst with a window of 2 GB", "a.txt.zst", archives.endless_window(), torn, False),
        ("a bomb of NUL", "a.txt.gz", bomb(bytes(MB), 3000), ":1: ", True),
        ("a bomb of text, .gz", "a.txt.gz", bomb(b"word\n" * (MB // 5), 3000), "unpacks to", True),
        (
            "a bomb of text, .zst",
            "a.txt.zst",
            bomb(b"word\n" * (MB // 5), 8000, "zstd"),
            "unpacks to",
            True,
        ),
        (
            "a bomb of records",
            "a.jsonl.zst",
            bomb(_GOOD_RECORD * 9000, 6000, "zstd"),
            "unpacks to",
            True,
        ),
        ("a bomb of a table", "a.parquet.zst", bomb(bytes(MB), 8000, "zstd"), "unpacks to", True),
    ]
    return [Corpus(n, {file: content}, says, heavy=heavy) for n, file, content, says, heavy in rows]


def _records() -> list[Corpus]:
    torn = "torn or damaged JSON"
    rows = {
        "a torn record": (b'{"text": "tor', torn),
        "no JSON at all": (b"plain words", torn),
        "JSON in Python's spelling": (b"{'text': 'x'}", torn),
        "a record over several lines": (b'{\n"text": "x"\n}', torn),
        "an array": (b'["text"]', "no JSON object: list"),
        "a number": (b"17", "no JSON object: int"),
        "not a number": (b"NaN", "no JSON object: float"),
        "an empty record": (b"{}", "no field 'text': its fields are none"),
        "another field": (b'{"body": "x", "id": 1}', "no field 'text': its fields are body, id"),
        "text that is null": (b'{"text": null}', "field 'text' is no text: NoneType"),
        "text that is a number": (b'{"text": 5}', "field 'text' is no text: int"),
        "text that is not a number": (b'{"text": NaN}', "field 'text' is no text: float"),
        "text that is a list": (b'{"text": ["a"]}', "field 'text' is no text: list"),
        "an infinite number": (
            b'{"id": -Infinity, "text": 1e999}',
            "field 'text' is no text: float",
        ),
        "a number of 5,000 digits": (b'{"n": ' + b"7" * 5000 + b', "text": 1}', torn),
        "brackets 100,000 deep": (b"[" * 100_000, torn),
        "objects 100,000 deep": (b'{"text":' * 100_000, torn),
        "half a surrogate pair": (b'{"text": "half \\ud83d of it"}', "half a surrogate pair"),
        "an escaped NUL": (b'{"text": "a \\u0000"}', "NUL character"),
        "a byte-order mark in the middle": (b'\xef\xbb\xbf{"text": "x"}', torn),
        "a field name of a megabyte": (b'{"' + b"k" * MB + b'": 1}', "no field 'text'"),
        "terminal escapes in a field name": (b'{"\\u001b[2Jx": 1}', "no field 'text'"),
        "a record of 17 MB": (b'{"text": "' + b"word " * (17 * MB // 5) + b'"}', "line too long"),
        "a million empty lists": (b"[" + b"[]," * 5_000_000 + b"[]]", "no JSON object: list"),
        # What follows is odd, and to be taken.
        "the same field twice": (b'{"text": 1, "text": "The last one counts."}', ""),
        "texts without a word": (b'{"text": ""}\n{"text": " \\n\\n "}', ""),
        "__proto__ and code": (b'{"__proto__": {"x": 1}, "text": "{{7*7}} <b>", "eval": "1"}', ""),
    }
    return [
        Corpus(
            name,
            {"a.jsonl": _GOOD_RECORD + line + b"\n" + _GOOD_RECORD},
            says and f"a.jsonl:2: {says}",
            heavy=len(line) > 2 * MB,
        )
        for name, (line, says) in rows.items()
    ]


def _tables() -> list[Corpus]:
    good = parquet(text=["Some text."] * 1000)
    no_text = ": field 'text' is no text"
    rows: dict[str, tuple[Content, str]] = {
        "a torn table": (good[: len(good) // 2], ": damaged .parquet"),
        "an empty table file": (b"", ": damaged .parquet"),
        "text called .parquet": (GOOD, ": damaged .parquet"),
        "a table without its head": (bytes(8) + good[8:], ": "),
        "a table with damaged pages": (good[:4] + bytes(30) + good[34:], ": cannot be read"),
        "a footer longer than the file": (
            good[:-8] + b"\xff\xff\xff\x7fPAR1",
            ": damaged .parquet",
        ),
        "a footer of noise": (b"PAR1" + bytes(range(256)) + b"\0\1\0\0PAR1", ": "),
        "an encrypted table": (good[:-4] + b"PARE", ": "),
        "another column": (parquet(body=["x"]), ": no field 'text': its fields are body"),
        "a column of numbers": (parquet(text=[1]), f"{no_text}: int64"),
        "a column of bytes": (parquet(text=[b"x"]), f"{no_text}: binary"),
        "a column of lists": (parquet(text=[["x"]]), f"{no_text}: list"),
        "a null among texts": (parquet(text=["a", None]), ":2: field 'text' is no text: null"),
        "a table of no rows": (parquet(text=[])[:], ": "),
        "bad UTF-8 in a table": (parquet(text=bad_utf8()), ":1: bad UTF-8: 0xe9 at byte 1"),
        "a cell of 100 MB": (lambda p: p.write_bytes(parquet(text=["word " * (20 * MB)])), ": "),
        "a text 300 million times": (archives.dictionary_bomb("word " * 20, 3000), "unpacks to"),
        "a megabyte 100,000 times": (
            archives.dictionary_bomb("word " * (MB // 5), 1),
            "unpacks to",
        ),
        "300 million nulls": (archives.null_bomb(3000), ": field 'text' is no text"),
    }
    return [
        Corpus(name, {"a.parquet": content}, says, heavy=callable(content))
        for name, (content, says) in rows.items()
    ]


def _names() -> list[Corpus]:
    twice = "is given twice"
    inside = {"f/a.txt": GOOD}
    odd, few = "a.txt is no regular file", "too few documents have words in them, 2 where 4"
    return [
        Corpus("a file that is not there", {}, "a.txt does not exist", True, sources=("a.txt",)),
        Corpus("a folder that is not there", {}, "f/ does not exist", True, sources=("f/",)),
        Corpus("an empty folder", {"f/x/y": b""}, "f holds no .txt", True, sources=("f",)),
        Corpus("another suffix", {"a.pdf": GOOD}, "a.pdf is none of .txt, .jsonl", True),
        Corpus("no suffix", {"a": GOOD}, "a is none of .txt", True),
        Corpus("a folder called .txt", {"a.txt/b.txt": GOOD}, sources=("a.txt",)),
        Corpus(
            "a link to nowhere",
            {"f/a.txt": link("nowhere")},
            "f/a.txt: cannot be read",
            sources=("f",),
        ),
        Corpus(
            "a link to itself",
            {"f/a.txt": link("a.txt")},
            "f/a.txt: cannot be read",
            sources=("f",),
        ),
        Corpus("a folder in itself", {"f/a.txt": GOOD, "f/g": link(".")}, sources=("f",)),
        Corpus("a pipe", {"a.txt": os.mkfifo}, odd),
        Corpus("a pipe in a folder", {"f/a.txt": os.mkfifo}, f"f/{odd}", sources=("f",)),
        Corpus("a socket", {"a.txt": bound_socket}, odd),
        Corpus("an endless device", {"a.txt": link("/dev/zero")}, odd),
        Corpus("endless noise", {"a.txt": link("/dev/urandom")}, odd),
        Corpus("a disk that fails", {"a.txt": link("/proc/self/mem")}, "a.txt:1: cannot be read"),
        Corpus("a path too long to open", {"f": deep}, "File name too long", True),
        Corpus("a name too long", {}, "File name too long", True, sources=("a" * 300 + ".txt",)),
        Corpus(
            "a name of 100,000 characters", {}, "File name too long", True, sources=("a" * 100_000,)
        ),
        Corpus("a name with line ends", {"a\nmslt: b.txt": b"\xff"}, "b.txt:1: bad UTF-8"),
        Corpus("a name with terminal escapes", {"a\x1b[2J.txt": b"\xff"}, ".txt:1: bad UTF-8"),
        Corpus("a name that is no UTF-8", {b"caf\xe9.txt": GOOD}),
        Corpus(
            "bad text in a name that is no UTF-8", {b"caf\xe9.txt": b"\xff"}, ".txt:1: bad UTF-8"
        ),
        Corpus("a name that code could be", {"$(touch executed);`touch executed`.txt": GOOD}),
        Corpus("a file twice", {"a.txt": GOOD}, twice, True, sources=("a.txt", "./a.txt")),
        Corpus("a file and its folder", inside, twice, True, sources=("f", "f/a.txt")),
        Corpus(
            "a file and a link to it",
            {**inside, "f/b.txt": link("a.txt")},
            twice,
            True,
            sources=("f",),
        ),
        Corpus("two documents", {"a.txt": b"One.\n\nTwo.\n"}, few, True, alone=True),
        Corpus(
            "nothing but blank lines", {"a.txt": b"\n" * 99}, "there is no text", True, alone=True
        ),
    ]


CORPORA = [*_texts(), *_archives(), *_records(), *_tables(), *_names()]
CASES = [corpus.case(policy) for corpus in CORPORA for policy in POLICIES]


def together(policy: str, *, heavy: bool = False) -> Case:
    """All that can be passed over in one folder, each in its own, among good text."""
    files: dict[str | bytes, Content] = {"all/good.txt": GOOD}
    for number, corpus in enumerate(CORPORA):
        if not corpus.always and (heavy or not corpus.heavy):
            for name, content in corpus.files.items():
                inside = os.fsencode(name) if isinstance(name, bytes) else name.encode()
                files[f"all/{number}/".encode() + inside] = content
    options = ("--out", "store", "--vocab_size", "500", "--on_bad_text", policy)
    return Case(f"everything at once, {policy}", ("prepare", "all", *options), files)


if __name__ == "__main__":
    sys.exit(campaign("corpora", CASES, None))
