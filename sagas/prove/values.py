"""Copies and comparable forms of users' values, so that worlds can be forked and compared. Pure."""

import copy
from collections.abc import Hashable
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from amends.aggregates.events.aggregate import Aggregate

__all__ = ["content_of", "fork_aggregate"]

_ATOMS = frozenset({bool, int, float, complex, str, bytes, type(None), Decimal, datetime, date, timedelta, UUID})
_BOOKKEEPING = frozenset({"_created_on", "_modified_on", "_pending_events", "_version", "_id"})


def fork_aggregate(aggregate: Aggregate) -> Aggregate:
    """Return a copy of an aggregate that shares nothing changeable with it."""
    cls = type(aggregate)
    forked = object.__new__(cls)
    vars(forked).update({name: _forked(value) for name, value in vars(aggregate).items()})
    return forked


def _forked(value: Any) -> Any:  # noqa: ANN401 - a user's attribute
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is list:
        return [_forked(each) for each in value]
    if kind is dict:
        return {key: _forked(each) for key, each in value.items()}
    return copy.deepcopy(value)


def content_of(value: object) -> Hashable:
    """Return a form of a value that is equal for equal values and can be hashed.

    The times and the version of an aggregate are not part of it, because no decision depends on them.
    """
    kind = type(value)
    if kind is str or kind is int:
        return value
    if kind in _ATOMS or isinstance(value, type | Enum):
        return kind, repr(value)
    if isinstance(value, dict):
        return kind, tuple((content_of(key), content_of(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return kind, tuple(content_of(each) for each in value)
    if isinstance(value, set | frozenset):
        return kind, frozenset(content_of(each) for each in value)
    if isinstance(value, Aggregate):
        return kind, tuple((name, content_of(each)) for name, each in vars(value).items() if name not in _BOOKKEEPING)
    if hasattr(value, "__dict__"):
        return kind, tuple((name, content_of(each)) for name, each in vars(value).items())
    return kind, repr(value)
