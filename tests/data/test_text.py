import io

import pytest

from mslt.data import text as text_module
from mslt.data.text import Repairs, clean, decode, lines, section


def read(raw, policy="strict", cut=True):
    repairs = Repairs(policy)
    found = list(lines(io.BytesIO(raw), "f.txt", repairs, lambda: None, cut))
    return found, repairs.counts


@pytest.fixture
def small(monkeypatch):
    """Blocks of 8 bytes and lines of at most 20."""
    monkeypatch.setattr(text_module, "_BLOCK", 8)
    monkeypatch.setattr(text_module, "LINE_BYTES", 20)


def test_lines_are_numbered_and_a_torn_last_one_counts(small):
    assert read(b"one\n\nthe third line\nlast")[0] == [
        *((1, b"one"), (2, b""), (3, b"the third line"), (4, b"last")),
    ]
    assert read(b"one\n")[0] == [(1, b"one")]


def test_lines_are_the_same_whatever_the_blocks(monkeypatch):
    raw = b"\xef\xbb\xbf" + "ab\r\ncdé\n\n中文\nx".encode()
    whole = read(raw)
    for size in (1, 2, 3, 5):
        monkeypatch.setattr(text_module, "_BLOCK", max(size, 3))
        assert read(raw) == whole


def test_a_byte_order_mark_is_no_text():
    assert read(b"\xef\xbb\xbfhello\n")[0] == [(1, b"hello")]


def test_a_long_line_is_refused_with_its_number(small):
    with pytest.raises(ValueError, match=r"^f.txt:2: line too long.*--on_bad_text replace"):
        read(b"short\n" + b"word " * 10 + b"\nend\n")


def test_a_long_line_is_dropped_to_its_end(small):
    found, counts = read(b"short\n" + b"word " * 10 + b"\nend\n", "skip")
    assert found == [(1, b"short"), (3, b"end")]
    assert counts == {"line too long, dropped": 1}
    assert read(b"x" * 100, "skip")[0] == []


def test_a_long_line_is_cut_between_words_or_characters(small):
    found, _ = read(b"short\n" + b"word " * 10 + b"\nend\n", "replace")
    parts = [part for number, part in found if number == 2]
    assert b"".join(parts) == b"word " * 10
    assert max(map(len, parts)) <= 28
    assert all(part.endswith(b" ") for part in parts)
    assert found[-1] == (3, b"end")
    found, counts = read("é中".encode() * 20, "replace")
    assert "".join(part.decode() for _, part in found) == "é中" * 20
    assert counts.keys() == {"line too long, cut"}


def test_what_cannot_be_cut_is_dropped(small):
    assert read(b"x" * 100 + b"\nend", "replace", cut=False)[0] == [(2, b"end")]


def test_an_empty_file_is_bad_text():
    with pytest.raises(ValueError, match=r"^f.txt: empty file"):
        read(b"")
    assert read(b"", "skip") == ([], {"empty file, dropped": 1})


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be"])
def test_utf_16_is_named(codec):
    raw = "\ufeff" * (codec != "utf-16") + "hello\n"
    with pytest.raises(ValueError, match=r"^f.txt:1: UTF-16 instead of UTF-8"):
        read(raw.encode(codec))
    assert read(raw.encode(codec), "replace")[0] == []


SECTIONS = {
    "lines": b"one\n\nthe third line\n" + b"long " * 9 + b"\n\n\nlast",
    "mark": b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n",
    "one": b"a single line of text",
    "empty lines": b"\n\n\n",
}


@pytest.mark.parametrize("kind", SECTIONS)
@pytest.mark.parametrize("policy", ["replace", "skip"])
def test_sections_have_every_line_once_wherever_they_meet(tmp_path, small, kind, policy):
    raw = SECTIONS[kind]
    (tmp_path / "f.txt").write_bytes(raw)
    whole = read(raw, policy)
    for first in range(len(raw) + 1):
        for second in range(first, len(raw) + 1, 3):
            repairs, found = Repairs(policy), []
            for begin, end in ((0, first), (first, second), (second, None)):
                if begin == end:
                    continue
                with open(tmp_path / "f.txt", "rb", buffering=0) as file:
                    part = section(file, begin, end)
                    if part is not None:
                        stream, before = part
                        found += lines(stream, "f.txt", repairs, lambda: None, True, before)
            assert (found, repairs.counts) == whole


def test_utf_16_has_no_sections_but_the_first(tmp_path):
    (tmp_path / "f.txt").write_bytes("\ufeffone\ntwo\n".encode("utf-16-le"))
    with open(tmp_path / "f.txt", "rb", buffering=0) as file:
        assert section(file, 8, None) is None
        assert section(file, 0, 8) is not None


def test_bad_utf_8_is_refused_with_its_place():
    with pytest.raises(ValueError, match=r"^f.txt:3: bad UTF-8: 0xe9 at byte 4 .*replace goes on"):
        decode(b"caf\xe9 noir", "f.txt:3", Repairs())


def test_bad_utf_8_is_replaced_or_dropped():
    repairs = Repairs("replace")
    mended = decode(b"caf\xe9 noir", "f.txt:3", repairs)
    assert clean(mended or "", "f.txt:3", repairs) == "caf  noir"
    assert repairs.counts["bad UTF-8, bad bytes made spaces"] == 1
    assert decode(b"caf\xe9 noir", "f.txt:3", Repairs("skip")) is None


def test_the_first_places_of_each_kind_of_bad_text_are_kept():
    repairs = Repairs("skip")
    for number in range(1, 10):
        decode(b"caf\xe9", f"f.txt:{number}", repairs)
    clean("two\x01words\x02here", "f.txt:5", repairs)
    assert repairs.facts() == {
        "bad UTF-8, dropped": {"count": 9, "first": ["f.txt:1", "f.txt:2", "f.txt:3"]},
        "control character, made a space": {"count": 2, "first": ["f.txt:5"]},
    }


@pytest.mark.parametrize(
    "odd", ["\u0085", "\x0b", "\x0c", "\x1c", "\x1f", "\x7f", "\x9f", "\u200b", "\ufffd", "\x01"]
)
def test_what_bert_would_delete_between_words_is_a_space(odd):
    repairs = Repairs()
    assert clean(f"two{odd}words", "f.txt:1", repairs) == "two words"
    assert repairs.counts == {"control character, made a space": 1}


@pytest.mark.parametrize("kept", ["a\tb", "soft\u00adhyphen", "\u0646\u200c\u0645", "a\u2028b"])
def test_other_invisible_characters_stay(kept):
    repairs = Repairs()
    assert clean(kept, "f.txt:1", repairs) == kept
    assert not repairs.counts


@pytest.mark.parametrize(("odd", "what"), [("\0", "NUL character"), ("\ud800", "surrogate")])
def test_what_no_text_has_is_bad_text(odd, what):
    with pytest.raises(ValueError, match=f"^f.txt:1: .*{what}"):
        clean(f"two{odd}words", "f.txt:1", Repairs())
    assert clean(f"two{odd}words", "f.txt:1", Repairs("replace")) == "two words"
    assert clean(f"two{odd}words", "f.txt:1", Repairs("skip")) is None


def test_cleaned_text_splits_at_the_same_spaces_in_python_and_in_bert():
    """The word-by-word tokenizer relies on it."""
    from tokenizers.normalizers import BertNormalizer

    bert = BertNormalizer(lowercase=False, handle_chinese_chars=False)
    for code in (*range(0x3400), *range(0xD800, 0x10000, 3), 0xE0001, 0x10FFFF):
        cleaned = clean(f"a{chr(code)}b", "", Repairs("replace")) or ""
        assert len(cleaned.split()) == len(bert.normalize_str(cleaned).split()), hex(code)
