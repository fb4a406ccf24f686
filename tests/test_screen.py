"""Lines at the bottom of a terminal are repainted in their place."""

import pytest
from screens import Terminal, shown

from mslt.screen import Screen, is_terminal


def test_lines_change_in_their_place_while_others_scroll_above() -> None:
    out = Terminal()
    screen = Screen(out)
    screen.paint(["one", "two"])
    screen.write("above")
    screen.paint(["three", "four", "five"])
    screen.write("and above")
    assert shown(out.getvalue()) == ["above", "and above", "three", "four", "five"]
    screen.paint(["six"])
    screen.close()
    screen.write("below")
    assert shown(out.getvalue()) == ["above", "and above", "six", "below"]


def test_nothing_painted_leaves_nothing() -> None:
    out = Terminal()
    Screen(out).close()
    assert out.getvalue() == ""


def test_a_terminal_without_unicode_gets_plain_bars() -> None:
    class Old(Terminal):
        encoding = "ascii"

    out = Old()
    Screen(out).paint(["━─┼ ·"])
    assert out.getvalue() == "#-| ;"


def test_a_dumb_terminal_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert is_terminal(Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal(Terminal())
