"""Check a request to start a run before anything is written: a valid id and a valid input."""

import re
from collections.abc import Mapping
from typing import Any

from amends.aggregates.errors import InputError
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.saga import Saga
from amends.sagas.engine.protocol import Start

__all__ = ["check_run_id", "prepare_start", "read_input"]

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,199}")
_SHOWN_CHARS = 60


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
