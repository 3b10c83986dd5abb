"""The faults of a stored value, described without the value: names of fields and kinds of faults only. Pure.

Today's types may refuse a value that an earlier deploy accepted. The text about it goes to logs and to Temporal, which
must not contain user data. So it names only fields of the declared types, and contains no text from a user's validator.
"""

from collections.abc import Mapping
from typing import Any, Final, get_args

from pydantic import ValidationError
from pydantic_core.core_schema import ErrorType

__all__ = ["INCOMING_WORDS", "fault_text", "field_names"]

_SHOWN_ERRORS: Final = 3
_NAME_CHARS: Final = 60
_KNOWN: Final = frozenset(get_args(ErrorType))
_VALIDATORS: Final[Mapping[str, str]] = {
    "value_error": "is refused by a validator",
    "assertion_error": "is refused by a validator",
}
_STORED_WORDS: Final[Mapping[str, str]] = {
    "missing": "is required but was not stored",
    "extra_forbidden": "was stored but is no longer a field",
    "enum": "is no longer a member of its enum",
    "literal_error": "is no longer an allowed value",
    **_VALIDATORS,
}
INCOMING_WORDS: Final[Mapping[str, str]] = {
    "missing": "is required but absent",
    "extra_forbidden": "is not a field",
    "enum": "is not a member of its enum",
    "literal_error": "is not an allowed value",
    **_VALIDATORS,
}
"""The words for faults of a value that comes from outside."""


def field_names(schema: object) -> frozenset[str]:
    """Return the names, with aliases, of all fields that a core schema declares."""
    names: set[str] = set()
    _collect(schema, names)
    return frozenset(names)


def _collect(schema: object, names: set[str]) -> None:
    if isinstance(schema, list | tuple):
        for part in schema:
            _collect(part, names)
    if not isinstance(schema, dict):
        return
    fields = schema.get("fields")
    if isinstance(fields, dict):
        names.update(name for name in fields if isinstance(name, str))
    alias = schema.get("validation_alias")
    for name in (schema.get("name"), *(alias if isinstance(alias, list) else [alias])):
        if isinstance(name, str):
            names.add(name)
    for name, part in schema.items():
        if name != "metadata":
            _collect(part, names)


def fault_text(error: ValidationError, names: frozenset[str], words: Mapping[str, str] = _STORED_WORDS) -> str:
    """Return the first three faults that pydantic found in a value, in one line and without any value.

    Args:
        error: The faults.
        names: The names that the type declares; the text omits other parts of a place, such as keys.
        words: Words for kinds of faults; without an entry, the text names pydantic's kind.
    """
    found = error.errors(include_url=False, include_context=False, include_input=False)
    parts = list(dict.fromkeys(_one(each["type"], each["loc"], names, words) for each in found))
    shown = "; ".join(parts[:_SHOWN_ERRORS])
    return shown if len(parts) <= _SHOWN_ERRORS else f"{shown}; and {len(parts) - _SHOWN_ERRORS} more"


def _one(kind: str, place: tuple[int | str, ...], names: frozenset[str], words: Mapping[str, str]) -> str:
    where = ""
    for index, part in enumerate(place):
        where += _part(part, names, removed=kind == "extra_forbidden" and index == len(place) - 1)
    fault = words.get(kind) or f"does not fit its type ({kind if kind in _KNOWN else 'a validator refuses it'})"
    return f"{where.removeprefix('.') or 'the value'} {fault}"


def _part(part: Any, names: frozenset[str], *, removed: bool) -> str:  # noqa: ANN401 - a part of pydantic's location
    if isinstance(part, int):
        return f"[{part}]"
    # No type declares the name of a removed field any more, so a plain short name has to do.
    known = part in names or (removed and part.isidentifier() and len(part) <= _NAME_CHARS)
    return f".{part}" if known else "[...]"
