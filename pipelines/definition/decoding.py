"""Decode a message: its content, id, key and sequence number, or the reason why it cannot be read. Pure.

A message and the functions that a user wrote for it come from outside, so every way in which they can end is a value:
`Decoded`, or `Refused` with a reason that names the fault and quotes no content. Only an `UnreachableError` of `decode`
passes through, such as that of a schema registry which does not answer, because a later attempt may succeed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic, NamedTuple, TypeVar, cast

from pydantic import BaseModel, JsonValue

from amends.aggregates.errors import InputError, UnreachableError
from amends.aggregates.text import one_line, shorten
from amends.aggregates.values.error_report import class_name
from amends.aggregates.values.strict_json import Limits, canonical_text, parse_canonical
from amends.pipelines.definition.pipeline import Header, Pipeline
from amends.pipelines.source import RawMessage

__all__ = ["DIGEST_BYTES", "MAX_ID_CHARS", "Decoded", "Refused", "decode"]

M = TypeVar("M", bound=BaseModel)

DIGEST_BYTES = 8
"""Length of the digest of a message's content."""
MAX_ID_CHARS = 200
"""Longest id or key of a message, in characters."""

_MOST = 2**63


@dataclass(frozen=True, slots=True)
class Decoded(Generic[M]):
    """A message that can be read.

    Attributes:
        id: Its id, 1 to 200 characters.
        key: Its key, 1 to 200 characters; the id if the pipeline has no keys.
        content: Its content.
        digest: 8 bytes: the digest of the content as it came; the order of members and blanks does not change it.
        sequence: The number that its producer counts for each key; `None` if the pipeline has no such numbers.
    """

    id: str
    key: str
    content: M
    digest: bytes
    sequence: int | None = None


class Refused(NamedTuple):
    """A message that cannot be read.

    Attributes:
        reason: The fault, in one line. It quotes no content.
        key: Its key; empty if it is unknown.
        id: Its id; empty if it is unknown.
    """

    reason: str
    key: str = ""
    id: str = ""


class _RefusalError(Exception):
    """The reason for which a part of a message cannot be read."""


def decode(pipeline: Pipeline[M], raw: RawMessage) -> Decoded[M] | Refused:
    """Decode a message.

    Raises:
        UnreachableError: The pipeline's `decode` raised it.
    """
    try:
        content, digest = _content(pipeline, raw)
    except _RefusalError as error:
        return Refused(str(error), _of_header(pipeline.key or pipeline.id, raw), _of_header(pipeline.id, raw))
    id_, key = "", ""
    try:
        # The key first, so that a message without an id still belongs to its key.
        if pipeline.key is not None:
            key = _text(pipeline.key, "key", raw, content)
        id_ = _text(pipeline.id, "id", raw, content)
        sequence = None if pipeline.sequence is None else _sequence(pipeline.sequence, content)
    except _RefusalError as error:
        return Refused(str(error), key, id_)
    return Decoded(id_, key if pipeline.key is not None else id_, content, digest, sequence)


# ---- content


def _content(pipeline: Pipeline[M], raw: RawMessage) -> tuple[M, bytes]:
    if raw.fault:
        raise _RefusalError(raw.fault)
    size, limit = len(raw.value or b""), pipeline.bounds.max_message_bytes
    if size > limit:
        raise _RefusalError(f"the content has {size} bytes, the limit is {limit}; raise max_message_bytes")
    try:
        if pipeline.decode is None:
            return _json_content(pipeline, raw, limit)
        value = _called(pipeline.decode, "decode", raw, passing=UnreachableError)
        digest = _digest_of(value, raw)  # before the upcasters, which may change the value
        return pipeline.message_model.from_value(value), digest
    except InputError as error:
        raise _RefusalError(f"content: {error.fault or 'not valid'}") from None


def _json_content(pipeline: Pipeline[M], raw: RawMessage, limit: int) -> tuple[M, bytes]:
    if raw.value is None:
        raise _RefusalError("the message has no content, as a deletion marker has; decode= can give it a meaning")
    value, canonical = parse_canonical(raw.value, what="content", limits=Limits(max_bytes=limit))
    return pipeline.message_model.from_json(value, canonical), _digest(canonical)


def _digest_of(value: object, raw: RawMessage) -> bytes:
    """Return the digest of a decoded value if it is plain JSON, or else that of the bytes."""
    try:
        return _digest(canonical_text(cast("JsonValue", value)).encode())
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a user's value may raise anything
        return _digest(raw.value or b"")


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=DIGEST_BYTES).digest()


# ---- id, key and sequence number


def _text(source: Callable[[M], str] | Header, word: str, raw: RawMessage, content: M) -> str:
    """Return the id or key of a message."""
    value = _header(source, word, raw) if isinstance(source, Header) else _called(source, word, content)
    if not isinstance(value, str):
        raise _RefusalError(f"the {word} is {_type_name(value)}; return text")
    text = value if type(value) is str else str.__getitem__(value, slice(None))
    if fault := _fault_of(text):
        raise _RefusalError(f"the {word} {fault}")
    return text


def _fault_of(text: str) -> str:
    """Return the reason for which a text can be no id or key; empty if there is none."""
    if not text:
        return "is empty"
    if len(text) > MAX_ID_CHARS:
        return f"has {len(text)} characters; use at most {MAX_ID_CHARS}"
    if "\0" in text:
        return "has a NUL character; use text without NUL"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "has a lone surrogate; use valid Unicode text"
    return ""


def _header(header: Header, word: str, raw: RawMessage) -> str:
    name = header.name.lower()
    values = {value for key, value in raw.headers if key.lower() == name}
    if len(values) != 1:
        count = "no header" if not values else f"{len(values)} different headers"
        raise _RefusalError(f"the message has {count} {shorten(header.name)}, which its {word} is read from")
    try:
        return values.pop().decode()
    except UnicodeDecodeError:
        raise _RefusalError(f"the {word} in header {shorten(header.name)} is not UTF-8 text") from None


def _of_header(source: object, raw: RawMessage) -> str:
    """Return an id or key that can be read without the content; empty if there is none."""
    if not isinstance(source, Header):
        return ""
    try:
        text = _header(source, "key", raw)
    except _RefusalError:
        return ""
    return "" if _fault_of(text) else text


def _sequence(function: Callable[[M], int], content: M) -> int:
    value = _called(function, "sequence", content)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _RefusalError(f"the sequence number is {_type_name(value)}; return a whole number")
    number = int.__index__(value)
    if not 0 <= number < _MOST:
        raise _RefusalError("the sequence number is out of range; use 0 to 2**63 - 1")
    return number


def _called(
    function: Callable[[Any], object],
    word: str,
    argument: object,
    *,
    passing: type[Exception] | tuple[type[Exception], ...] = (),
) -> object:
    try:
        return function(argument)
    except passing:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a user's function may raise anything
        raise _RefusalError(f"the function for {word} raised {class_name(error)}") from None


def _type_name(value: object) -> str:
    # Through the slot, because a metaclass may redefine the attribute.
    return one_line(type.__dict__["__name__"].__get__(type(value)))
