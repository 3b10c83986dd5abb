"""The form of a line that a relay writes: a message with its id, key and headers, as one JSON object."""

import base64
import binascii
import json
from typing import Any

from amends.aggregates.errors import InputError
from amends.aggregates.outbox import ID_HEADER
from amends.aggregates.values.strict_json import Limits, parse_json
from amends.pipelines.files.line_file import LARGEST_LINE
from amends.pipelines.sink import Published
from amends.pipelines.source import RawMessage

__all__ = ["enveloped", "message_in"]

# The pipeline checks the message itself against its own limits.
_LIMITS = Limits(max_bytes=2 * LARGEST_LINE, max_depth=128)


def enveloped(message: Published) -> bytes:
    """Return the line of a message, with the end of the line."""
    head = {"id": message.id, "topic": message.topic, "key": message.key, "headers": list(message.headers)}
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    try:
        # The text itself, not what a parser reads from it, so that the receiver sees the same numbers.
        json.loads(message.value)
        value = b'"value":' + b" ".join(message.value.splitlines())
    except (ValueError, RecursionError):
        value = b'"base64":"' + base64.b64encode(message.value) + b'"'
    return text[:-1] + b"," + value + b"}\n"


def message_in(position: int, line: bytes) -> RawMessage:
    """Return the message that a line contains.

    A line that no relay has written becomes a message without an id, which a pipeline refuses.

    Args:
        position: Position of the message.
        line: The line without its end.
    """
    try:
        content = parse_json(line, what="line", limits=_LIMITS)
        if isinstance(content, dict):
            return _message(position, content)
    except (ValueError, KeyError, TypeError, InputError, binascii.Error):
        pass
    return RawMessage(position, None, line)


def _message(position: int, content: dict[str, Any]) -> RawMessage:
    headers = [(str(name), str(text).encode()) for name, text in content["headers"]]
    if "base64" in content:
        value = base64.b64decode(content["base64"], validate=True)
    else:
        value = json.dumps(content["value"], ensure_ascii=False, separators=(",", ":")).encode()
    identity = (ID_HEADER, str(content["id"]).encode())
    return RawMessage(position, str(content["key"]).encode(), value, (identity, *headers))
