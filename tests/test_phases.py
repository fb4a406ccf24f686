"""Phases name what runs and add up its seconds."""

import pytest

from mslt.phases import Phases


def test_seconds_add_up_by_name_and_nested_phases_come_back():
    times = iter([0, 1, 3, 6, 10, 11])
    phases = Phases(lambda: next(times))
    with phases("forward"):
        with phases("prefix"):
            assert phases.current == "prefix"
        assert phases.current == "forward"
    with phases("forward"):
        pass
    assert phases.current == "idle"
    assert phases.seconds == {"prefix": 2, "forward": 6 + 1}


def test_without_a_clock_phases_are_named_only_and_an_error_ends_them():
    phases = Phases()

    def fail() -> None:
        with phases("backward"):
            raise RuntimeError(phases.current)

    with pytest.raises(RuntimeError, match="backward"):
        fail()
    assert phases.current == "idle"
    assert not phases.seconds
