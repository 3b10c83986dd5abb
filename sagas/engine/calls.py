"""Tasks: what a driver needs to call one of the user's functions, and how their exceptions become outcomes."""

from dataclasses import dataclass
from typing import Any

from amends.aggregates.errors import CannotContinueError, InputError, NewerFactError, Rejected, UnknownTopicError
from amends.aggregates.journal import StepWork
from amends.aggregates.run.plan import PlanNode
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import NodeState
from amends.aggregates.values.error_report import class_name, describe, is_a, leaves, lineage, reason_of, text_of
from amends.aggregates.values.json_codec import clean_text
from amends.sagas.definition.context import Call, UnitOfWork
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.steps import Operation
from amends.sagas.engine.arguments import Arguments, BlockerKind, Direction, arguments_of
from amends.sagas.engine.outcome import Failed, NotFound, Outcome, Postponed, Refused, Succeeded

__all__ = [
    "Direction",
    "Task",
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
class Task:
    """One call of an effect, its compensation or its probe.

    Attributes:
        run_id: The run.
        node: The node.
        direction: Which of the step's functions.
        attempt: The attempt, from 1.
        generation: Part of the key.
        key: The idempotency key.
        arguments: The function, its bounds and its first argument.
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
        """The function's first argument, made by the mapping, which is the user's code and may raise anything."""
        return self.arguments.first()


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
    return Task(record.run_id, node.name, direction, attempt, generation, key, arguments, call, node.step, cause)


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

    An error that says that the deployed code cannot continue the run counts wherever it is in the chain of causes: a
    step that wraps it has not been refused, and has not failed.
    """
    if (postponed := postponement_of(error)) is not None:
        return postponed
    refusals = [each for each in leaves(error) if class_name(each, qualified=True) != _CANCELLED]
    if refusals and all(is_a(each, Rejected) for each in refusals):
        return Refused(clean_text("; ".join(dict.fromkeys(map(reason_of, refusals)))))
    report = describe(error)
    return Failed(report.error_type, report.message, chain=report.chain)


def postponement_of(error: BaseException) -> Postponed | None:
    """Return why the deployed code could not complete a call; `None` where its error says nothing of that.

    `raise ... from None` cuts the chain: then the step has dealt with the error, and its own exception counts.
    """
    for each in lineage(error):
        if is_a(each, CannotContinueError):
            return Postponed(each.kind, each.why, each.remedy)  # type: ignore[attr-defined]  # checked
        if is_a(each, UnknownTopicError) or is_a(each, NewerFactError):
            return Postponed(
                BlockerKind.AGGREGATE.value,
                "a stored event of an aggregate that it uses cannot be read",
                "deploy the module with the classes of the aggregate and its events (amends db check names the event)",
            )
    return None
