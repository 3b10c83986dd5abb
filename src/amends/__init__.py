"""Amends: an event-sourced saga orchestrator with compensating actions.

This is the only module to import from; everything below it may move.
"""

from typing import TYPE_CHECKING, Any

from amends.aggregates.domain import Aggregate
from amends.aggregates.errors import (
    AmendsError,
    DefinitionError,
    InputError,
    NotFoundError,
    Rejected,
    StartConflictError,
    UnreachableError,
)
from amends.aggregates.state import RunStatus
from amends.sagas.context import Attempted, Call, Done, UnitOfWork
from amends.sagas.definition import Effect, Retry, Step, Transaction, effect, transaction
from amends.sagas.result import RunResult
from amends.sagas.saga import Saga, irreversible, parallel, pivot, retriable

if TYPE_CHECKING:
    from amends.sagas.client_temporal import Client

__all__ = [
    "Aggregate",
    "AmendsError",
    "Attempted",
    "Call",
    "Client",
    "DefinitionError",
    "Done",
    "Effect",
    "InputError",
    "NotFoundError",
    "Rejected",
    "Retry",
    "RunResult",
    "RunStatus",
    "Saga",
    "StartConflictError",
    "Step",
    "Transaction",
    "UnitOfWork",
    "UnreachableError",
    "effect",
    "irreversible",
    "parallel",
    "pivot",
    "retriable",
    "transaction",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    # Temporal and SQLAlchemy take long to import, and who defines sagas needs neither.
    if name == "Client":
        from amends.sagas.client_temporal import Client  # noqa: PLC0415 - see above

        return Client
    raise AttributeError(f"module 'amends' has no attribute {name!r}")
