"""Amends: an event-sourced saga orchestrator with compensating actions.

Import from this module only; the modules below it may move. A name is loaded when it is first used, because a module
that defines sagas needs neither Temporal nor SQLAlchemy, and `amends --help` needs none of the modules.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amends.aggregates.errors import (
        AmendsError,
        BusyError,
        DefinitionError,
        InputError,
        KeyConflictError,
        NotFoundError,
        RefusedError,
        Rejected,
        StartConflictError,
        UnreachableError,
    )
    from amends.aggregates.events.aggregate import Aggregate
    from amends.aggregates.inbox.rules import Answer
    from amends.aggregates.inbox.sql import Inbox
    from amends.aggregates.journal import RunQuery, StepWork
    from amends.aggregates.run.record import RunSummary
    from amends.aggregates.run.state import RunStatus
    from amends.cli.runtime.project_client import Client
    from amends.cli.runtime.project_worker import Worker
    from amends.pipelines.definition.bounds import Bounds
    from amends.pipelines.definition.pipeline import Header, Pipeline
    from amends.pipelines.definition.relays import Relay, RunRelay
    from amends.pipelines.definition.sinks import JsonLinesSink, KafkaSink, NatsSink
    from amends.pipelines.definition.sources import JsonLinesSource, KafkaSource, NatsSource, StoreSource
    from amends.pipelines.source import RawMessage
    from amends.reconciler.drift.drift import Cause, Command, Drift, DriftKind, Intervene, ScanFailed
    from amends.reconciler.drift.observation import Observation
    from amends.reconciler.drift.rule import drift_rule
    from amends.sagas.definition.context import Attempted, Call, Done, UnitOfWork
    from amends.sagas.definition.decorators import effect, transaction
    from amends.sagas.definition.participants import Contract, Participant
    from amends.sagas.definition.retry import Retry
    from amends.sagas.definition.saga import Saga, irreversible, parallel, pivot, retriable
    from amends.sagas.definition.steps import Effect, Step, Transaction
    from amends.sagas.engine.interventions import Intervention, InterventionKind
    from amends.sagas.engine.result import RunResult
    from amends.sagas.engine.time_limits import max_run_duration
    from amends.sagas.runtime.runner import Runner
    from amends.sagas.temporal.client import RunHandle

__all__ = [
    "Aggregate",
    "AmendsError",
    "Answer",
    "Attempted",
    "Bounds",
    "BusyError",
    "Call",
    "Cause",
    "Client",
    "Command",
    "Contract",
    "DefinitionError",
    "Done",
    "Drift",
    "DriftKind",
    "Effect",
    "Header",
    "Inbox",
    "InputError",
    "Intervene",
    "Intervention",
    "InterventionKind",
    "JsonLinesSink",
    "JsonLinesSource",
    "KafkaSink",
    "KafkaSource",
    "KeyConflictError",
    "NatsSink",
    "NatsSource",
    "NotFoundError",
    "Observation",
    "Participant",
    "Pipeline",
    "RawMessage",
    "RefusedError",
    "Rejected",
    "Relay",
    "Retry",
    "RunHandle",
    "RunQuery",
    "RunRelay",
    "RunResult",
    "RunStatus",
    "RunSummary",
    "Runner",
    "Saga",
    "ScanFailed",
    "StartConflictError",
    "Step",
    "StepWork",
    "StoreSource",
    "Transaction",
    "UnitOfWork",
    "UnreachableError",
    "Worker",
    "drift_rule",
    "effect",
    "irreversible",
    "max_run_duration",
    "parallel",
    "pivot",
    "retriable",
    "transaction",
]

_HOMES = {
    "aggregates.events.aggregate": ("Aggregate",),
    "aggregates.errors": (
        "AmendsError",
        "BusyError",
        "DefinitionError",
        "InputError",
        "KeyConflictError",
        "NotFoundError",
        "RefusedError",
        "Rejected",
        "StartConflictError",
        "UnreachableError",
    ),
    "aggregates.inbox.rules": ("Answer",),
    "aggregates.inbox.sql": ("Inbox",),
    "aggregates.journal": ("RunQuery", "StepWork"),
    "aggregates.run.record": ("RunSummary",),
    "aggregates.run.state": ("RunStatus",),
    "pipelines.definition.bounds": ("Bounds",),
    "pipelines.definition.pipeline": ("Header", "Pipeline"),
    "pipelines.definition.relays": ("Relay", "RunRelay"),
    "pipelines.definition.sinks": ("JsonLinesSink", "KafkaSink", "NatsSink"),
    "pipelines.definition.sources": ("JsonLinesSource", "KafkaSource", "NatsSource", "StoreSource"),
    "pipelines.source": ("RawMessage",),
    "reconciler.drift.drift": ("Cause", "Command", "ScanFailed", "Drift", "DriftKind", "Intervene"),
    "reconciler.drift.observation": ("Observation",),
    "reconciler.drift.rule": ("drift_rule",),
    "cli.runtime.project_client": ("Client",),
    "cli.runtime.project_worker": ("Worker",),
    "sagas.temporal.client": ("RunHandle",),
    "sagas.definition.context": ("Attempted", "Call", "Done", "UnitOfWork"),
    "sagas.definition.decorators": ("effect", "transaction"),
    "sagas.definition.retry": ("Retry",),
    "sagas.definition.steps": ("Effect", "Step", "Transaction"),
    "sagas.definition.participants": ("Contract", "Participant"),
    "sagas.engine.interventions": ("Intervention", "InterventionKind"),
    "sagas.engine.result": ("RunResult",),
    "sagas.runtime.runner": ("Runner",),
    "sagas.definition.saga": ("Saga", "irreversible", "parallel", "pivot", "retriable"),
    "sagas.engine.time_limits": ("max_run_duration",),
}
_HOME = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
