"""A terminal that remembers, and what stands on it in the end."""

import io
import re


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(text: str) -> list[str]:
    """The lines that a terminal shows once it has been sent a text.

    It knows newlines, carriage returns, cursor up, and erasing to the end of the screen.
    """
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[\d*[AJ]|[\n\r]|[^\x1b\n\r]+", text):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            pass  # everything here is written to the line's end after it
        elif part.endswith("A"):
            row -= int(part[2:-1])
        elif part == "\x1b[J":
            lines[row:] = [""]
        else:
            lines[row] += part
    assert row >= 0
    return lines[:-1] if lines[-1] == "" else lines
