"""Text for messages, from any value, in one line.

Every module that prints or raises messages imports it, `amends --help` included, so it imports only the standard
library.
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
    """Return a value as one line of at most 80 characters, for any size of the value and any behavior of its `repr`."""
    text = one_line(_SHORT.repr(value))
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


def one_line(text: str) -> str:
    """Return text with white space collapsed and control characters masked, so that it cannot break up a message."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))
