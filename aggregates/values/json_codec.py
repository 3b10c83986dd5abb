"""Typed values as canonical JSON: how inputs and results are written, read and refused.

Every value that enters the journal passes a codec of this module. The codec writes the value, reads it back, compares,
and refuses a value that would come back different: otherwise a compensation could act on other data than its step did.
`strict_json` has untyped JSON; this module exports its names too. The module is pure.
"""

import re
from collections import deque
from collections.abc import Callable
from datetime import datetime, time
from typing import Any, Generic, NoReturn, TypeVar, cast, overload

from pydantic import JsonValue, PydanticUserError, Secret, SecretBytes, SecretStr, TypeAdapter, ValidationError

from amends.aggregates.errors import DefinitionError, InputError
from amends.aggregates.text import one_line, shorten
from amends.aggregates.values.error_report import class_name, line_of, text_of
from amends.aggregates.values.faults import fault_text, field_names
from amends.aggregates.values.roundtrip import Difference, equality_suffices, first_difference, has_zone
from amends.aggregates.values.strict_json import (
    DEFAULT_LIMITS,
    Limits,
    canonical_text,
    clean_text,
    difference,
    digest,
    json_bytes,
    member_path,
    parse_json,
    refuse_unreadable,
    same_json,
    too_deep,
)

__all__ = [
    "DEFAULT_LIMITS",
    "JsonCodec",
    "Limits",
    "canonical_text",
    "clean_text",
    "difference",
    "digest",
    "loss_message",
    "parse_json",
    "plainly_equal",
    "same_json",
    "type_adapter",
    "unwritable_remedy",
    "validation_message",
]

T = TypeVar("T")

_SHOWN_ERRORS = 3


def validation_message(error: ValidationError) -> str:
    """Return pydantic's faults in one line: the first three fields, each with the refused value."""
    found = error.errors(include_url=False, include_context=False)
    parts = []
    for each in found[:_SHOWN_ERRORS]:
        where = ""
        for part in each["loc"]:
            where = f"{where}[{part}]" if isinstance(part, int) else member_path(where, part)
        message = one_line(each["msg"])
        if each["type"] not in ("missing", "json_invalid"):
            message = f"{message}, got {shorten(each['input'])}"
        parts.append(f"{where}: {message}" if where else message)
    if len(found) > _SHOWN_ERRORS:
        parts.append(f"and {len(found) - _SHOWN_ERRORS} more")
    return "; ".join(parts)


def type_adapter(type_: Any, what: str) -> TypeAdapter[Any]:  # noqa: ANN401 - any type form, as pydantic takes it
    """Return pydantic's adapter for a type, with its schema complete.

    Raises:
        DefinitionError: Pydantic has no schema for the type, or a name in it cannot be resolved.
    """
    name = type_.__name__ if isinstance(type_, type) else one_line(str(type_))
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(type_)
        if not adapter.pydantic_complete:
            adapter.rebuild(raise_errors=True)
    except (PydanticUserError, NameError, TypeError) as error:
        reason = one_line(str(error).split("\n", maxsplit=1)[0].split(". ", maxsplit=1)[0])
        raise DefinitionError(
            f"{what}: type {name} cannot be stored as JSON ({reason}); use a pydantic model, a dataclass or plain types"
        ) from error
    return adapter


class JsonCodec(Generic[T]):
    """Writes and reads values of one type, and refuses values that would not come back equal.

    Create it once per type, because it compiles pydantic's schema.

    Args:
        type_: Any type that pydantic knows; `Any` for undeclared values, which must then be plain JSON.
        what: Description of the values in messages: `result of step 'charge_card'`.
        limits: Bounds of one value.

    Raises:
        DefinitionError: The store cannot hold the type.
    """

    __slots__ = ("_equal", "_has_sets", "_limits", "_names", "_read", "_schema", "_what", "_write")

    @overload
    def __init__(
        self: "JsonCodec[T]", type_: type[T], *, what: str = "value", limits: Limits = DEFAULT_LIMITS
    ) -> None: ...

    @overload
    def __init__(
        self: "JsonCodec[Any]",
        type_: Any,  # noqa: ANN401 - any type form
        *,
        what: str = "value",
        limits: Limits = DEFAULT_LIMITS,
    ) -> None: ...

    def __init__(
        self,
        type_: Any,
        *,
        what: str = "value",
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        adapter = type_adapter(type_, what)
        self._limits = limits
        self._what = what
        self._write: Callable[..., Any] = adapter.serializer.to_python
        self._read: Callable[..., Any] = adapter.validator.validate_json
        self._has_sets = _mentions_sets(adapter.core_schema)
        self._schema = adapter.core_schema
        self._names: frozenset[str] | None = None
        self._equal = plainly_equal if equality_suffices(adapter.core_schema) else _never

    def dump(self, value: T) -> JsonValue:
        """Return a value as JSON that reads back equal.

        Raises:
            InputError: It would not read back equal; the message names the place, the value and the remedy.
        """
        return self._dump(value)[0]

    def dump_text(self, value: T) -> str:
        """Return a value as canonical JSON text that reads back equal.

        Raises:
            InputError: As for `dump`.
        """
        return self._dump(value)[1]

    def load(self, value: JsonValue) -> T:
        """Read a value from JSON.

        Raises:
            InputError: The JSON is not valid for the type; the message lists the first three fields with their values,
                `fault` lists them without values.
        """
        return cast("T", self._validated(json_bytes(value, self._what)))

    def load_text(self, text: str | bytes) -> T:
        """Read a value from JSON text that came from outside, as strictly as `parse_json`.

        Raises:
            InputError: The text is refused, or not valid for the type.
        """
        return self.load(parse_json(text, what=self._what, limits=self._limits))

    def same(self, a: JsonValue, b: JsonValue) -> bool:
        """Check whether two JSON values mean the same value of the type, such as `"1.0"` and `1` for a `Decimal`."""
        return same_json(a, b) or bool(self.load(a) == self.load(b))

    def _validated(self, raw: bytes) -> Any:  # noqa: ANN401 - a T
        try:
            # Both, because Amends writes values by field name, and foreign input may use aliases.
            return self._read(raw, by_alias=True, by_name=True)
        except ValidationError as error:
            if self._names is None:
                self._names = field_names(self._schema)
            fault = fault_text(error, self._names)
            raise InputError(f"{self._what}: {validation_message(error)}", fault=fault) from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a user's validator may raise anything
            raise InputError(
                f"{self._what}: a validator raised {line_of(error)}", fault=f"a validator raised {class_name(error)}"
            ) from error

    def _dump(self, value: T) -> tuple[JsonValue, str]:
        what = self._what
        try:
            plain = self._write(value, mode="json", by_alias=False, round_trip=True, warnings=False)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a user's serializer may raise anything
            self._refuse_unserialisable(value, error)
        if self._has_sets:
            plain = _with_sorted_sets(self._write(value, by_alias=False, round_trip=True, warnings=False), plain)
        raw = json_bytes(plain, what)
        refuse_unreadable(raw, what=what, limits=self._limits)
        try:
            back = self._read(raw, by_alias=True, by_name=True)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a user's validator may raise anything
            found = validation_message(error) if isinstance(error, ValidationError) else text_of(error)
            raise InputError(
                f"{what}: {shorten(value)} could not be read back ({found}); return a value of the declared type"
            ) from None
        if not self._equal(value, back):
            lost = first_difference(value, back)
            if lost is not None:
                raise InputError(f"{what}: {loss_message(lost)}")
        return plain, raw.decode()

    def _refuse_unserialisable(self, value: object, error: BaseException) -> NoReturn:
        found = text_of(error)
        if "depth exceeded" in found or "ircular reference" in found:
            raise InputError(f"{self._what}: {too_deep(self._limits)}") from None
        raise InputError(
            f"{self._what}: {shorten(value)} cannot be written as JSON ({found}); {unwritable_remedy(found)}"
        ) from None


def unwritable_remedy(
    found: str, otherwise: str = "return plain data, a dataclass or a pydantic model, with its type declared"
) -> str:
    """Return the remedy for a value that pydantic cannot write.

    Args:
        found: The message of pydantic.
        otherwise: The remedy if there is no better one.
    """
    if "utf-8" in found:
        return (
            "for bytes that are not text, set ser_json_bytes='base64' and val_json_bytes='base64' in the model's "
            "config, or declare a result pydantic.Base64Bytes"
        )
    return otherwise


def loss_message(lost: Difference) -> str:
    """Return a message with the changed value and the way to keep the original."""
    where = f"{lost.path}: " if lost.path else ""
    if lost.key:
        return (
            f"{where}key {shorten(lost.written)} would be read back as {shorten(lost.read)}; "
            "use text keys, or declare the type of the keys"
        )
    if isinstance(lost.written, float) and lost.written - lost.written != 0:
        return f"{where}{lost.written} is not JSON; use a finite number or None"
    return (
        f"{where}{shorten(lost.written)} ({type(lost.written).__name__}) would be read back as "
        f"{shorten(lost.read)} ({type(lost.read).__name__}); {_loss_remedy(lost.written, lost.read)}"
    )


def _loss_remedy(written: object, read: object) -> str:
    match written:
        case datetime() if has_zone(written):
            return "convert it with .astimezone(UTC), and keep the zone in a field of its own, declared ZoneInfo"
        case datetime() if written.tzinfo is not None and isinstance(read, datetime):
            return "convert it with .astimezone(UTC)"
        case time() if written.tzinfo is not None:
            return "use a time of day without tzinfo, and keep the zone in a field of its own, declared ZoneInfo"
        case SecretStr() | SecretBytes() | Secret():
            return "keep the secret elsewhere and pass its name, or declare str or bytes to have it stored in clear"
        case re.Pattern():
            return "write the flags into the pattern, such as (?i)"
        case deque() if isinstance(read, deque) and written.maxlen != read.maxlen:
            return "use a deque without maxlen, and keep maxlen in a field of its own"
        case _ if type(written) is type(read):
            return "write and read the field as it is: no init=False, no exclude, no custom serializer"
    return "declare its actual type, or use plain JSON data"


def _never(_: object, __: object) -> bool:
    return False


def plainly_equal(value: object, back: object) -> bool:
    """Check equality by `==` alone, which settles most comparisons; after `False` compare with `first_difference`."""
    try:
        return type(value) is type(back) and (value == back) is True
    except Exception:  # noqa: BLE001 - a foreign `__eq__` may raise anything
        return False


def _mentions_sets(schema: object) -> bool:
    if isinstance(schema, dict):
        return schema.get("type") in ("set", "frozenset") or any(
            _mentions_sets(part) for name, part in schema.items() if name != "metadata"
        )
    return isinstance(schema, list | tuple) and any(_mentions_sets(part) for part in schema)


def _with_sorted_sets(value: object, plain: Any) -> Any:  # noqa: ANN401 - JSON
    """Return JSON with the members of sets sorted, because the order of a set differs between processes."""
    if isinstance(value, set | frozenset) and isinstance(plain, list):
        return sorted(plain, key=canonical_text)
    if isinstance(value, dict) and isinstance(plain, dict) and len(value) == len(plain):
        return {key: _with_sorted_sets(member, plain[key]) for key, member in zip(plain, value.values(), strict=True)}
    if isinstance(value, list | tuple) and isinstance(plain, list) and len(value) == len(plain):
        return [_with_sorted_sets(a, b) for a, b in zip(value, plain, strict=True)]
    return plain
