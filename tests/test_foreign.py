"""What others wrote is read as data, within bounds, and shown without harm."""

import json
import os
from pathlib import Path

import pytest

from mslt import foreign
from mslt.foreign import printable, read_json, read_json_object, read_yaml

NO_JSON = {
    "": "is damaged: Expecting value",
    '{"a": 1': "is damaged: Expecting",
    '{"a": NaN}': "is damaged: NaN is no JSON",
    '{"a": -Infinity}': "is damaged: -Infinity is no JSON",
    "[" * 100_000: "is damaged: it is nested too deep",
    "7" * 5000: "is damaged: Exceeds the limit",
}

NO_YAML = {
    "a: [": "line 1: expected the node content",
    "a: 1\nb: &x [1]\nc: [*x, *x]": "line 3: aliases are not read here",
    "a: !!python/object/apply:os.system [ls]": "line 1: tags are not read here: .*os.system",
    "a: !!timestamp x": "line 1: tags are not read here",
    "a: 2001-01-01": "line 1: a timestamp is not read here: write it in quotes",
    "a: 1\nb: 2\na: 3": "line 3: the key a is there twice",
    "<<: {a: 1}\nb: 2": "line 1: a merge is not read here",
    "{[1]: 2}": "line 1: a key must be a word",
    "[" * 1000: "is nested too deep",
    "--- 1\n--- 2": "line 2: but found another document",
    "a: " + "7" * 5000: "is not a text of YAML: Exceeds the limit",
    "a: \0": "is not a text of YAML",
}


@pytest.mark.parametrize("text", NO_JSON, ids=lambda text: text[:10])
def test_what_is_no_json_is_refused_by_name(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=f"a.json {NO_JSON[text]}"):
        read_json(tmp_path / "a.json")


def test_json_must_be_an_object_where_one_is_wanted(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert read_json_object(tmp_path / "a.json") == {"a": [1]}
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match="is no object of JSON"):
        read_json_object(tmp_path / "a.json")


def test_yaml_gives_plain_values(tmp_path):
    values = {"a": {"b": [1, 2.5, True, None, "text"]}, "c": "2001-01-01"}
    (tmp_path / "a.yaml").write_text("a: {b: [1, 2.5, yes, null, text]}\nc: '2001-01-01'\n")
    assert read_yaml(tmp_path / "a.yaml") == values
    (tmp_path / "a.yaml").write_text(json.dumps(values))
    assert read_yaml(tmp_path / "a.yaml") == values


@pytest.mark.parametrize("text", NO_YAML, ids=lambda text: text[:10])
def test_yaml_that_is_more_than_values_is_refused_by_line(text, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"a.yaml,? {NO_YAML[text]}"):
        read_yaml(tmp_path / "a.yaml")


def test_what_is_too_large_or_endless_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "YAML_BYTES", 10)
    (tmp_path / "a.yaml").write_text("a: 1".ljust(11))
    with pytest.raises(ValueError, match="has more than 0 KB"):
        read_yaml(tmp_path / "a.yaml")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="is no regular file"):
            read_json(path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n b\tc", "a b c"),
        ("na\u00efve \u4e2d\u6587 \U0001f642", "na\u00efve \u4e2d\u6587 \U0001f642"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("caf\udce9 \u202e \u200b", "caf\\udce9 \\u202e \\u200b"),
        ("a" * 400 + "b" * 400, "a" * 300 + " ... " + "b" * 300),
    ],
)
def test_a_message_is_one_line_that_a_terminal_shows_as_it_is(text, shown):
    assert printable(text) == shown
