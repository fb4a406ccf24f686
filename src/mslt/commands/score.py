"""mslt score: answers to SQuAD's questions, judged by the official rules."""

import json
from pathlib import Path

from mslt.options import Options


def command(argv: list[str]) -> int:
    """Judge a predictions.json against a file of SQuAD."""
    options = Options(
        "mslt score DATASET PREDICTIONS [options]",
        "Judge answers to SQuAD's questions, from this program or any other, by the rules of the "
        "official scripts: exact match and F1 in percent, of several answers the one that fits "
        "best. The version, 1.1 or 2.0, is seen from the data set. A question that has no "
        "prediction counts as wrong.",
        [
            "mslt score squad/dev-v1.1.json predictions.json",
            "mslt score squad/dev-v2.0.json predictions.json --na_prob na_prob.json",
        ],
    )
    options.positional("dataset", "a file of questions in SQuAD's JSON")
    options.positional("predictions", "JSON: a text by question's id, empty for no answer")
    options.option(
        "na_prob",
        str | None,
        "JSON: the probability of no answer by question's id; adds the best scores that a "
        "threshold of it gives (2.0)",
    )
    given = options.parse(argv)
    dataset = Path(options.need(given, "dataset"))
    predictions = Path(options.need(given, "predictions"))
    chances = Path(given["na_prob"]) if given.get("na_prob") else None

    from mslt.finetune.squad import read
    from mslt.finetune.squad_score import evaluate_file

    print(json.dumps(evaluate_file(read(dataset), predictions, chances), indent=2))
    return 0
