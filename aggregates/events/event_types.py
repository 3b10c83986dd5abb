"""Types of an aggregate's events and attributes, read from its code. Pure.

eventsourcing generates an event class from the signature of each `@event` method. This module turns the annotations of
the signature into pydantic schemas, so that a `Decimal` that was stored as text comes back as a `Decimal`.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NotRequired, get_type_hints

from eventsourcing.domain import CanInitAggregate, CanMutateAggregate, decorated_funcs
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.values.json_codec import type_adapter

__all__ = ["NOT_STORED", "event_classes", "event_defaults", "event_types", "record_adapter", "resolved_hints"]

NOT_STORED = frozenset({"originator_id", "originator_version", "originator_topic"})
"""Fields of an event that are not in its payload: two have columns of their own, the third follows from the topic."""


def event_classes(aggregate: type[Aggregate]) -> dict[str, type[CanMutateAggregate[str]]]:
    """Return the event classes of an aggregate by name, without the base class `Event`."""
    return {
        value.__name__: value
        for name, value in vars(aggregate).items()
        if isinstance(value, type) and issubclass(value, CanMutateAggregate) and name != "Event"
    }


def event_types(event: type[CanMutateAggregate[str]]) -> dict[str, Any]:
    """Return the types of an event's stored fields; `Any` where an annotation is missing or cannot be resolved."""
    names = [field.name for field in dataclasses.fields(event) if field.name not in NOT_STORED]  # type: ignore[arg-type]
    types = resolved_hints(event)
    return {name: types.get(name, Any) for name in names}


def resolved_hints(cls: type) -> dict[str, Any]:
    """Return the resolved annotations of a class and its bases, without those that cannot be resolved."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, annotation in vars(base).get("__annotations__", {}).items():
            holder = type(base.__name__, (), {"__annotations__": {name: annotation}, "__module__": base.__module__})
            try:
                hint = get_type_hints(holder, include_extras=True)[name]
            except Exception:  # noqa: BLE001 - an annotation is any expression
                found.pop(name, None)
                continue
            found[name] = Any if hint is inspect.Parameter.empty else hint
    return found


def record_adapter(
    name: str, types: Mapping[str, Any], *, optional: Iterable[str] = (), what: str, open_ended: bool = False
) -> TypeAdapter[Any]:
    """Return pydantic's adapter for a dictionary with typed members.

    Args:
        name: Name of the dictionary's type in pydantic's own messages.
        types: Type of every member.
        optional: Members that may be absent.
        what: Name of the record in messages.
        open_ended: Whether the dictionary may have other members, as plain JSON.

    Raises:
        DefinitionError: The store cannot hold the type of a member; the message names the member.
    """
    for member, hint in types.items():
        type_adapter(hint, f"{what}: {member}")
    left_out = frozenset(optional)
    members = {member: NotRequired[hint] if member in left_out else hint for member, hint in types.items()}
    make: Any = TypedDict  # type checkers want the members of a `TypedDict` as literals; here they are data
    record = make(name, members)
    if open_ended:
        record.__pydantic_config__ = {"extra": "allow"}
    return type_adapter(record, what)


def event_defaults(aggregate: type[Aggregate], event: type[CanMutateAggregate[str]]) -> dict[str, Callable[[], Any]]:
    """Return functions that create the default values of fields that older stored events may lack."""
    found: dict[str, Callable[[], Any]] = {}
    function = decorated_funcs.get(event)
    if function is None and issubclass(event, CanInitAggregate):
        function = aggregate.__init__
    for name, parameter in inspect.signature(function).parameters.items() if function is not None else ():
        if parameter.default is not inspect.Parameter.empty:
            found[name] = _constant(parameter.default)
    for field in dataclasses.fields(event):  # type: ignore[arg-type]
        if field.default is not dataclasses.MISSING:
            found[field.name] = _constant(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory
    return {name: make for name, make in found.items() if name not in NOT_STORED}


def _constant(value: object) -> Callable[[], object]:
    return lambda: value
