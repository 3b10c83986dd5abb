"""A request to start a run, and its checks: a valid id, a valid input, and the same request if the run exists."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from amends.aggregates.errors import InputError, StartConflictError
from amends.aggregates.run.facts import SagaStarted
from amends.aggregates.run.plan import Plan
from amends.aggregates.run.record import RunRecord
from amends.aggregates.values.json_codec import difference, same_json
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.saga import Saga

__all__ = ["Start", "check_run_id", "check_same_request", "check_same_start", "prepare_start", "read_input"]

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,199}")
_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Start:
    """A request to start a run.

    Attributes:
        run_id: The id of the run.
        plan: The plan that it will follow.
        input: Its input as JSON, validated.
        keys: Business keys and their values.
        driver: The driver that advances it.
        actor: The person or program that asks for it.
        correlation_id: The id that all facts of the business process share; `None` for the run's id.
        causation_id: Id of the message that caused it; `None` if there is none.
    """

    run_id: str
    plan: Plan
    input: JsonValue
    keys: dict[str, str]
    driver: str
    actor: str
    correlation_id: str | None = None
    causation_id: str | None = None


def check_run_id(run_id: object) -> str:
    """Return a run's id if every part of the system can carry it.

    Raises:
        InputError: The id is empty, longer than 200 characters, contains `..` or a character other than letters, digits
            and `. _ : @ + = -`, or does not begin with a letter or digit.
    """
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id) or ".." in run_id:
        shown = repr(run_id)
        if isinstance(run_id, str) and len(run_id) > _SHOWN_CHARS:
            shown = f"{run_id[:50]!r}... ({len(run_id)} characters)"
        raise InputError(
            f"run id {shown}: use 1 to 200 letters, digits and . _ : @ + = - (no '..'), beginning with a letter "
            f"or digit"
        )
    return run_id


def read_input(registry: Registry, saga: Saga[Any], text: str | bytes) -> object:
    """Read and validate a saga's input from JSON text.

    Raises:
        InputError: The text is not strict JSON, is too large, or is not valid for the saga's input type.
    """
    return registry.input_codec(saga).load_text(text)


def prepare_start(
    registry: Registry,
    saga: Saga[Any],
    value: object,
    *,
    run_id: str,
    driver: str,
    actor: str,
    correlation_id: str | None = None,
    causation_id: str | None = None,
) -> Start:
    """Check a request to start a run, and return it in the form that the protocol accepts.

    Args:
        registry: The registry that must contain the saga.
        saga: The saga.
        value: The input, of the saga's input type.
        run_id: Id of the run.
        driver: The driver that will advance it.
        actor: The person or program that asks for it.
        correlation_id: The id that all facts of the business process share; `None` for the run's id.
        causation_id: Id of the message that caused it; `None` if there is none.

    Raises:
        InputError: The id or the input is not valid.
        NotFoundError: The registry does not contain the saga.
    """
    check_run_id(run_id)
    registry.saga(saga.name)
    as_json = registry.input_codec(saga).dump(value)
    keys: Mapping[str, str] = saga.key_values(as_json)
    return Start(
        run_id=run_id,
        plan=saga.plan,
        input=as_json,
        keys=dict(keys),
        driver=driver,
        actor=actor,
        correlation_id=correlation_id,
        causation_id=causation_id,
    )


def check_same_start(registry: Registry, present: RunRecord, start: Start) -> None:
    """Check that an existing run was started by the same request.

    Raises:
        StartConflictError: A run of another saga or with another input has the id; the message shows the difference.
    """
    check_same_request(registry, present.started, start)


def check_same_request(registry: Registry, first: SagaStarted, start: Start) -> None:
    """Check that the first fact of a run records the same request.

    Raises:
        StartConflictError: A run of another saga or with another input has the id; the message shows the difference.
    """
    if first.saga != start.plan.saga:
        raise StartConflictError(
            f"run {start.run_id!r} exists already, of saga {first.saga!r}, not {start.plan.saga!r}; use another id"
        )
    if first.input != start.input and not same_json(first.input, start.input):
        saga = registry.sagas.get(first.saga)
        # Both inputs are read through the loaded model, so that a new field with a default is no difference.
        then = first.input if saga is None else saga.input_codec.dump(saga.input_codec.load(first.input))
        if not same_json(then, start.input):
            lines = "; ".join(difference(then, start.input))
            raise StartConflictError(
                f"run {start.run_id!r} exists already with another input ({lines}); use another id"
            )
