"""Questions as windows of tokens, and spans of tokens as answers.

A text that is longer than a model reads is cut into windows that overlap, as in Devlin et al.
(2018): each has the question before it, and of the windows that hold a token the one with the most
context on both of its sides speaks for it. Answers are taken from the text itself, by offsets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mslt.finetune.examples import Encoded
from mslt.finetune.squad import Question

QUESTION = 64  # tokens of a question at most (Devlin et al. 2018)
LONGEST = 30  # tokens of an answer
BEST = 20  # spans that are kept for a question, and ends that are tried in a window


@dataclass(frozen=True)
class Windows:
    """Windows of questions; W of them.

    Args:
        encoded: their tokens; labels [W, 2] are the first and last token of the answer, or zeros,
            [CLS], where the window does not hold it.
        question: the number of the question of each [W].
        first: where the text begins among the tokens of each [W].
        offsets: for each, the characters [n, 2] of its n tokens of text.
        speaks: for each, whether [n] it is the window with the most context for a token.
    """

    encoded: Encoded
    question: np.ndarray
    first: np.ndarray
    offsets: list[np.ndarray]
    speaks: list[np.ndarray]


@dataclass(frozen=True)
class Span:
    """A text of the context and the logits of its ends."""

    text: str
    first: float
    last: float

    @property
    def score(self) -> float:
        """The sum, which spans are ranked by."""
        return self.first + self.last


def windows(
    questions: Sequence[Question], tokenizer: Tokenizer, length: int, stride: int
) -> Windows:
    """Cut questions into windows.

    Args:
        questions: the first answer of each is the label.
        tokenizer: BERT's.
        length: tokens of a window, question and special tokens included.
        stride: tokens from one window's beginning to the next; fewer after a long question that
            leaves less room.

    Raises:
        ValueError: a window would have too little room for text.
    """
    if length < 2 * QUESTION or stride < 1:
        raise ValueError(
            f"a length of {length} and a stride of {stride}: questions take up to {QUESTION} "
            f"tokens, so a length must be at least {2 * QUESTION}, and a stride at least 1"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    contexts = list(dict.fromkeys(question.context for question in questions))
    cut = tokenizer.encode_batch(contexts, add_special_tokens=False)
    # Plain arrays are a tenth as large as the tokenizer's rows.
    texts = {
        context: (np.array(row.ids, np.int32), np.array(row.offsets, np.int32).reshape(-1, 2))
        for context, row in zip(contexts, cut)
    }
    asked = tokenizer.encode_batch([q.text for q in questions], add_special_tokens=False)
    pad, cls, sep = (tokenizer.token_to_id(name) or 0 for name in ("[PAD]", "[CLS]", "[SEP]"))
    ids, segments, labels, of, firsts, offsets, speaks = [], [], [], [], [], [], []
    for number, (question, row) in enumerate(zip(questions, asked)):
        head = np.array([cls, *row.ids[:QUESTION], sep], np.int32)
        tokens, places = texts[question.context]
        parts = _parts(len(tokens), length - len(head) - 1, stride)
        answer = _tokens_of(question, places)
        for (begin, end), speaking in zip(parts, _speaking(parts)):
            ids.append(np.concatenate([head, tokens[begin:end], [sep]], dtype=np.int32))
            segments.append((np.arange(len(ids[-1])) >= len(head)).astype(np.int8))
            inside = answer is not None and begin <= answer[0] and answer[1] < end
            shift = len(head) - begin
            labels.append((answer[0] + shift, answer[1] + shift) if answer and inside else (0, 0))
            of.append(number)
            firsts.append(len(head))
            offsets.append(places[begin:end])
            speaks.append(speaking)
    encoded = Encoded(ids, segments, np.array(labels, np.int64), pad)
    return Windows(encoded, np.array(of), np.array(firsts), offsets, speaks)


def _parts(tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Beginnings and ends of windows over so many tokens; one, of none, over an empty text."""
    begin, parts = 0, []
    while True:
        parts.append((begin, min(begin + room, tokens)))
        if begin + room >= tokens:
            return parts
        begin += min(stride, room)


def _speaking(parts: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Which tokens of each window have nowhere more context on their poorer side."""
    total = parts[-1][1]
    context = np.full((len(parts), total), -1.0)
    for i, (begin, end) in enumerate(parts):
        place = np.arange(end - begin)
        # A hundredth of the length breaks ties, as in Devlin et al.
        context[i, begin:end] = np.minimum(place, place[::-1]) + 0.01 * (end - begin)
    best = context.argmax(0)
    return [best[begin:end] == i for i, (begin, end) in enumerate(parts)]


def _tokens_of(question: Question, places: np.ndarray) -> tuple[int, int] | None:
    """First and last token of the first answer; None without one, or if no token is in it."""
    if not question.answers:
        return None
    answer = question.answers[0]
    end = answer.start + len(answer.text)
    inside = np.flatnonzero((places[:, 0] < end) & (places[:, 1] > answer.start))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def spans(
    questions: Sequence[Question], cut: Windows, logits: Sequence[np.ndarray]
) -> tuple[list[list[Span]], list[Span]]:
    """The best spans of each question, the best first, and its span of no answer.

    Args:
        questions: those that were cut.
        cut: their windows.
        logits: of each window [L, 2].

    Returns:
        By question: at most 20 spans of different texts, empty where the text has no token; and
        the ends' logits at [CLS] of the window that is surest of an answer.
    """
    found: list[list[tuple[float, float, int, int]]] = [[] for _ in questions]
    none: list[Span | None] = [None] * len(questions)
    for window, values in enumerate(logits):
        number = cut.question[window]
        empty = Span("", float(values[0, 0]), float(values[0, 1]))
        before = none[number]
        if before is None or empty.score < before.score:
            none[number] = empty
        found[number] += _in_window(cut, window, values)
    best = []
    for question, candidates in zip(questions, found):
        kept: dict[str, Span] = {}
        for first, last, begin, end in sorted(candidates, key=lambda c: -(c[0] + c[1])):
            text = question.context[begin:end]
            kept.setdefault(text, Span(text, first, last))
            if len(kept) == BEST:
                break
        best.append(list(kept.values()))
    return best, [span for span in none if span is not None]


def _in_window(cut: Windows, window: int, values: np.ndarray) -> list[tuple[Any, ...]]:
    """Logits and characters of the best pairs of ends within a window's text."""
    start, places, speaks = int(cut.first[window]), cut.offsets[window], cut.speaks[window]
    text = values[start : start + len(places)]
    ours = np.flatnonzero(speaks)
    firsts = ours[np.argsort(-text[ours, 0], kind="stable")[:BEST], None]
    lasts = np.argsort(-text[:, 1], kind="stable")[None, :BEST]
    rows, columns = np.nonzero((firsts <= lasts) & (lasts < firsts + LONGEST))
    i, j = firsts[rows, 0], lasts[0, columns]
    ends = (text[i, 0], text[j, 1], places[i, 0], places[j, 1])
    return list(zip(*(values.tolist() for values in ends)))
