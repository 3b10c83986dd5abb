"""Snapshots of aggregates: an optimisation, never the truth. Pure.

Amends takes a snapshot only if it can be restored exactly: same types, same order, nothing shared or left out. Only
code that would compute the same state may use it. Any change of the aggregate's class makes the snapshot void, and the
next load folds the aggregate from its events.
"""

import hashlib
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar

from eventsourcing.domain import CommandMethodDecorator
from pydantic import BaseModel, TypeAdapter

from amends.aggregates.errors import DefinitionError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.events.event_types import event_classes, event_types, record_adapter, resolved_hints
from amends.aggregates.values.error_report import text_of
from amends.aggregates.values.json_codec import loss_message
from amends.aggregates.values.roundtrip import first_difference

__all__ = ["Snapshot", "SnapshotSkipped", "restore_snapshot", "snapshot_key", "take_snapshot"]

A = TypeVar("A", bound=Aggregate)

_OWN = frozenset({"_id", "_version", "_pending_events"})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An aggregate's state at a position.

    Attributes:
        stream: The aggregate's stream.
        position: Position of the last event in it, from 1.
        key: Fingerprint of the code that computed it; see `snapshot_key`.
        state: JSON text in UTF-8; order of keys matters, so store it as it is.
    """

    stream: str
    position: int
    key: str
    state: bytes


@dataclass(frozen=True, slots=True)
class SnapshotSkipped:
    """The reason why there is no snapshot; each load of the aggregate then folds all its events.

    Attributes:
        reason: The reason, in one line; worth logging once per class.
    """

    reason: str


def take_snapshot(aggregate: Aggregate) -> Snapshot | SnapshotSkipped:
    """Return an aggregate's state as a snapshot, if the snapshot can be restored exactly.

    The types of attributes come from annotations of the class and from event fields of the same name. An attribute
    without either must be plain JSON.
    """
    cls = type(aggregate)
    what = f"aggregate {cls.__qualname__} {aggregate.id!r}"
    state = {name: value for name, value in vars(aggregate).items() if name not in _OWN}
    try:
        adapter = _adapter(cls)
        raw: bytes = adapter.serializer.to_json(state, by_alias=False, round_trip=True, warnings=False)
        back = adapter.validator.validate_json(raw, by_alias=True, by_name=True)
    except DefinitionError as error:
        return SnapshotSkipped(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a user's type may raise anything
        return SnapshotSkipped(f"{what}: no snapshot: {text_of(error)}")
    # The order of keys counts within an attribute; the attributes themselves have none.
    lost = first_difference(dict(sorted(state.items())), dict(sorted(back.items())), exact=True)
    if lost is not None:
        return SnapshotSkipped(f"{what}: no snapshot: {loss_message(lost)}")
    shared = _shared_attribute(state)
    if shared is not None:
        return SnapshotSkipped(
            f"{what}: no snapshot: {shared} shares an object with another part of the state; store a copy"
        )
    return Snapshot(cls.stream_of(aggregate.id), aggregate.version, snapshot_key(cls), raw)


def restore_snapshot(cls: type[A], snapshot: Snapshot) -> A | None:
    """Return the aggregate; `None` if the snapshot is of other code or unusable: then fold the events."""
    prefix = f"{cls.category()}/"
    if snapshot.key != snapshot_key(cls) or not snapshot.stream.startswith(prefix):
        return None
    try:
        state = _adapter(cls).validator.validate_json(snapshot.state, by_alias=True, by_name=True)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - any fault makes the snapshot unusable; the events are the truth
        return None
    aggregate = object.__new__(cls)
    vars(aggregate).update(
        {"_id": snapshot.stream[len(prefix) :], "_version": snapshot.position, **state, "_pending_events": []}
    )
    return aggregate


@lru_cache(maxsize=1024)
def _adapter(cls: type[Aggregate]) -> TypeAdapter[Any]:
    known: dict[str, Any] = {}
    for event in event_classes(cls).values():
        for name, hint in event_types(event).items():
            # Events that disagree about the type of a name do not determine the attribute's type.
            known[name] = hint if known.get(name, hint) == hint else Any
    known.pop("timestamp", None)
    known.update({name: hint for name, hint in resolved_hints(cls).items() if name != "INITIAL_VERSION"})
    known.update(_created_on=datetime, _modified_on=datetime)
    return record_adapter(cls.__name__, known, optional=known, what=f"aggregate {cls.__qualname__}", open_ended=True)


def _shared_attribute(state: dict[str, Any]) -> str | None:
    seen: set[int] = set()

    def twice(value: object) -> bool:
        if isinstance(value, dict):
            parts: Iterator[object] = iter(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            parts = iter(value)
        elif hasattr(value, "__dict__") and not isinstance(value, type | Enum):
            parts = iter(vars(value).values())
        else:
            return False
        if not _immutable(value):
            if id(value) in seen:
                return True
            seen.add(id(value))
        return any(twice(part) for part in parts)

    return next((name for name, value in state.items() if twice(value)), None)


def _immutable(value: object) -> bool:
    if isinstance(value, BaseModel):
        return bool(value.model_config.get("frozen"))
    parameters = getattr(value, "__dataclass_params__", None)
    return isinstance(value, tuple | frozenset) or bool(getattr(parameters, "frozen", False))


@lru_cache(maxsize=1024)
def snapshot_key(cls: type[Aggregate]) -> str:
    """Return a fingerprint of an aggregate class: its methods, constants, events with their fields, and its bases.

    The fingerprint does not cover functions outside the class. If a change in one of them alters the effect of events
    on the state, change something in the class too, such as a constant.
    """
    found = hashlib.sha256()
    for base in cls.__mro__:
        if base is Aggregate:
            break
        for part in _parts(base, 0):
            found.update(part.encode("utf-8", "backslashreplace") + b"\0")
    return found.hexdigest()


def _parts(member: object, depth: int) -> Iterator[str]:
    function = _function(member)
    if function is not None:
        yield from _code_parts(function.__code__)
        yield from (_plain(each) for each in function.__defaults__ or ())
        yield from (f"{name}={_plain(each)}" for name, each in (function.__kwdefaults__ or {}).items())
    elif isinstance(member, property):
        for accessor in (member.fget, member.fset, member.fdel):
            yield from _parts(accessor, depth)
    elif isinstance(member, type) and depth < 2:  # noqa: PLR2004 - the class and the classes within it
        yield member.__qualname__
        for name, value in sorted(vars(member).items()):
            if name == "__annotations__":
                yield from (f"{each}: {hint}" for each, hint in sorted(value.items(), key=lambda pair: str(pair[0])))
            elif not name.startswith("__") or name in ("__init__", "__post_init__"):
                yield name
                yield from _parts(value, depth + 1)
    else:
        yield _plain(member)


def _function(member: object) -> types.FunctionType | None:
    if isinstance(member, CommandMethodDecorator):
        member = member.decorated_func
    found: Callable[..., Any] | object = inspect.unwrap(member) if callable(member) else member
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    return found if isinstance(found, types.FunctionType) else None


def _code_parts(code: types.CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code_parts(constant)
        elif isinstance(constant, frozenset):
            yield repr(sorted(map(repr, constant)))
        else:
            yield repr(constant)


def _plain(value: object) -> str:
    # Only these types have the same `repr` in every process; the `repr` of other objects may contain an address.
    return repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__qualname__
