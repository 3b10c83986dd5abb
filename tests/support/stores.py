"""Tests that run on one database before a landing, and on the other in `make soak`."""

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["POSTGRESQL_IN_SOAK", "on_one_store"]

STORES = ("sqlite", "postgresql")

POSTGRESQL_IN_SOAK = pytest.mark.parametrize(
    "store_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.soak)], indirect=True
)
"""Leaves a test on PostgreSQL to soak, where nothing in it is likely to depend on the database."""


def on_one_store(cases: Iterable[Any]) -> list[Any]:
    """Return the parameters `store_url` and the case's own: each case on each database, one of which is left to soak.

    The databases take turns, so that each of them has half of the cases.
    """
    return [
        pytest.param(store, case, marks=() if (number + at) % 2 == 0 else (pytest.mark.soak,), id=f"{store}-{case}")
        for number, case in enumerate(cases)
        for at, store in enumerate(STORES)
    ]
