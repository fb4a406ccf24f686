"""Scores equal those worked out by hand."""

import numpy as np
import pytest

from mslt.finetune.metrics import judge


def test_scores_of_classes_are_those_of_their_definitions() -> None:
    truth, said = np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 1, 0])
    scores = judge(("accuracy", "f1", "matthews"), truth, said)
    assert scores["accuracy"] == pytest.approx(60)
    assert scores["f1"] == pytest.approx(100 * 2 * 2 / (2 * 2 + 1 + 1))
    # (tp tn - fp fn) / sqrt((tp + fp)(tp + fn)(tn + fp)(tn + fn)), with 2, 1, 1 and 1
    assert scores["matthews"] == pytest.approx(100 * (2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5)


def test_correlations_of_the_same_order_are_whole() -> None:
    truth = np.array([0.0, 1.0, 2.0, 5.0])
    scores = judge(("spearman", "pearson"), truth, truth**3)
    assert scores["spearman"] == pytest.approx(100)
    assert scores["pearson"] == pytest.approx(100 * np.corrcoef(truth, truth**3)[0, 1])


def test_a_correlation_with_a_constant_is_none_and_no_number() -> None:
    scores = judge(("spearman", "pearson"), np.array([0.0, 1, 2]), np.array([1.0, 1, 1]))
    assert scores == {"spearman": None, "pearson": None}
