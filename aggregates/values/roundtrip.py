"""Compare a value with the value that is read back after writing it, and find the first difference. Pure.

JSON and type coercion lose things silently: integer keys become text, tuples become lists, a subclass loses its fields.
`first_difference` finds the first such loss, and the codecs then refuse the value.
"""

import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime, time
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from amends.aggregates.text import one_line

__all__ = ["Difference", "equality_suffices", "first_difference", "has_zone"]


class Difference(NamedTuple):
    """The first place where two values differ.

    Attributes:
        path: The place, such as `items[0].amount`; empty for the value itself.
        written: The written part.
        read: The same part after reading it back.
        key: Whether a key of a mapping differs, not a value.
    """

    path: str
    written: object
    read: object
    key: bool = False


def first_difference(written: object, read: object, *, exact: bool = False, path: str = "") -> Difference | None:
    """Return the first place where two values differ, comparing deeply, also objects without their own equality.

    A loose comparison accepts two values that code with the declared types cannot distinguish: `3` may come back as
    `3.0` and a `StrEnum` member as its text, but a subclass never as its base. An exact comparison also compares types,
    order of keys and the sign of zero.

    Args:
        written: The original.
        read: The value that came back.
        exact: Whether to compare exactly.
        path: The place of the values, for the result.

    Returns:
        The first difference, or `None`.
    """
    if exact and type(written) is not type(read):
        return Difference(path, written, read)
    if isinstance(written, BaseModel) or (dataclasses.is_dataclass(written) and not isinstance(written, type)):
        return _between_objects(written, read, exact=exact, path=path)
    if isinstance(written, Mapping):
        return _between_mappings(written, read, exact=exact, path=path)
    if isinstance(written, list | tuple | deque):
        return _between_sequences(written, read, exact=exact, path=path)
    if isinstance(written, set | frozenset) and isinstance(read, set | frozenset):
        return _between_sets(written, read, exact=exact, path=path)
    return None if _same_leaf(written, read, exact=exact) else Difference(path, written, read)


def _attributes(value: object) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return {**value.__dict__, **(value.__pydantic_extra__ or {}), **(value.__pydantic_private__ or {})}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    return dict(vars(value))


def _between_objects(written: object, read: object, *, exact: bool, path: str) -> Difference | None:
    if type(written) is not type(read):
        return Difference(path, written, read)
    ours, theirs = _attributes(written), _attributes(read)
    if ours.keys() != theirs.keys():
        return Difference(path, written, read)
    prefix = f"{path}." if path else ""
    return _first(
        first_difference(value, theirs[name], exact=exact, path=prefix + name) for name, value in ours.items()
    )


def _between_mappings(written: Mapping[Any, Any], read: object, *, exact: bool, path: str) -> Difference | None:
    if not isinstance(read, Mapping):
        return Difference(path, written, read)
    for ours, theirs in zip(written, read, strict=False):
        if (exact and ours != theirs) or ours not in read:
            return Difference(path, ours, theirs, key=True)
    if len(written) != len(read):
        return Difference(path, written, read)
    if any(type(key) is not str for key in written):
        # Equal keys are not always the same, because `==` holds between times in different zones.
        same = {key: key for key in read}
        for key in written:
            if (lost := first_difference(key, same[key], exact=exact)) is not None:
                return Difference(path, lost.written, lost.read, key=True)
    prefix = f"{path}." if path else ""
    return _first(
        first_difference(value, read[key], exact=exact, path=f"{prefix}{one_line(str(key))}")
        for key, value in written.items()
    )


def _between_sets(
    written: set[Any] | frozenset[Any], read: set[Any] | frozenset[Any], *, exact: bool, path: str
) -> Difference | None:
    if written != read or (exact and _typed(written) != _typed(read)):
        return Difference(path, written, read)
    same = {each: each for each in read}
    return _first(first_difference(each, same[each], exact=exact, path=path) for each in written)


def _between_sequences(
    written: list[Any] | tuple[Any, ...] | deque[Any], read: object, *, exact: bool, path: str
) -> Difference | None:
    kind = next(each for each in (list, tuple, deque) if isinstance(written, each))
    if not isinstance(read, kind) or len(written) != len(read):
        return Difference(path, written, read)
    if getattr(written, "maxlen", None) != getattr(read, "maxlen", None):
        return Difference(path, written, read)
    return _first(
        first_difference(ours, theirs, exact=exact, path=f"{path}[{index}]")
        for index, (ours, theirs) in enumerate(zip(written, read, strict=True))
    )


def _first(found: Iterable[Difference | None]) -> Difference | None:
    return next((each for each in found if each is not None), None)


def has_zone(moment: datetime | time) -> bool:
    """Check whether a time has a zone with rules of its own, such as Europe/Berlin; JSON keeps only the offset.

    UTC and fixed offsets are not such zones.
    """
    zone = moment.tzinfo
    if zone is None or (isinstance(zone, ZoneInfo) and zone.key == "UTC"):
        return False
    try:
        return isinstance(zone, ZoneInfo) or zone.utcoffset(None) is None
    except Exception:  # noqa: BLE001 - a foreign zone may raise anything; without an answer it counts as one with rules
        return True


_LEAVES = {"str", "int", "float", "bool", "none", "bytes", "decimal", "date", "timedelta", "uuid", "url"}
_BOXES = {"list", "tuple", "set", "frozenset", "dict", "nullable", "default", "union", "tagged-union"}
_RECORDS = {"model", "model-fields", "model-field", "typed-dict", "typed-dict-field"}
_DATACLASSES = {"dataclass", "dataclass-args", "dataclass-field"}
_EXACT = _LEAVES | _BOXES | _RECORDS | _DATACLASSES | {"literal", "enum", "definitions", "definition-ref"}
"""Kinds of pydantic schemas whose values `==` compares completely, which it does not do for times, for example."""


def equality_suffices(schema: object) -> bool:
    """Check whether `==` suffices to compare values of a pydantic schema; if not, use `first_difference`.

    Args:
        schema: The core schema of a type adapter.
    """
    if isinstance(schema, list | tuple):
        return all(map(equality_suffices, schema))
    if not isinstance(schema, dict):
        return True
    kind = schema.get("type")
    if isinstance(kind, str) and (kind not in _EXACT or not _compares_all(schema)):
        return False
    return all(equality_suffices(part) for name, part in schema.items() if name not in {"metadata", "default"})


def _compares_all(schema: dict[Any, Any]) -> bool:
    if "function" in str((schema.get("serialization") or {}).get("type")):
        return False
    cls = schema.get("cls")
    if schema["type"] == "model":
        return getattr(cls, "__eq__", None) is BaseModel.__eq__
    if schema["type"] == "dataclass" and isinstance(cls, type):
        # Only an `__eq__` that `dataclass` generates has no file; another one may ignore differences.
        code = getattr(cls.__eq__, "__code__", None)
        return code is not None and code.co_filename == "<string>" and all(each.compare for each in _fields(cls))
    return True


def _fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()


def _typed(members: Any) -> set[tuple[type, object]]:  # noqa: ANN401 - a set of anything
    return {(type(each), each) for each in members}


def _same_leaf(written: object, read: object, *, exact: bool) -> bool:
    if isinstance(written, datetime | time) and type(written) is type(read):
        # `==` is false across zones for every time within the hour that a clock change repeats (PEP 495), and ignores a
        # lost name of a zone. A naive time names no instant, so its fold has no meaning.
        return (
            written.replace(tzinfo=None, fold=0) == read.replace(tzinfo=None, fold=0)
            and written.utcoffset() == read.utcoffset()
            and has_zone(written) is has_zone(read)
        )
    if isinstance(written, Decimal) and isinstance(read, Decimal):
        return str(written) == str(read)
    if exact and isinstance(written, float):
        return repr(written) == repr(read)
    if type(written) is type(read) and type(written).__eq__ is object.__eq__ and hasattr(written, "__dict__"):
        return written is read or (
            bool(vars(written)) and first_difference(vars(written), vars(read), exact=exact) is None
        )
    try:
        return bool(written == read)
    except Exception:  # noqa: BLE001 - a foreign `__eq__` may raise anything; then the values count as different
        return False
