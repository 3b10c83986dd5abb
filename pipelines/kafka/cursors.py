"""Cursors: evidence of the last message that was read, with which a reader recognizes another topic of the same name.

Not every broker has ids of topics, and a cluster that has lost its tail keeps them. The message before the next one
then has another content, or does not exist. Pure.
"""

from hashlib import blake2b
from typing import NamedTuple, Self

from amends.pipelines.source import RawMessage

__all__ = ["Cursor"]

_DIGEST_BYTES = 8


class Cursor(NamedTuple):
    """The last message that was read.

    Attributes:
        position: Its position.
        digest: Digest of its key, content and time, as hexadecimal digits.
    """

    position: int
    digest: str

    @classmethod
    def of(cls, message: RawMessage) -> Self:
        """Return the cursor after a message."""
        content = blake2b(digest_size=_DIGEST_BYTES)
        for part in (message.key, message.value, str(message.source_ms).encode()):
            content.update(b"-" if part is None else b"%d:" % len(part) + part)
        return cls(message.position, content.hexdigest())

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the cursor of its stored text; `None` for any other text, such as an empty one."""
        position, _, digest = text.partition(":")
        if not position.isascii() or not position.isdecimal() or not digest:
            return None
        return cls(int(position), digest)

    def __str__(self) -> str:
        return f"{self.position}:{self.digest}"
