"""Text for messages: whatever it came from, it fits into one line.

Imported by everything that speaks to people, `amends --help` included, so it needs nothing but the standard library.
"""

import reprlib

__all__ = ["one_line", "shorten"]

_SHOWN_CHARS = 80


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 60
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 3
        self.maxlevel = 3


_SHORT = _Short()


def shorten(value: object) -> str:
    """Show a value within one line of at most 80 characters, whatever its size and however its `repr` behaves."""
    text = one_line(_SHORT.repr(value))
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


def one_line(text: str) -> str:
    """Fold white space and mask control characters, so that foreign text cannot break or repaint a message."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))
