"""A version of SQuAD as one model's tokens, and its answers as the official files."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from mslt.finetune.loop import predict
from mslt.finetune.model import TaskModel
from mslt.finetune.squad import Question, read_set
from mslt.finetune.squad_score import COUNTS, Judged, apply, best_threshold, evaluate, judge
from mslt.finetune.squad_spans import Span, spans, windows
from mslt.finetune.tasks import Questions

PREDICTIONS, NBEST, NO_ANSWER = "predictions.json", "nbest_predictions.json", "na_prob.json"


class OfQuestions:
    """Questions to learn from, and those of the dev set to be judged by.

    Args:
        task: the version.
        where: folder of its files, or `hf:NAME`.
        tokenizer: the model's.
        most: questions to train on, the first ones; None for all.
        length: tokens of a window; None for the task's own.
        stride: tokens from one window's beginning to the next; None for the task's own or, with
            another length, for a third of that, as 128 is of 384.
        threshold: the probability of no answer above which nothing is said; None for the one with
            the best F1 on the dev set. An option of 2.0 alone.

    Raises:
        ValueError: the data are damaged, not there, or of the other version; or the length leaves
            no room for a text.
    """

    classes: int | None = None
    labels: tuple[str, ...] = ()

    def __init__(
        self,
        task: Questions,
        where: str | Path,
        tokenizer: Tokenizer,
        *,
        most: int | None = None,
        length: int | None = None,
        stride: int | None = None,
        threshold: float | None = None,
    ) -> None:
        stride = stride or (length // 3 if length else task.stride)
        length = length or task.length
        learned = read_set(where, task, "train", most)
        self.train = windows(learned, tokenizer, length, stride).encoded
        self._task, self._threshold = task, threshold
        self._dev = read_set(where, task, "dev")
        self._windows = windows(self._dev, tokenizer, length, stride)

    def judge(
        self, model: TaskModel, device: str
    ) -> tuple[dict[str, float | None], dict[str, bytes]]:
        """Scores in percent, with the threshold that was used, and the official files by name."""
        logits = predict(model, self._windows.encoded, device)
        best, none = spans(self._dev, self._windows, logits)
        scores, files = answered(self._dev, self._task, best, none, self._threshold)
        return {key: scores[key] for key in scores if key not in COUNTS}, files


def answered(
    questions: Sequence[Question],
    task: Questions,
    best: Sequence[Sequence[Span]],
    none: Sequence[Span],
    threshold: float | None = None,
) -> tuple[dict[str, float | None], dict[str, bytes]]:
    """Scores, and predictions.json, the n-best and, of 2.0, na_prob.json.

    The threshold of no answer is the one with the best F1 on these questions, as in Devlin et al.
    (2018), unless one is given; the n-best has the answers from before it.

    Args:
        questions: that were answered.
        task: their version.
        best: spans of each, the best first.
        none: of each the span of no answer.
        threshold: the probability of no answer above which nothing is said.
    """
    said = {q.id: these[0].text if these else "" for q, these in zip(questions, best)}
    found: dict[str, object] = {}
    extra: dict[str, float] = {}
    if task.unanswerable:
        chances = Judged()
        for question, these, empty in zip(questions, best, none):
            margin = empty.score - these[0].score if these else math.inf
            chances[question.id] = float(1 / (1 + np.exp(-np.float64(margin))))
        if threshold is None:
            _, threshold = best_threshold(questions, said, judge(questions, said)[1], chances)
        said = apply(said, chances, threshold)
        extra["threshold"] = threshold
        found[NO_ANSWER] = chances
    found[PREDICTIONS] = said
    ranked = {}
    for question, these, empty in zip(questions, best, none):
        listed = [*these, empty] if task.unanswerable or not these else these
        ranked[question.id] = _with_probabilities(listed)
    found[NBEST] = ranked
    files = {name: (json.dumps(what, indent=1) + "\n").encode() for name, what in found.items()}
    return {**evaluate(questions, said), **extra}, files


def _with_probabilities(listed: Sequence[Span]) -> list[dict[str, str | float]]:
    listed = sorted(listed, key=lambda span: -span.score)
    weights = np.exp([span.score - listed[0].score for span in listed])
    return [
        {
            "text": span.text,
            "probability": float(share),
            "start_logit": span.first,
            "end_logit": span.last,
        }
        for span, share in zip(listed, weights / weights.sum())
    ]
