"""Views of held messages: rows, fields and JSON. Pure. Content is shown only for one message, on request."""

import base64

from pydantic import JsonValue

from amends.aggregates.errors import InputError
from amends.aggregates.intake import HeldMessage
from amends.aggregates.values.strict_json import parse_json
from amends.cli.views.table import Column
from amends.cli.views.times import ago, moment

__all__ = ["HELD", "held_fields", "held_json", "held_row"]

_SHOWN_BYTES = 20_000

HELD = (
    Column("partition", 9, copied=True),
    Column("position", 8, right=True),
    Column("kind", 8),
    Column("key", 8, copied=True),
    Column("id", 8, copied=True),
    Column("held", 9),
    Column("attempts", 8, right=True),
    Column("reason", 30, below=True, prose=True),
)
"""Columns of held messages."""


def held_row(message: HeldMessage, now_ms: int) -> tuple[str, ...]:
    """Return a held message as a row of `HELD`."""
    return (
        message.partition,
        str(message.position),
        message.kind.value,
        message.key,
        message.id,
        ago(message.held_at_ms, now_ms),
        str(message.attempts) if message.attempts else "",
        message.reason,
    )


def held_fields(message: HeldMessage) -> list[tuple[str, str]]:
    """Return a held message as named fields, with its content."""
    source_ms = message.source_ms
    given = [
        ("partition", message.partition),
        ("position", str(message.position)),
        ("kind", message.kind.value),
        ("key", message.key),
        ("id", message.id),
        ("reason", message.reason),
        ("attempts", str(message.attempts)),
        ("held since", moment(message.held_at_ms)),
        ("sent at", "" if source_ms is None else moment(source_ms)),
        *((f"header {name}", value.decode(errors="backslashreplace")) for name, value in message.headers),
        ("content", _content_text(message.value)),
    ]
    return [(name, value) for name, value in given if value]


def held_json(message: HeldMessage, *, content: bool = False) -> dict[str, JsonValue]:
    """Return a held message as JSON.

    Args:
        message: The message.
        content: Whether to add its headers and content: as JSON in `content` if it is JSON, and in any case as Base64
            in `value`.
    """
    found: dict[str, JsonValue] = {
        "partition": message.partition,
        "position": message.position,
        "kind": message.kind.value,
        "key": message.key,
        "message_id": message.id,
        "reason": message.reason,
        "attempts": message.attempts,
        "held_at_ms": message.held_at_ms,
        "source_ms": message.source_ms,
    }
    if content:
        found["headers"] = [[name, value.decode(errors="backslashreplace")] for name, value in message.headers]
        found["value"] = None if message.value is None else base64.b64encode(message.value).decode()
        found["content"] = _json(message.value)
    return found


def _json(value: bytes | None) -> JsonValue:
    try:
        return None if value is None else parse_json(value.decode(), what="the content")
    except (UnicodeDecodeError, InputError):
        return None


def _content_text(value: bytes | None) -> str:
    if value is None:
        return "none"
    text = value[:_SHOWN_BYTES].decode(errors="backslashreplace")
    more = len(value) - _SHOWN_BYTES
    return f"{text} ... and {more} more bytes" if more > 0 else text
