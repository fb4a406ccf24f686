"""Numbers and stages are written as people write them."""

import pytest

from mslt.plan import Stage
from mslt.words import describe, duration, metric


@pytest.mark.parametrize(
    ("value", "unit", "says"),
    [
        *((0, "", "0"), (950, "", "950"), (999.6, "", "1k"), (45_123_000, "", "45.1M")),
        *(
            (2.351e12, "F", "2.35TF"),
            (180e6, "B", "180MB"),
            (1.5, "", "1.5"),
            (0.0123, "s", "0.0123s"),
        ),
        (7e30, "", "7000000Y"),
    ],
)
def test_three_digits_and_a_unit(value: float, unit: str, says: str) -> None:
    assert metric(value, unit) == says


def test_a_stage_in_words() -> None:
    assert describe(Stage(6, 0, 10, 128)) == "6 layers, all learn, length 128"
    assert describe(Stage(6, 3, 10, 512)) == "6 layers, the top 3 learn, length 512"


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        *((0.4, "0 s"), (45, "45 s"), (89.4, "89 s"), (90, "2 min"), (5369, "89 min")),
        *((5400, "1 h 30 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")),
    ],
)
def test_durations_are_as_people_write_them(seconds: float, says: str) -> None:
    assert duration(seconds) == says
