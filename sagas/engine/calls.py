"""Build the tasks by which a driver calls a user's function, and turn results and exceptions into outcomes."""

from dataclasses import dataclass
from typing import Any

from amends.aggregates.errors import (
    CannotContinueError,
    ChangedEventError,
    DefinitionError,
    EventError,
    InputError,
    NewerFactError,
    Rejected,
    UnknownTopicError,
)
from amends.aggregates.journal import StepWork
from amends.aggregates.run.plan import PlanNode
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import Direction, NodeState
from amends.aggregates.values.error_report import (
    class_name,
    describe,
    is_a,
    leaves,
    lineage,
    raised_in_amends,
    reason_of,
    text_of,
)
from amends.aggregates.values.json_codec import clean_text
from amends.sagas.definition.context import Call, UnitOfWork
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.step_definition import Operation
from amends.sagas.engine.arguments import Arguments, BlockerKind, arguments_of
from amends.sagas.engine.outcome import Failed, NotFound, Outcome, Postponed, Refused, Succeeded

__all__ = [
    "EffectCall",
    "generation_of",
    "key_of",
    "outcome_of_error",
    "outcome_of_result",
    "postponement_of",
    "task_for",
    "unit_of_work_for",
]

_CANCELLED = "asyncio.exceptions.CancelledError"


@dataclass(frozen=True, slots=True)
class EffectCall:
    """One call of an effect, its compensation or its probe.

    Attributes:
        run_id: The run.
        node: The node.
        direction: Which of the step's functions.
        attempt: The attempt, from 1.
        generation: The generation in the key.
        key: The idempotency key.
        arguments: The function, its bounds and its first argument.
        call: Its second argument.
        step: Name of the step, whose codec writes the result.
        cause: Id of the fact that declared the intent.
    """

    run_id: str
    node: str
    direction: Direction
    attempt: int
    generation: int
    key: str
    arguments: Arguments
    call: Call
    step: str
    cause: str

    @property
    def operation(self) -> Operation:
        """The function and its bounds."""
        return self.arguments.operation

    @property
    def argument(self) -> Any:  # noqa: ANN401 - of the type that the user's function takes
        """The function's first argument, computed by the mapping, which is the user's code and may raise anything."""
        return self.arguments.first()


def key_of(run_id: str, node: str, direction: Direction, generation: int) -> str:
    """Return an idempotency key: the same for every attempt, another for an undo or a redo.

    A probe asks about the do, so it uses the key of the do.
    """
    return f"{run_id}/{node}/{Direction.UNDO if direction is Direction.UNDO else Direction.DO}/{generation}"


def generation_of(at: NodeState, direction: Direction) -> int:
    """Return the generation in the key of a call in this direction."""
    return at.undo_generation if direction is Direction.UNDO else at.generation


def task_for(
    registry: Registry, record: RunRecord, node: PlanNode, direction: Direction, *, attempt: int, cause: str
) -> EffectCall:
    """Return the task of one call: function, arguments, context and key.

    Raises:
        CannotContinueError: The deployed code cannot make this call.
    """
    at = record.state.node(node.name)
    generation = generation_of(at, direction)
    do_key = key_of(record.run_id, node.name, Direction.DO, at.generation)
    key = key_of(record.run_id, node.name, direction, generation)
    arguments = arguments_of(registry, record, node, direction)
    call = Call(
        run_id=record.run_id,
        node=node.name,
        key=key,
        attempt=attempt,
        results=record.results,
        plan=record.state.plan,
        do_key=do_key,
    )
    return EffectCall(record.run_id, node.name, direction, attempt, generation, key, arguments, call, node.step, cause)


def unit_of_work_for(
    record: RunRecord, node: PlanNode, direction: Direction, *, attempt: int, work: StepWork
) -> UnitOfWork:
    """Return the context of a transaction or of its compensation."""
    generation = generation_of(record.state.node(node.name), direction)
    return UnitOfWork(
        run_id=record.run_id,
        node=node.name,
        key=key_of(record.run_id, node.name, direction, generation),
        attempt=attempt,
        results=record.results,
        plan=record.state.plan,
        work=work,
    )


def outcome_of_result(registry: Registry, step: str, direction: Direction, value: object) -> Outcome:
    """Turn the result of a function into an outcome.

    A result that cannot be stored is a failure that another attempt cannot fix.
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
    """Turn the exception of a function into an outcome; never raises.

    A group of exceptions, as a TaskGroup raises it, is a refusal if it contains only refusals and siblings that were
    cancelled because of one: the participant's answer is the same, no matter where in the step it arrived. A group that
    also contains any other error is a failed attempt, because the effects of that error are unknown.

    An error that shows that the deployed code cannot continue the run counts anywhere in the chain of causes: a step
    that wraps such an error was neither refused nor failed.
    """
    if (postponed := postponement_of(error)) is not None:
        return postponed
    refusals = [each for each in leaves(error) if class_name(each, qualified=True) != _CANCELLED]
    if refusals and all(is_a(each, Rejected) for each in refusals):
        return Refused(clean_text("; ".join(dict.fromkeys(map(reason_of, refusals)))))
    report = describe(error)
    return Failed(report.error_type, report.message, chain=report.chain)


def postponement_of(error: BaseException) -> Postponed | None:
    """Return why the deployed code could not complete a call; `None` if the error has another cause.

    `raise ... from None` cuts the chain: then the step has handled the error, and its own exception counts.
    """
    for each in lineage(error):
        if is_a(each, CannotContinueError):
            return Postponed(each.kind, each.why, each.remedy)  # type: ignore[attr-defined]  # checked
        if is_a(each, EventError):
            return Postponed(
                BlockerKind.AGGREGATE.value,
                "a stored event of an aggregate that the step uses cannot be read",
                f"{_remedy_of(each)} (amends db check names the event)",
            )
        if is_a(each, DefinitionError) and raised_in_amends(each):
            why = "an aggregate class that the step uses has a fault"
            return Postponed(BlockerKind.AGGREGATE.value, why, f"correct the class: {text_of(each)}")
    return None


def _remedy_of(error: BaseException) -> str:
    """Return the remedy for an event that cannot be read. It quotes no value, and is the same for all such events."""
    if is_a(error, UnknownTopicError) or is_a(error, NewerFactError):
        return "deploy the module with the classes of the aggregate and its events"
    if is_a(error, ChangedEventError):
        return "restore its row from a backup"
    return "correct the event's class or add an upcaster, or restore the row"
