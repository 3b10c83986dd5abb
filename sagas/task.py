"""Tasks: what a driver needs to call one of the user's functions, and how their exceptions become outcomes."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from amends.aggregates.canonical import clean_text
from amends.aggregates.errorreport import NO_MESSAGE, class_name, describe, is_a, leaves, text_of
from amends.aggregates.errors import InputError, Rejected
from amends.aggregates.journal import StepWork
from amends.aggregates.plan import PlanNode, StepKind
from amends.aggregates.record import RunRecord
from amends.aggregates.state import NodeState
from amends.sagas.context import Attempted, Call, Done, UnitOfWork
from amends.sagas.definition import Operation
from amends.sagas.outcome import Failed, NotFound, Outcome, Refused, Succeeded
from amends.sagas.registry import Registry

__all__ = [
    "Direction",
    "Task",
    "generation_of",
    "key_of",
    "outcome_of_error",
    "outcome_of_result",
    "task_for",
    "transaction_arguments",
]

_CANCELLED = "asyncio.exceptions.CancelledError"


class Direction(StrEnum):
    """Which of a step's functions is called."""

    DO = "do"
    UNDO = "undo"
    PROBE = "probe"


@dataclass(frozen=True, slots=True)
class Task:
    """One call of an effect, its compensation or its probe.

    Attributes:
        run_id: The run.
        node: The node.
        direction: Which of the step's functions.
        attempt: The attempt, from 1.
        generation: Part of the key.
        key: The idempotency key.
        operation: The function and its bounds.
        argument: Its first argument.
        call: Its second argument.
        step: Name of the step, by which its result is written.
        cause: Id of the fact that declared the intent.
    """

    run_id: str
    node: str
    direction: Direction
    attempt: int
    generation: int
    key: str
    operation: Operation
    argument: Any
    call: Call
    step: str
    cause: str


def key_of(run_id: str, node: str, direction: Direction, generation: int) -> str:
    """Make an idempotency key: the same for every attempt, another for an undo or a redo.

    A probe asks about the do, and so has its key.
    """
    return f"{run_id}/{node}/{Direction.UNDO if direction is Direction.UNDO else Direction.DO}/{generation}"


def generation_of(at: NodeState, direction: Direction) -> int:
    """Tell which generation's key a call in some direction carries."""
    return at.undo_generation if direction is Direction.UNDO else at.generation


def task_for(
    registry: Registry, record: RunRecord, node: PlanNode, direction: Direction, *, attempt: int, cause: str
) -> Task:
    """Gather everything that one call needs.

    Raises:
        NotFoundError: The code that the run's plan names is not here.
        InputError: The stored input is not valid for today's code.
    """
    at = record.state.node(node.name)
    generation = generation_of(at, direction)
    do_key = key_of(record.run_id, node.name, Direction.DO, at.generation)
    key = key_of(record.run_id, node.name, direction, generation)
    operation = registry.operation(node.step, undo=direction is Direction.UNDO, probe=direction is Direction.PROBE)
    call = Call(run_id=record.run_id, node=node.name, key=key, attempt=attempt, results=record.results, do_key=do_key)
    argument = _argument(registry, record, node, direction)
    return Task(
        record.run_id, node.name, direction, attempt, generation, key, operation, argument, call, node.step, cause
    )


def transaction_arguments(
    registry: Registry, record: RunRecord, node: PlanNode, direction: Direction, *, attempt: int, work: StepWork
) -> tuple[Any, UnitOfWork]:
    """Gather the arguments of a transaction or of its compensation.

    Raises:
        InputError: The stored input is not valid for today's code.
    """
    generation = generation_of(record.state.node(node.name), direction)
    context = UnitOfWork(
        run_id=record.run_id,
        node=node.name,
        key=key_of(record.run_id, node.name, direction, generation),
        attempt=attempt,
        results=record.results,
        work=work,
    )
    return _argument(registry, record, node, direction), context


def _argument(registry: Registry, record: RunRecord, node: PlanNode, direction: Direction) -> Any:  # noqa: ANN401
    saga = registry.sagas.get(record.started.saga)
    codec = saga.input_codec if saga is not None else registry.step(node.step).input_codec
    given = codec.load(record.started.input)
    if node.mapping is not None:
        given = registry.mapping(node.mapping)(given)
    if direction is not Direction.UNDO:
        return given
    known = node.name in record.results
    result = registry.result_codec(node.step).load(record.results[node.name]) if known else None
    return (Done if node.kind is StepKind.TRANSACTION else Attempted)(given, result)


def outcome_of_result(registry: Registry, step: str, direction: Direction, value: object) -> Outcome:
    """Turn what a function returned into an outcome.

    A result that cannot be stored is a failure that another attempt cannot mend.
    """
    if direction is Direction.UNDO:
        return Succeeded(None)
    if direction is Direction.PROBE and value is None:
        return NotFound()
    try:
        return Succeeded(registry.result_codec(step).dump(value))
    except InputError as error:
        return Failed(class_name(error), text_of(error), final=True)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a type of the user's may raise anything when it is read
        report = describe(error)
        return Failed(report.error_type, report.message, final=True, chain=report.chain)


def outcome_of_error(error: BaseException) -> Outcome:
    """Turn whatever a function raised into an outcome; never raises.

    A group of exceptions, as a TaskGroup raises it, is a refusal when all that it holds are refusals, or siblings that
    were cancelled because of one: the participant's answer is the same, wherever in the step it arrived. A group that
    holds any other error besides is a failed attempt, since nobody knows what that one left behind.
    """
    refusals = [each for each in leaves(error) if class_name(each, qualified=True) != _CANCELLED]
    if refusals and all(is_a(each, Rejected) for each in refusals):
        return Refused(clean_text("; ".join(dict.fromkeys(map(_reason, refusals)))))
    report = describe(error)
    return Failed(report.error_type, report.message, chain=report.chain)


def _reason(refusal: BaseException) -> str:
    """Give the reason of a refusal, which a subclass may have forgotten, or replaced by anything."""
    try:
        reason = getattr(refusal, "reason", refusal)
    except BaseException:  # noqa: BLE001 - a property of the user's may raise anything
        reason = refusal
    text = NO_MESSAGE if reason is None else text_of(reason)
    return "no reason was given" if text == NO_MESSAGE else text
