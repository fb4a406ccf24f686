"""The command line: right words reach the right functions, wrong ones get one line."""

import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import yaml

import mslt
from mslt.cli import COMMANDS, main
from mslt.config import Config
from mslt.recipes import RECIPES

TINY = RECIPES["bert_tiny_mslt"]()


@dataclass(frozen=True)
class PrepareConfig:
    """Stands in for the options of `mslt prepare`.

    Args:
        vocab_size: pieces.
        lowercase: fold case.
        tokenizer: one that is given.
        on_bad_text: policy.
    """

    vocab_size: int = 30522
    lowercase: bool | None = None
    tokenizer: str | None = None
    on_bad_text: Literal["strict", "replace", "skip"] = "strict"

    def __post_init__(self) -> None:
        if self.vocab_size < 100:
            raise ValueError(f"vocab_size must be 100 or more, not {self.vocab_size}")


@pytest.fixture
def calls(monkeypatch):
    """Stand-ins for what the commands call, and the list of what they were given."""
    made = []

    def record(name, status=None):
        def function(*args, **kwargs):
            made.append((name, *args, *kwargs.values()))
            return status

        return function

    parts = {
        "data.prepare": {"prepare": record("prepare"), "PrepareConfig": PrepareConfig},
        "launch": {"pretrain": record("pretrain", 0)},
        "export": {"export": record("export")},
        "demo": {"demo": record("demo")},
    }
    for name, names in parts.items():
        monkeypatch.setitem(sys.modules, f"mslt.{name}", SimpleNamespace(**names))
    return made


@pytest.fixture
def store(tmp_path):
    """The smallest folder that `TokenStore.open` takes."""
    path = tmp_path / "store"
    files = ["unigrams.bin"]
    for split in ("train", "heldout"):
        files += [f"{split}/{name}.bin" for name in ("tokens", "sentences", "documents")]
        (path / split).mkdir(parents=True)
    for name in files:
        (path / name).write_bytes(bytes(8))
    manifest = {
        "format": 1,
        "vocab_size": 500,
        "token_dtype": "uint16",
        "counts": {},
        "files": {name: {"bytes": 8, "sha256": "0" * 64} for name in files},
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.fixture
def run(tmp_path, store):
    """A run's folder, as far as the command line reads it: 300 steps of the tiny recipe."""
    path = tmp_path / "run"
    path.mkdir()
    values = TINY.with_vocabulary(500).to_dict() | {"steps": 300}
    (path / "config.yaml").write_text(yaml.safe_dump(values))
    (path / "run.json").write_text(json.dumps({"data": str(store)}))
    return path


def printed_config(capsys, *words):
    assert main(["pretrain", *words, "--print_config"]) == 0
    return capsys.readouterr().out


def test_a_recipe_is_the_base_and_what_is_given_comes_on_top(calls, store):
    words = ["--steps", "300", "--model.hidden_size=256", "--plan.shares", "50,5,5,5,35"]
    main(["pretrain", "bert_tiny_mslt", "--data", str(store), "--out", "r", *words])
    [(_, config, data, out, resume, *_)] = calls
    assert (config.steps, config.batch_size, config.schedule.lr) == (300, 64, 7e-4)
    assert config.model.hidden_size == 256
    assert config.plan.shares == [50, 5, 5, 5, 35]
    assert (data, out, resume) == (store, Path("r"), False)


def test_heads_and_feed_forward_follow_the_width_that_is_given(calls, store):
    words = ["bert_base_mslt", "--data", str(store), "--out", "r", "--model.hidden_size", "256"]
    main(["pretrain", *words])
    model = calls[0][1].model
    assert (model.num_attention_heads, model.intermediate_size) == (4, 1024)


@pytest.mark.parametrize(
    "words",
    [
        ["--batch-size", "32", "--model.hidden-size", "64", "--tensorboard", "--plan.k", "null"],
        ["--batch_size=32", "--model.hidden_size=64", "--tensorboard=true", "--plan.k=null"],
        [
            "--plan.k=2",
            "--tensorboard",
            "yes",
            "--model.hidden_size=64",
            "--batch_size=32",
            "--plan.k=null",
        ],
    ],
)
def test_options_are_the_same_with_dashes_underscores_and_equal_signs(words, calls, store):
    main(["pretrain", *words, "bert_tiny_mslt", f"--data={store}", "--out=r"])
    config = calls[0][1]
    assert (config.batch_size, config.model.hidden_size) == (32, 64)
    assert (config.tensorboard, config.plan.k) == (True, None)


@pytest.mark.parametrize("recipe", RECIPES)
def test_config_accepts_what_print_config_prints(recipe, capsys, tmp_path):
    text = printed_config(capsys, recipe)
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert printed_config(capsys, "--config", str(file)) == text
    assert Config.from_dict(yaml.safe_load(text)) == RECIPES[recipe]()


def test_a_file_comes_over_the_recipe_and_an_option_over_the_file(capsys, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("steps: 500\nschedule: {lr: 1e-3, warmup_steps: 7}\n")
    words = ["--steps", "600", "bert_tiny_mslt", "--config", str(file)]
    values = yaml.safe_load(printed_config(capsys, *words))
    assert (values["steps"], values["batch_size"]) == (600, 64)
    assert (values["schedule"]["lr"], values["schedule"]["warmup_steps"]) == (0.001, 7)


@pytest.mark.parametrize(
    "words", [[], ["bert_tiny_mslt", "--data", "{store}"], ["bert_tiny_mslt", "--steps", "300"]]
)
def test_resume_takes_the_settings_and_the_data_from_the_run(words, calls, run, store):
    words = [word.format(store=store) for word in words]
    assert main(["pretrain", *words, "--resume", "--out", str(run)]) == 0
    [(_, config, data, out, resume, *_)] = calls
    assert config.to_dict() == TINY.with_vocabulary(500).to_dict() | {"steps": 300}
    assert (data, out, resume) == (store, run, True)


def test_a_value_that_differs_from_the_resumed_run_reaches_the_run_to_be_refused(calls, run):
    words = ["--allow_change", "seed,steps", "--allow_change=store"]
    main(["pretrain", "--resume", "--out", str(run), "--seed", "5", *words])
    assert calls[0][1].seed == 5
    assert calls[0][5] == ["seed", "steps", "store"]


@pytest.mark.parametrize("status", [0, 130])
def test_the_status_of_pretraining_is_the_exit_status(status, monkeypatch, calls, store):
    stand_in = SimpleNamespace(pretrain=lambda *args, **options: status)
    monkeypatch.setitem(sys.modules, "mslt.launch", stand_in)
    assert main(["pretrain", "bert_tiny_mslt", "--data", str(store), "--out", "r"]) == status


def test_prepare_passes_sources_folder_and_options_on(calls):
    words = ["--on-bad-text", "skip", "--lowercase", "false", "--tokenizer", "t.txt"]
    assert main(["prepare", "a.txt", "b.jsonl.gz", "--out", "s", *words]) == 0
    how = PrepareConfig(on_bad_text="skip", lowercase=False, tokenizer="t.txt")
    assert calls == [("prepare", ["a.txt", "b.jsonl.gz"], Path("s"), how)]


def test_export_and_demo_pass_their_options_on(calls, run):
    assert main(["export", str(run), "--out", "d"]) == 0
    assert main(["export", str(run), "--out", "d", "--stage", "2"]) == 0
    assert main(["export", str(run), "--out", "d", "--best"]) == 0
    assert main(["demo", "--out", "e", "--seconds", "5"]) == 0
    assert calls == [
        ("export", run, Path("d"), None, False),
        ("export", run, Path("d"), 2, False),
        ("export", run, Path("d"), None, True),
        ("demo", Path("e"), 5.0),
    ]


def test_recipes_are_listed_with_what_they_are_and_their_stages(capsys):
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}\n" in out for name in RECIPES)
    assert "row 1; Table 4, row 2 (40 h on 32 V100)" in out
    assert "(3, 0, 200,000, 128), (6, 3, 200,000, 128), (9, 6, 200,000, 128)" in out


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_mslt_alone_says_what_it_can_do(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    assert mslt.__doc__ in out
    assert all(f"\n  {command} " in out for command in COMMANDS)


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mslt {mslt.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_each_command(command, calls, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: mslt {command}")
    assert f"mslt {command} " in out.partition("examples:")[2] or command == "recipes"


def test_help_gives_each_option_its_default_and_its_meaning(capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "--steps STEPS optimisation steps over all stages. (type: int, default: 1000000)" in out
    assert "--plan.retrain RETRAIN share of the steps that retrain the whole model" in out
    assert "--optimizer.name {lamb,adamw}" in out


def test_help_beside_a_recipe_gives_that_recipes_values(capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "bert_tiny_mslt", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "optimisation steps over all stages. (type: int, default: 2000)" in out


WRONG = {
    "prapare": "unknown command prapare; did you mean prepare?",
    "frobnicate": "unknown command frobnicate; the commands are prepare, plan,",
    "--steps 3": "unknown option --steps; the commands are",
    "prepare --out s": "SOURCE is missing: mslt prepare SOURCE...",
    "prepare a.txt": "--out is missing: mslt prepare SOURCE... --out STORE",
    "prepare a.txt --out s --vocab 9": "unknown option --vocab; did you mean --vocab_size?",
    "prepare a.txt --out s --vocab_size 9": "vocab_size must be 100 or more, not 9",
    "prepare a.txt --out s --on_bad_text skipp": "strict, replace or skip, not skipp; did you mean",
    "prepare a.txt --out= --vocab_size 200": "--out needs a value: a text",
    "pretrain": "RECIPE is missing (mslt recipes lists them)",
    "pretrain bert_tny_mslt": "unknown recipe bert_tny_mslt; did you mean bert_tiny_mslt?",
    "pretrain nonsense": "unknown recipe nonsense; mslt recipes lists them",
    "pretrain {tiny} other": "unrecognized arguments: other",
    "pretrain {tiny} steps=3": "unrecognized arguments: steps=3",
    "pretrain {tiny} --data {store}": "--out is missing: mslt pretrain RECIPE --data STORE",
    "pretrain {tiny} --out r": "--data is missing: mslt pretrain RECIPE --data STORE",
    "pretrain {tiny} --out r --data {tmp}/no": "/no is not a token store: it has no manifest.json",
    "pretrain {tiny} --out r --data {store} --model.vocab_size 9": "model.vocab_size is 9, but",
    "pretrain {tiny} --step 3": "unknown option --step; did you mean --steps?",
    "pretrain {tiny} -steps 3": "unknown option -steps; did you mean --steps?",
    "pretrain {tiny} --lr 3": "unknown option --lr; did you mean --schedule.lr?",
    "pretrain {tiny} --hidden-size 3": "unknown option --hidden-size; did you mean --model.hidden_",
    "pretrain {tiny} --model.hiden_size 3": "did you mean --model.hidden_size?",
    "pretrain {tiny} --model 3": "unknown option --model; did you mean --model.*?",
    "pretrain {tiny} --xyzzy 3": "unknown option --xyzzy",
    "pretrain {tiny} --steps": "--steps needs a value: a whole number",
    "pretrain {tiny} --steps --seed 3": "--steps needs a value: a whole number",
    "pretrain {tiny} --steps abc": "steps must be a whole number, not abc",
    "pretrain {tiny} --steps 1e3": "steps must be a whole number, not 1e3",
    "pretrain {tiny} --steps null": "steps must be a whole number, not null",
    "pretrain {tiny} --steps 0": "steps must be 1 or more, not 0",
    "pretrain {tiny} --steps 3": "3 steps are too few for 5 stages",
    "pretrain {tiny} --schedule.lr fast": "schedule.lr must be a number, not fast",
    "pretrain {tiny} --schedule.lr .inf": "schedule.lr must be a number, not inf",
    "pretrain {tiny} --schedule.lr -1": "schedule.lr must be above 0, not -1.0",
    "pretrain {tiny} --precision b16": "auto, fp32 or bf16, not b16; did you mean bf16?",
    "pretrain {tiny} --tensorboard=maybe": "tensorboard must be true or false, not maybe",
    "pretrain {tiny} --plan.k four": "plan.k must be a whole number or null, not four",
    "pretrain {tiny} --plan.k 5": "plan.k must divide the 12 layers: 5 does not",
    "pretrain {tiny} --plan.shares 1,a": "as in 50,5,5 or null, not 1,a",
    "pretrain {tiny} --plan.shares 1,2": "plan.shares needs 5 entries, not 2",
    "pretrain {tiny} --model.hidden_size 129": "num_attention_heads must divide model.hidden_size",
    "pretrain {tiny} --device tpu": "device must be auto, cpu, cuda or cuda:N, not 'tpu'",
    "pretrain {tiny} --device cpu:x": "device must be auto, cpu, cuda or cuda:N, not 'cpu:x'",
    "pretrain {tiny} --data {store} --out r --allow_change seed": "no effect without --resume",
    "pretrain {tiny} --config {tmp}/no.yaml": "/no.yaml: No such file or directory",
    "pretrain {tiny} --config {tmp}": ": Is a directory",
    "pretrain {tiny} --resume": "--out is missing",
    "pretrain {tiny} --resume --out {tmp}/no": "/no is no run to resume: it has no config.yaml",
    "pretrain bert_tiny_whole --resume --out {run}": "plan.method is mslt in",
    "pretrain --resume --out {run} --data {tmp}": "is not a token store",
    "export --out d": "RUN is missing: mslt export RUN --out DIR",
    "export {run}": "--out is missing: mslt export RUN --out DIR",
    "export {store} --out d": "store is not a run: it has no config.yaml",
    "export {run} --out d --stage first": "stage must be a whole number or null, not first",
    "recipes all": "unrecognized arguments: all",
    "demo --seconds 0": "seconds must be above 0, not 0",
    "demo --second 9": "unknown option --second; did you mean --seconds?",
}


def one_line(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mslt: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_command_line_gets_one_line_that_names_it(
    words, calls, store, run, tmp_path, capsys
):
    places = {"tiny": "bert_tiny_mslt", "store": store, "run": run, "tmp": tmp_path}
    assert main(words.format(**places).split(" ")) == 2
    assert WRONG[words] in one_line(capsys)
    assert calls == []


def test_a_partial_file_without_a_recipe_is_told_what_is_missing(tmp_path, capsys):
    file = tmp_path / "c.yaml"
    file.write_text("steps: 500\n")
    assert main(["pretrain", "--config", str(file)]) == 2
    assert "does not give batch_size: name a RECIPE for the rest" in one_line(capsys)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("line 3 of\n  a.txt is bad"), "mslt: line 3 of a.txt is bad\n"),
        (PermissionError(13, "Permission denied", "s"), "mslt: s: Permission denied\n"),
        (OSError("disk full"), "mslt: disk full\n"),
    ],
)
def test_what_a_command_says_of_the_users_files_is_one_line(
    error, line, calls, monkeypatch, capsys
):
    def prepare(*_):
        raise error

    monkeypatch.setattr(sys.modules["mslt.data.prepare"], "prepare", prepare)
    assert main(["prepare", "a.txt", "--out", "s"]) == 2
    assert capsys.readouterr().err == line


def test_a_bug_keeps_its_traceback(calls, monkeypatch):
    monkeypatch.setattr(sys.modules["mslt.data.prepare"], "prepare", lambda *_: {}["x"])
    with pytest.raises(KeyError):
        main(["prepare", "a.txt", "--out", "s"])


def test_ctrl_c_is_no_traceback(calls, monkeypatch, capsys):
    def prepare(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["mslt.data.prepare"], "prepare", prepare)
    assert main(["prepare", "a.txt", "--out", "s"]) == 130
    assert capsys.readouterr().err == "mslt: interrupted\n"


def test_a_wrong_value_is_refused_for_less_than_two_seconds_of_the_processor(store):
    words = ["pretrain", "bert_tiny_mslt", "--data", str(store), "--out", "r", "--model.k", "3"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    process = subprocess.run([sys.executable, "-m", "mslt", *words], capture_output=True, text=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2
    assert process.returncode == 2
    assert process.stderr == "mslt: unknown option --model.k; did you mean --plan.k?\n"


def test_nothing_heavy_is_imported_before_a_command_line_is_found_right():
    code = """
import sys
from mslt.cli import main
tiny = ["pretrain", "bert_tiny_mslt", "--steps", "300", "--model.hidden_size", "256"]
assert main([*tiny, "--print_config"]) == 0
assert main([*tiny, "--data", "no", "--out", "no"]) == 2
for command in ("prepare", "export", "demo"):
    try:
        main([command, "--help"])
    except SystemExit:
        pass
print([name for name in ("torch", "transformers", "matplotlib", "pyarrow") if name in sys.modules])
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.endswith("\n[]\n")
