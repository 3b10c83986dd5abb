"""JSON without types: each text that the package writes, differences of two values, and the refusal of input. Pure.

Typed values are in `json_codec`, which also exports the names of this module.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, NoReturn

from pydantic import JsonValue

from amends.aggregates.errors import InputError
from amends.aggregates.text import one_line, shorten

__all__ = [
    "DEFAULT_LIMITS",
    "RESERVED_KEYS",
    "Limits",
    "ascii_json",
    "canonical_text",
    "clean_text",
    "difference",
    "digest",
    "encodable",
    "json_bytes",
    "member_path",
    "parse_canonical",
    "parse_json",
    "readable_json",
    "refuse_unreadable",
    "same_json",
    "too_deep",
]

RESERVED_KEYS = frozenset({"_type_", "_data_"})
"""Keys by which eventsourcing's own transcoder marks encoded objects; a payload with them breaks its readers."""

_DEEPEST = 128  # pydantic's JSON reader gives up at about 200 levels
_FLOAT_DIGITS = 17  # 17 significant digits identify every IEEE 754 double


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one input, result or event.

    Attributes:
        max_bytes: Largest size of its JSON text, in bytes of UTF-8; at least 1.
        max_depth: Deepest nesting of lists and objects, 1 to 128.

    Raises:
        InputError: A bound is out of range.
    """

    max_bytes: int = 1_000_000
    max_depth: int = 64

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise InputError(f"limit max_bytes is {self.max_bytes}; use at least 1")
        if not 1 <= self.max_depth <= _DEEPEST:
            raise InputError(f"limit max_depth is {self.max_depth}; use 1 to {_DEEPEST}")


DEFAULT_LIMITS = Limits()

_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_READABLE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_ASCII = json.JSONEncoder(allow_nan=False)
_INDENTED = json.JSONEncoder(allow_nan=False, indent=2)


def canonical_text(value: JsonValue) -> str:
    """Return JSON in its one canonical form: sorted keys, no blanks, non-ASCII kept, no NaN or Infinity.

    Raises:
        InputError: The value contains a part that JSON cannot represent.
    """
    try:
        return _ENCODER.encode(value)
    except (ValueError, TypeError, RecursionError):
        _refuse_unwritable(value, "value")


def readable_json(value: object) -> str:
    """Return JSON on one line for people: no blanks, non-ASCII kept, keys in their order; NaN and Infinity stay."""
    return _READABLE.encode(value)


def ascii_json(value: object, *, indented: bool = False) -> str:
    """Return JSON for programs: pure ASCII, which every terminal, file and database can hold, keys in their order.

    Args:
        value: Any JSON value.
        indented: Whether each member has a line of its own; otherwise the text is one line.

    Raises:
        ValueError: The value contains NaN or Infinity, which no reader of JSON has to accept.
        TypeError: The value contains a part that JSON cannot represent.
    """
    return (_INDENTED if indented else _ASCII).encode(value)


def digest(value: JsonValue) -> str:
    """Return the fingerprint of a JSON value: SHA-256 of its canonical text, in hex; `1` and `1.0` differ."""
    return hashlib.sha256(canonical_text(value).encode()).hexdigest()


def clean_text(text: str, max_chars: int = 2_000) -> str:
    """Return foreign text, such as an exception's message, without lone surrogates and NUL, and of bounded length.

    Args:
        text: Anything.
        max_chars: Longest result, in characters; a longer text is cut off and ends in `...`.
    """
    cut = text if len(text) <= max_chars else text[: max_chars - 3] + "..."
    return cut.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def same_json(a: JsonValue, b: JsonValue) -> bool:
    """Check whether two JSON values mean the same; `1` and `1.0` do, `1` and `true` do not."""
    return next(_differences(a, b, ""), None) is None


def difference(a: JsonValue, b: JsonValue, *, limit: int = 5, first: str = "first run") -> list[str]:
    """Return the differences between a value and an earlier one, such as `amount: first run 10, now 12`.

    Args:
        a: The earlier value.
        b: The present value.
        limit: Largest number of lines, at least 1; if there are more differences, the last line counts them.
        first: Name of the earlier value's origin.

    Returns:
        One line per difference; none if `same_json(a, b)`.
    """
    lines = [f"{path or 'value'}: {first} {ours}, now {theirs}" for path, ours, theirs in _differences(a, b, "")]
    if len(lines) > limit:
        lines[limit - 1 :] = [f"and {len(lines) - limit + 1} more"]
    return lines


def _differences(a: JsonValue, b: JsonValue, path: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            at = member_path(path, key)
            if key not in b:
                yield at, shorten(a[key]), "absent"
            elif key not in a:
                yield at, "absent", shorten(b[key])
            else:
                yield from _differences(a[key], b[key], at)
    elif isinstance(a, list) and isinstance(b, list):
        for index in range(max(len(a), len(b))):
            at = f"{path}[{index}]"
            if index >= len(b):
                yield at, shorten(a[index]), "absent"
            elif index >= len(a):
                yield at, "absent", shorten(b[index])
            else:
                yield from _differences(a[index], b[index], at)
    elif isinstance(a, bool) is not isinstance(b, bool) or a != b:
        yield path, shorten(a), shorten(b)


def member_path(path: str, key: str) -> str:
    """Return the name of a member of an object for a message: `order.lines`."""
    name = shorten(key)[1:-1]
    return f"{path}.{name}" if path else name


# --- reading foreign text ---------------------------------------------------------------------------------------------


def parse_json(text: str | bytes, *, what: str = "input", limits: Limits = DEFAULT_LIMITS) -> JsonValue:
    """Read JSON that came from outside, strictly.

    Besides bad syntax, it refuses NaN and Infinity, numbers that a double cannot represent, duplicate keys, lone
    surrogates, reserved keys, too many bytes and too deep nesting.

    Args:
        text: JSON text, or its UTF-8 bytes.
        what: Description of the text in messages: `input of saga 'place-order'`.
        limits: Bounds of its size.

    Raises:
        InputError: The text is refused; `fault` says why without quoting it.
    """
    return parse_canonical(text, what=what, limits=limits)[0]


def parse_canonical(
    text: str | bytes, *, what: str = "input", limits: Limits = DEFAULT_LIMITS
) -> tuple[JsonValue, bytes]:
    """Read JSON as `parse_json` does, and return the value with its canonical text in UTF-8."""
    try:
        raw = text.encode() if isinstance(text, str) else text
        plain = text if isinstance(text, str) else text.decode()
    except UnicodeError as error:
        raise InputError(
            f"{what}: not UTF-8 text ({one_line(str(error))}); send JSON as UTF-8", fault="not UTF-8 text"
        ) from None
    _refuse_large(len(raw), what, limits)
    try:
        value: JsonValue = _strict_decoder(what).decode(plain.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{what}: not JSON: {error.msg} at line {error.lineno} column {error.colno}, near "
            f"{shorten(plain[max(0, error.pos - 10) : error.pos + 20])}",
            fault=f"not JSON at line {error.lineno} column {error.colno}",
        ) from None
    except RecursionError:
        raise _refusal(what, too_deep(limits)) from None
    canonical = json_bytes(value, what)
    refuse_unreadable(canonical, what=what, limits=limits)
    return value, canonical


@lru_cache(maxsize=64)
def _strict_decoder(what: str) -> json.JSONDecoder:
    def number(text: str) -> float:
        value = float(text)
        exact = Decimal(text)
        if value in (float("inf"), float("-inf")) or exact not in (
            Decimal(repr(value)),
            Decimal(value),
            Decimal(format(value, f".{_FLOAT_DIGITS}g")),
        ):
            raise InputError(
                f"{what}: number {shorten(text)[1:-1]} loses digits as a double; write it as text in quotes",
                fault="a number loses digits as a double",
            )
        return value

    def constant(text: str) -> NoReturn:
        raise _refusal(what, f"{text} is not JSON; use a finite number or null")

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{what}: key {shorten(twice)} appears twice; keep one", fault="a key appears twice")
        return found

    def integer(text: str) -> int:
        try:
            return int(text)
        except ValueError:  # more digits than Python converts
            raise _refusal(what, f"a number of {len(text)} digits is too long; write it as text in quotes") from None

    return json.JSONDecoder(object_pairs_hook=members, parse_float=number, parse_int=integer, parse_constant=constant)


# --- refusals ---------------------------------------------------------------------------------------------------------


def _refusal(what: str, problem: str) -> InputError:
    """Return the error for a problem whose description quotes no value."""
    return InputError(f"{what}: {problem}", fault=problem)


def too_deep(limits: Limits) -> str:
    """Return the message about too deep nesting, with the remedy."""
    return f"nested deeper than {limits.max_depth} levels, or refers to itself; flatten it"


def _refuse_large(size: int, what: str, limits: Limits) -> None:
    if size > limits.max_bytes:
        raise _refusal(
            what,
            f"{size} bytes of JSON, the limit is {limits.max_bytes}; keep the data elsewhere and pass a reference",
        )


def refuse_unreadable(raw: bytes, *, what: str, limits: Limits) -> None:
    """Refuse JSON that is too large, nested too deeply, or has reserved keys.

    Args:
        raw: The text in UTF-8.
        what: Description of the text in messages.
        limits: Bounds of its size.

    Raises:
        InputError: The text is refused.
    """
    _refuse_large(len(raw), what, limits)
    # Counting brackets, which bound the depth, and searching for reserved names runs at the speed of C; only the few
    # suspects need the slow inspection.
    suspect_depth = raw.count(b"[") + raw.count(b"{") > limits.max_depth
    if suspect_depth or b'"_type_"' in raw or b'"_data_"' in raw:
        try:
            level = [json.loads(raw)]
        except RecursionError:
            raise _refusal(what, too_deep(limits)) from None
        _refuse_by_level(level, what, limits)


def _refuse_by_level(level: list[JsonValue], what: str, limits: Limits) -> None:
    for _ in range(limits.max_depth + 1):
        if not level:
            return
        for each in level:
            if isinstance(each, dict) and not RESERVED_KEYS.isdisjoint(each):
                raise _refusal(what, f"key {min(RESERVED_KEYS & each.keys())!r} is reserved; rename it")
        level = [child for parent in level for child in _children(parent) if isinstance(child, dict | list)]
    raise _refusal(what, too_deep(limits))


def _children(value: JsonValue) -> Iterable[JsonValue]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def json_bytes(value: JsonValue, what: str) -> bytes:
    """Return canonical JSON as UTF-8.

    Raises:
        InputError: JSON cannot represent a part of the value; the message begins with `what` and names the place.
    """
    try:
        return _ENCODER.encode(value).encode()
    except (ValueError, TypeError, RecursionError):
        _refuse_unwritable(value, what)


def _refuse_unwritable(value: object, what: str) -> NoReturn:
    path, reason = next(_unwritable(value, "", 0), ("", "cannot be written as JSON; use plain data"))
    message = f"{what}: {path}: {reason}" if path else f"{what}: {reason}"
    raise InputError(message, fault="a part of it cannot be written as JSON") from None


def _unwritable(value: object, path: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > _DEEPEST:
        yield "", too_deep(DEFAULT_LIMITS)
    elif isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, str):
                yield path, f"key {shorten(key)} is not text; use text keys"
            else:
                yield from _unwritable(key, path, depth + 1)
                yield from _unwritable(member, member_path(path, key), depth + 1)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _unwritable(member, f"{path}[{index}]", depth + 1)
    elif isinstance(value, float) and value - value != 0:
        yield path, f"{value} is not JSON; use a finite number or None"
    elif isinstance(value, str) and not encodable(value):
        yield path, f"{shorten(value)} has a lone surrogate; use valid Unicode text"
    elif not isinstance(value, str | int | float | None):
        yield path, f"{shorten(value)} is {type(value).__name__}, which JSON cannot represent; use plain data"


def encodable(text: str) -> bool:
    """Check whether a text can be written in UTF-8, which is so unless it has a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
