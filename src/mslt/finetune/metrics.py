"""GLUE's metrics, by scikit-learn and scipy. What cannot be computed is None, never a number."""

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats
from sklearn import metrics


def _correlation(function: Callable[..., tuple[float, float]]) -> Callable[..., float]:
    def value(truth: np.ndarray, said: np.ndarray) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)  # None tells it
            return function(truth, said)[0]

    return value


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": metrics.accuracy_score,
    "f1": lambda truth, said: metrics.f1_score(truth, said, zero_division=0.0),
    "matthews": metrics.matthews_corrcoef,
    "spearman": _correlation(stats.spearmanr),
    "pearson": _correlation(stats.pearsonr),
}


def judge(names: Sequence[str], truth: np.ndarray, said: np.ndarray) -> dict[str, float | None]:
    """Scores in percent, as the paper's tables have them.

    Args:
        names: keys of `METRICS`.
        truth: the answers: numbers of labels, or numbers.
        said: the predictions, likewise.
    """
    found = {name: 100 * float(METRICS[name](truth, said)) for name in names}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}
