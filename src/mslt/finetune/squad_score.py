"""How answers to SQuAD's questions are judged: exact match and F1, by the official rules.

The rules are those of the evaluation scripts of Rajpurkar et al. (2016 and 2018): case,
punctuation, articles and white space do not count, and of several answers the one that fits best
does. Scores are in percent. Imports no torch.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mslt.finetune.squad import Question
from mslt.foreign import fits, printable, read_json_object

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

COUNTS = ("questions", "unanswered")  # among the scores of `evaluate`
Judged = dict[str, float]  # by question, from 0 to 1


def normal(text: str) -> str:
    """A text without case, punctuation, articles and superfluous white space, in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact(said: str, truth: str) -> float:
    """1 where both are the same text, else 0."""
    return float(normal(said) == normal(truth))


def f1(said: str, truth: str) -> float:
    """Harmonic mean of precision and recall of the words; of an empty text, whether both are."""
    ours, theirs = normal(said).split(), normal(truth).split()
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    if not same:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


def judge(questions: Sequence[Question], said: Mapping[str, str]) -> tuple[Judged, Judged]:
    """Exact match and F1 of every question.

    A question that has no prediction counts as wrong, also where it has no answer. The script of
    2.0 takes an answer of punctuation or articles alone for none, that of 1.1 has it match exactly
    and never by words; which one judges depends on whether the set has unanswerable questions.
    """
    exacts, f1s = Judged(), Judged()
    without = any(not question.answers for question in questions)
    for question in questions:
        known = [answer.text for answer in question.answers]
        words = [text for text in known if normal(text)]
        if without:
            known = words = words or [""]
        text = said.get(question.id)
        exacts[question.id] = f1s[question.id] = 0.0
        if text is not None:
            exacts[question.id] = max(exact(text, truth) for truth in known)
            f1s[question.id] = max((f1(text, truth) for truth in words), default=0.0)
    return exacts, f1s


def best_threshold(
    questions: Sequence[Question],
    said: Mapping[str, str],
    judged: Judged,
    no_answer: Mapping[str, float],
) -> tuple[float, float]:
    """The best score, in percent, that a threshold gives, and the threshold.

    A question whose probability of no answer is above the threshold gets no answer. The search
    begins with no answer at all and gives one question after another its prediction, from the
    least probability up, as the official script does.

    Args:
        questions: of the set.
        said: the predictions, those of a threshold included.
        judged: their scores.
        no_answer: the probability that there is no answer, by question.
    """
    answered = {question.id: bool(question.answers) for question in questions}
    score = best = float(sum(not has for has in answered.values()))
    threshold = 0.0
    for name in sorted((q.id for q in questions if q.id in said), key=lambda name: no_answer[name]):
        score += judged[name] if answered[name] else -bool(said[name])
        if score > best:
            best, threshold = score, no_answer[name]
    return 100 * best / len(answered), threshold


def apply(
    said: Mapping[str, str], no_answer: Mapping[str, float], threshold: float
) -> dict[str, str]:
    """The predictions with no answer where its probability is above a threshold."""
    return {name: "" if no_answer[name] > threshold else text for name, text in said.items()}


def evaluate(questions: Sequence[Question], said: Mapping[str, str]) -> dict[str, float]:
    """Scores of predictions: means of exact match and F1.

    Returns:
        `exact` and `f1` in percent; how many `questions` there are, and how many are `unanswered`:
        have no prediction. Where some have no answer also `has_answer_exact`, `has_answer_f1`,
        `no_answer_exact` and `no_answer_f1`, of either kind alone.
    """
    exacts, f1s = judge(questions, said)
    parts = {"": list(questions)}
    if not all(question.answers for question in questions):
        parts["has_answer_"] = [q for q in questions if q.answers]
        parts["no_answer_"] = [q for q in questions if not q.answers]
    scores: dict[str, float] = {}
    for part, those in parts.items():
        for name, judged in (("exact", exacts), ("f1", f1s)):
            if those:
                scores[part + name] = 100 * sum(judged[q.id] for q in those) / len(those)
    missing = sum(question.id not in said for question in questions)
    return scores | dict(zip(COUNTS, (len(questions), missing)))


def read_predictions(path: Path) -> dict[str, str]:
    """A predictions.json in the official format: a text for each question's id, "" for no answer.

    Raises:
        ValueError: naming the question whose value is no text.
        OSError: it cannot be read.
    """
    return _read(path, str, "a text")


def read_no_answer(path: Path) -> dict[str, float]:
    """A na_prob.json in the official format: the probability of no answer by question.

    Raises:
        ValueError: naming the question whose value is no number.
        OSError: it cannot be read.
    """
    return _read(path, float, "a number")


def _read(path: Path, kind: type, wanted: str) -> dict:
    found = read_json_object(path)
    for name, value in found.items():
        if not fits(value, kind):
            raise ValueError(f"{path}: the value of {printable(name[:60])} is not {wanted}")
    return found


def evaluate_file(
    questions: Sequence[Question], predictions: Path, no_answer: Path | None = None
) -> dict[str, float]:
    """Scores of files in the official format.

    Args:
        questions: of the set that the predictions are for.
        predictions: predictions.json.
        no_answer: na_prob.json, which adds the best scores that a threshold gives.

    Raises:
        ValueError: a file is damaged, or is for other questions.
        OSError: a file cannot be read.
    """
    said = read_predictions(predictions)
    if not any(question.id in said for question in questions):
        raise ValueError(f"{predictions} has no prediction for any of the set's questions")
    scores = evaluate(questions, said)
    if no_answer is not None:
        chances = read_no_answer(no_answer)
        lacks = [name for name in said if name not in chances]
        if lacks:
            raise ValueError(f"{no_answer} lacks question {printable(lacks[0][:60])}")
        for name, judged in zip(("exact", "f1"), judge(questions, said)):
            scores[f"best_{name}"], scores[f"best_{name}_threshold"] = best_threshold(
                questions, said, judged, chances
            )
    return scores
