"""The model of a pipeline's messages: reading, versions and upcasters. Pure.

A model has versions as events have them: with `class_version = 3` it has static methods `upcast_v1_v2(state)` and
`upcast_v2_v3(state)`, which change the content in place. A message names its version in its member `class_version`; one
without it has version 1.

Every fault becomes an `InputError` whose `fault` quotes no content.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, JsonValue, ValidationError

from amends.aggregates.errors import DefinitionError, InputError
from amends.aggregates.text import shorten
from amends.aggregates.values.error_report import class_name
from amends.aggregates.values.faults import INCOMING_WORDS, fault_text, field_names
from amends.aggregates.values.json_codec import type_adapter
from amends.aggregates.values.strict_json import json_bytes

__all__ = ["MessageModel"]

M = TypeVar("M", bound=BaseModel)

_VERSION_KEY = "class_version"


class MessageModel(Generic[M]):
    """Reads the content of messages as instances of a model.

    Args:
        model: The model.
        what: Name of the pipeline for messages, such as `pipeline 'orders'`.

    Raises:
        DefinitionError: Pydantic has no schema for the model, the version is not a number, or an upcaster is missing.
    """

    def __init__(self, model: type[M], what: str) -> None:
        self.version = _version_of(model, what)
        self._upcasters = [_upcaster(model, version, what) for version in range(1, self.version)]
        adapter = type_adapter(model, what)
        self._read_json: Callable[..., Any] = adapter.validator.validate_json
        self._read_python: Callable[..., Any] = adapter.validator.validate_python
        self._names = field_names(adapter.core_schema)

    def from_json(self, value: JsonValue, canonical: bytes) -> M:
        """Read a message from JSON.

        Args:
            value: The content.
            canonical: The same as canonical JSON text.

        Raises:
            InputError: The content is not valid.
        """
        current = self._current(value)
        raw = canonical if current is value else json_bytes(cast("JsonValue", current), "content")
        return self._validated(self._read_json, raw)

    def from_value(self, value: object) -> M:
        """Read a message from a value that a user's function has decoded.

        Raises:
            InputError: The value is not valid.
        """
        return self._validated(self._read_python, self._current(value))

    def _validated(self, read: Callable[..., Any], value: object) -> M:
        try:
            return cast("M", read(value, by_alias=True, by_name=True))
        except ValidationError as error:
            raise _refusal(fault_text(error, self._names, INCOMING_WORDS)) from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a user's validator may raise anything
            raise _refusal(f"a validator raised {class_name(error)}") from None

    def _current(self, value: object) -> object:
        """Return the content in the form of the model's version, without its member `class_version`."""
        if not isinstance(value, dict) or (self.version == 1 and _VERSION_KEY not in value):
            return value
        state = dict(value)
        found = state.pop(_VERSION_KEY, 1)
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise _refusal(f"its {_VERSION_KEY} is not a whole number from 1")
        if found > self.version:
            raise _refusal(f"it has version {found}, this program reads versions up to {self.version}; upgrade it")
        for version in range(found, self.version):
            self._upcast(state, version)
        return state

    def _upcast(self, state: dict[str, Any], version: int) -> None:
        name = f"upcast_v{version}_v{version + 1}"
        try:
            result = self._upcasters[version - 1](state)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a user's upcaster may raise anything
            raise _refusal(f"{name} raised {class_name(error)}") from None
        if result is not None:
            raise _refusal(f"{name} returned a value; change the state in place and return nothing")


def _refusal(fault: str) -> InputError:
    return InputError(f"content: {fault}", fault=fault)


def _version_of(model: type[BaseModel], what: str) -> int:
    if _VERSION_KEY in model.model_fields:
        raise DefinitionError(
            f"{what}: the field name {_VERSION_KEY} of {model.__qualname__} is reserved for its version; "
            f"rename the field, or declare the version as {_VERSION_KEY}: ClassVar[int]"
        )
    version = getattr(model, _VERSION_KEY, 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DefinitionError(
            f"{what}: {_VERSION_KEY} of {model.__qualname__} is {shorten(version)}; use a whole number from 1"
        )
    return version


def _upcaster(model: type[BaseModel], version: int, what: str) -> Callable[[dict[str, Any]], object]:
    name = f"upcast_v{version}_v{version + 1}"
    found = getattr(model, name, None)
    if not callable(found):
        raise DefinitionError(
            f"{what}: {model.__qualname__} has no {name}, which its {_VERSION_KEY} needs; "
            f"add a static method {name}(state)"
        )
    return cast("Callable[[dict[str, Any]], object]", found)
