"""Options from dataclasses: what is written there is what the help, files and messages say."""

import re
from dataclasses import dataclass, fields, is_dataclass
from typing import get_type_hints

import pytest

from mslt.config import Config
from mslt.options import Options, did_you_mean, field_docs, flatten, unflatten


@pytest.fixture
def options():
    made = Options("mslt pretrain RECIPE", "Pre-train.")
    made.option("out", str, "a folder")
    made.option("tokenizer", str | None, "a file")
    made.add_fields(Config)
    return made


def test_what_is_not_given_is_not_filled_in(options):
    assert options.parse(["--steps", "3"]) == {"steps": 3}


@pytest.mark.parametrize(
    "text", ["1e3", "null", "[a]", "a: b", "007", "true", "~/x", "x # y", "'q'"]
)
def test_a_text_stays_as_it_was_typed(text, options):
    assert options.parse(["--out", text]) == {"out": text}


def test_null_is_nothing_where_nothing_is_a_choice(options):
    assert options.parse(["--tokenizer", "null", "--plan.k=null"]) == {
        "tokenizer": None,
        "plan.k": None,
    }


@pytest.mark.parametrize(
    ("words", "value"), [("", True), (" true", True), (" no", False), (" null", None)]
)
def test_a_switch_may_stand_alone_or_say_what_it_is(words, value, options):
    options.option("lowercase", bool | None, "drop case")
    assert options.parse(f"--lowercase{words} --steps 3".split()) == {
        "lowercase": value,
        "steps": 3,
    }


@pytest.mark.parametrize("text", ["50,5,5,5,35", "[50,5,5,5,35]", "[50, 5, 5, 5, 35]"])
def test_a_list_needs_no_brackets(text, options):
    assert options.parse(["--plan.shares", text]) == {"plan.shares": [50.0, 5.0, 5.0, 5.0, 35.0]}


def test_a_files_numbers_are_read_as_the_command_lines_are(options, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        "schedule: {lr: 1e-3}\nplan: {k: null, shares: [1, 2.5]}\nmodel.hidden_size: 64"
    )
    assert options.read(file) == {
        "schedule.lr": 0.001,
        "plan.k": None,
        "plan.shares": [1.0, 2.5],
        "model.hidden_size": 64,
    }


WRONG_FILES = {
    "": "gives no `key: value`",
    "- 1": "gives no `key: value`",
    "stepz: 3": "unknown key stepz; did you mean steps?",
    "model: {hiden_size: 3}": "unknown key model.hiden_size; did you mean model.hidden_size?",
    "model: 3": "unknown key model; did you mean model.*?",
    "modle: {a: 1}": "unknown key modle.a; did you mean model.*?",
    "steps: {a: 3}": "unknown key steps.a; did you mean steps?",
    "out: r": "unknown key out",
    "steps: 2.5": "steps must be a whole number, not 2.5",
    "steps: true": "steps must be a whole number, not true",
    "steps:": "steps must be a whole number, not null",
    "tensorboard: 1": "tensorboard must be true or false, not 1",
    "plan: {shares: [1, a]}": "plan.shares must be numbers, as in 50,5,5 or null, not [1, 'a']",
    "steps: 3\n  seed: 1": "c.yaml, line 2: mapping values are not allowed here",
    "steps: 3\nseed: [": "c.yaml, line 2: expected the node content",
    "steps: 3\nseed: \x01": "is not a text of YAML",
}


@pytest.mark.parametrize("text", WRONG_FILES)
def test_a_wrong_config_file_gets_one_line_that_names_it(text, options, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(WRONG_FILES[text])) as error:
        options.read(file)
    assert str(error.value).startswith(str(file))


def test_every_field_of_a_run_is_described():
    left: list[type] = [Config]
    while left:
        cls = left.pop()
        assert list(field_docs(cls)) == [field.name for field in fields(cls)], cls
        left += [kind for kind in get_type_hints(cls).values() if is_dataclass(kind)]


def test_the_help_lists_every_option_and_only_what_is_accepted(options, capsys):
    with pytest.raises(SystemExit):
        options.parse(["--help"])
    heads = re.findall(r"^  (-.*?)(?:  |$)", capsys.readouterr().out, re.MULTILINE)
    listed = [key for head in heads for key in re.findall(r"--(\S+)", head)]
    assert listed == ["help", "out", "tokenizer", *options.fields]


def test_a_description_may_run_over_several_lines():
    @dataclass
    class Two:
        """Two fields.

        Args:
            a: first
                and second line: with a colon.
            b: third.

        Raises:
            ValueError: never.
        """

        a: int = 0
        b: int = 0

    assert field_docs(Two) == {"a": "first and second line: with a colon.", "b": "third."}


def test_flat_and_nested_values_are_the_same_values():
    tree = Config().to_dict()
    assert unflatten(flatten(tree)) == tree
    assert flatten({"a": {"b": {"c": 1}}, "d": [2]}) == {"a.b.c": 1, "d": [2]}


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("step", "; did you mean --steps?"),
        ("lr", "; did you mean --schedule.lr?"),
        ("hidden_sise", "; did you mean --model.hidden_size?"),
        ("modl.hidden_size", "; did you mean --model.hidden_size?"),
        ("model", "; did you mean --model.*?"),
        ("xyzzy", ""),
    ],
)
def test_the_nearest_choice_is_named_where_one_is_near(word, nearest):
    choices = ["steps", "model.hidden_size", "model.vocab_size", "schedule.lr"]
    assert did_you_mean(word, choices, "--") == nearest
