"""Whether a value that was written and read again is still the same value, and how to say so in one line.

JSON and type coercion lose things silently: integer keys become text, tuples become lists, a subclass loses its fields.
`first_difference` finds the first such loss; the codecs refuse the value because of it. Nothing here writes or reads.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import datetime, time
from decimal import Decimal
from typing import Any, NamedTuple

from pydantic import BaseModel

from amends.aggregates.oneline import one_line

__all__ = ["Difference", "first_difference"]


class Difference(NamedTuple):
    """The first place where two values differ.

    Attributes:
        path: Where, such as `items[0].amount`; empty for the value itself.
        written: What was there.
        read: What is there after reading it back.
        key: Whether a key of a mapping differs, not a value.
    """

    path: str
    written: object
    read: object
    key: bool = False


def first_difference(written: object, read: object, *, exact: bool = False, path: str = "") -> Difference | None:
    """Compare deeply, also objects without an equality of their own.

    Loosely, two values are the same when code that keeps to the declared types cannot tell them apart: `3` may come
    back as `3.0` and a `StrEnum` member as its text, but a subclass never as its base. Exactly, types, order of keys
    and the sign of zero count as well.

    Args:
        written: The original.
        read: What came back.
        exact: Whether to compare exactly.
        path: Where the values are, for the result.

    Returns:
        The first difference, or `None`.
    """
    if exact and type(written) is not type(read):
        return Difference(path, written, read)
    if isinstance(written, BaseModel) or (dataclasses.is_dataclass(written) and not isinstance(written, type)):
        return _between_objects(written, read, exact=exact, path=path)
    if isinstance(written, Mapping):
        return _between_mappings(written, read, exact=exact, path=path)
    if isinstance(written, list | tuple):
        return _between_sequences(written, read, exact=exact, path=path)
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
    prefix = f"{path}." if path else ""
    return _first(
        first_difference(value, read[key], exact=exact, path=f"{prefix}{one_line(str(key))}")
        for key, value in written.items()
    )


def _between_sequences(
    written: list[Any] | tuple[Any, ...], read: object, *, exact: bool, path: str
) -> Difference | None:
    kind = list if isinstance(written, list) else tuple
    if not isinstance(read, kind) or len(written) != len(read):
        return Difference(path, written, read)
    return _first(
        first_difference(ours, theirs, exact=exact, path=f"{path}[{index}]")
        for index, (ours, theirs) in enumerate(zip(written, read, strict=True))
    )


def _first(found: Iterable[Difference | None]) -> Difference | None:
    return next((each for each in found if each is not None), None)


def _typed(members: Any) -> set[tuple[type, object]]:  # noqa: ANN401 - a set of anything
    return {(type(each), each) for each in members}


def _same_leaf(written: object, read: object, *, exact: bool) -> bool:
    if isinstance(written, datetime | time) and type(written) is type(read):
        # Across zones `==` is false for every time within the hour that a clock change repeats (PEP 495).
        return written.replace(tzinfo=None, fold=0) == read.replace(tzinfo=None, fold=0) and (
            written.utcoffset() == read.utcoffset()
        )
    if isinstance(written, Decimal) and isinstance(read, Decimal):
        return str(written) == str(read)
    if exact and isinstance(written, float | set | frozenset):
        return repr(written) == repr(read) if isinstance(written, float) else _typed(written) == _typed(read)
    if type(written) is type(read) and type(written).__eq__ is object.__eq__ and hasattr(written, "__dict__"):
        return written is read or (
            bool(vars(written)) and first_difference(vars(written), vars(read), exact=exact) is None
        )
    try:
        return bool(written == read)
    except Exception:  # noqa: BLE001 - a foreign `__eq__` may raise anything; what cannot be compared is not equal
        return False
