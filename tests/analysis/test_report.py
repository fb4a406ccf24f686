"""What a report says of runs, without a browser."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import reported
from made_up_run import CONFIG

from mslt import cli
from mslt.analysis.report import says, tables
from mslt.analysis.report.groups import grouped
from mslt.analysis.report.page import MOST_BYTES, content, html, write_report
from mslt.analysis.report.series import curves
from mslt.analysis.report.subjects import subjects


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return reported.runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def data(paths: list[Path]) -> dict:
    return content(grouped(subjects(paths)), 400, reported.looks(), "2026-11-25")


def test_runs_that_differ_in_their_seed_alone_are_one_plan(data):
    assert [(group["name"], group["seeds"]) for group in data["groups"]] == [
        (reported.EVIL, 2),
        ("whole", 1),
    ]
    assert [run["seed"] for run in data["runs"]] == [0, 1, 0]


def test_runs_of_one_name_and_other_options_are_not_one_plan(tmp_path):
    reported.made_run(tmp_path / "a-seed0", reported.config("mslt"))
    reported.made_run(tmp_path / "a-seed1", replace(reported.config("whole", 1), steps=500))
    groups = grouped(subjects([tmp_path / "a-seed0", tmp_path / "a-seed1"]))
    assert [group.name for group in groups] == ["a", "a-seed1"]


def compared(folder: Path, budget: str) -> None:
    """A comparison of b and a, in this order, with a seed that has not begun."""
    for name, method in (("a", "mslt"), ("b", "whole")):
        run = reported.made_run(folder / "runs" / f"{name}-seed0", reported.config(method))
        (run.path / "scores.json").write_text('{"MNLI": 50.0}')
    values = {"budget": budget, "configs": {"b": {}, "a": {}}, "seeds": [0, 1]}
    (folder / "compare.json").write_text(json.dumps(values))


def test_the_runs_of_a_comparison_are_all_shown_in_its_order_and_once(tmp_path):
    compared(tmp_path, "steps")
    found = subjects([tmp_path, tmp_path / "runs" / "a-seed0"])
    assert [run.name for run in found] == ["b-seed0", "a-seed0"]


@pytest.mark.parametrize(("budget", "number"), [("steps", "1"), ("time", "2"), ("recipe", "1")])
def test_a_comparison_has_the_tables_of_its_budget(tmp_path, budget, number):
    compared(tmp_path, budget)
    titles = [table["title"] for table in tables.paper(grouped(subjects([tmp_path])))]
    assert [title.partition(":")[0] for title in titles] == [
        *("Pre-training", f"Table {number}", "Table 5")
    ]


def test_a_damaged_comparison_is_named(tmp_path):
    for damage in (
        '{"budget": "luck"}',
        '{"budget": "steps", "configs": {"../a": {}}, "seeds": []}',
    ):
        (tmp_path / "compare.json").write_text(damage)
        with pytest.raises(ValueError, match=r"compare\.json.* is damaged"):
            subjects([tmp_path])


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("x", "y"):
        reported.made_run(tmp_path / folder / "run", reported.config("mslt"))
    found = subjects([tmp_path / "x" / "run", tmp_path / "y" / "run"])
    assert [run.name for run in found] == ["x/run", "y/run"]


def test_a_plan_is_told_of_beside_the_whole_model(data):
    assert data["results"][0].startswith(
        f"{reported.EVIL} took 1.7 min for the same steps, where whole took 1.7 min: "
        "1.00 times as fast. It ended at a held-out loss of 1.500 nats, whole at 2.000: 0.500 less."
    )


def test_an_unfinished_run_is_called_so_and_has_its_part_of_a_stage(tmp_path):
    run = reported.made_run(tmp_path / "run", reported.config("mslt"), stages=1)
    lines = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= 500]
    (run.path / "metrics.jsonl").write_text("".join(kept))
    (group,) = grouped(subjects([run.path]))
    assert "run is not finished: 500 of 1,000 steps." in says.results([group])
    table = tables.stages(group)
    assert [row[5] for row in table["rows"]] == ["400", "100 of 400", "200"]
    assert table["rows"][2][8:] == [tables.NONE] * 3


def test_a_run_that_knows_token_frequencies_alone_is_called_so(tmp_path):
    run = reported.made_run(tmp_path / "run", reported.config("whole"))
    facts = json.loads((run.path / "run.json").read_text()) | {"baseline_mlm_loss": 2.01}
    (run.path / "run.json").write_text(json.dumps(facts))
    said = says.results(grouped(subjects([run.path])))
    assert any("more than how often each token occurs: run." in each for each in said)


def test_speed_and_memory_are_those_of_the_stages(data):
    rows = data["speed"]["rows"]
    assert [row[2] for row in rows] == [
        "2, all learn",
        "4, the top 2 learn",
        "4, all learn",
        "4, all learn",
    ]
    assert rows[0][3] == {"text": "100", "bar": 1.0, "of": 0}
    assert rows[0][4] == "2,560"  # 8 sequences of 32 in 0.1 s
    assert [row[5]["text"] for row in rows[:3]] == ["268MB", "537MB", "805MB"]


def test_what_was_predicted_stands_beside_what_was_measured(tmp_path):
    run = reported.made_run(tmp_path / "run", reported.config("mslt"))
    facts = json.loads((run.path / "run.json").read_text())
    facts["forecast"] = {"by": "a guess", "seconds": [0.08, 0.1, 0.125], "evaluation": None}
    (run.path / "run.json").write_text(json.dumps(facts))
    table = tables.forecasts(grouped(subjects([run.path])))
    assert table is not None
    assert table["notes"] == ["run: by a guess."]
    assert [row[2:] for row in table["rows"]] == [
        ["32.0 s", "40.0 s", "+25.0%"],
        ["40.0 s", "40.0 s", "+0.0%"],
        ["25.0 s", "20.0 s", "-20.0%"],
        ["1.6 min", "1.7 min", "+3.1%"],
    ]


def test_curves_are_thinned_and_keep_the_ends_of_stages(paths):
    (run,) = subjects(paths[:1])
    found = curves(run, 2)
    assert found["each"] == 25
    assert found["train"]["step"] == [500, 1000]
    means = [
        sum(3 - s / 1000 for s in steps) / 25
        for steps in (range(20, 501, 20), range(520, 1001, 20))
    ]
    assert found["train"]["mlm_loss"] == pytest.approx(means)
    assert found["heldout"]["step"] == [400, 800, 1000]
    assert found["heldout"]["tokens"] == [400 * 256, 800 * 256, 1000 * 256]


def test_a_measure_that_is_no_number_is_left_out(tmp_path):
    run = reported.made_run(tmp_path / "run", reported.config("whole"))
    line = {"kind": "train", "step": 5, "mlm_loss": None, "seconds": 0.5, "lr": "</script>"}
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    (subject,) = subjects([run.path])
    assert curves(subject, 100)["train"]["lr"][-1] is None


def test_no_text_of_the_data_is_markup(data):
    page = html(data)
    block = re.search('<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert block is not None
    assert not set(block[1]) & set("<>&\u2028\u2029")
    assert json.loads(block[1]) == json.loads(json.dumps(data))
    assert page.count("<script") == 2
    assert "<img" not in page


def test_the_policy_names_the_hashes_of_what_is_on_the_page(data):
    page = html(data)
    policy = re.search('Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        text = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert text is not None
        digest = base64.b64encode(hashlib.sha256(text[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]
    assert "http" not in re.sub("http-equiv|http://www.w3.org/2000/svg", "", page)


def test_where_the_store_was_is_not_given_away(data):
    assert "/home/somebody" not in html(data)
    assert data["runs"][0]["again"]["command"].endswith(
        "--data 'my|store' --out '<img src=x onerror=alert(1)>-seed0'"
    )


def test_a_long_run_stays_below_five_megabytes(tmp_path):
    run = reported.made_run(tmp_path / "run", replace(CONFIG, steps=200_000))
    size = write_report([run.path] * 1, tmp_path / "report.html", today="2026-11-25")
    assert 50_000 < size < 300_000 < MOST_BYTES
    assert size == (tmp_path / "report.html").stat().st_size


def test_another_file_is_never_overwritten_and_a_report_is(paths, tmp_path):
    out = tmp_path / "report.html"
    out.write_text("<!doctype html>mine")
    with pytest.raises(ValueError, match="exists and is no report"):
        write_report(paths, out)
    out.unlink()
    write_report(paths, out)
    assert write_report(paths[:1], out) == out.stat().st_size


def test_a_folder_without_a_run_is_named_in_a_line(tmp_path, capsys):
    words = ["report", str(tmp_path), "--out", str(tmp_path / "r.html")]
    assert cli.main(words) == 2
    assert "holds neither a run (mslt pretrain) nor a comparison's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--attention", "false", "--text", "x"], "text has no effect beside attention false"),
        (["--attention", "false", "--data", "x"], "data has no effect beside attention false"),
    ],
)
def test_an_option_without_effect_is_an_error(paths, tmp_path, capsys, words, says):
    line = ["report", str(paths[0]), "--out", str(tmp_path / "r.html"), *words]
    assert cli.main(line) == 2
    assert says in capsys.readouterr().err
