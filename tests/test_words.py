"""Numbers and stages are written as people write them."""

import pytest

from mslt.words import metric


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
