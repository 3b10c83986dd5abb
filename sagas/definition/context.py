"""The arguments of a user's function: the context of a call, and for a compensation the step that it undoes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, Literal, Protocol, TypeVar, overload

from pydantic import BaseModel, JsonValue

from amends.aggregates.errors import CannotContinueError, InputError, NotFoundError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.journal import StepWork
from amends.aggregates.run.plan import Plan

__all__ = ["Attempted", "Call", "Done", "ResultSource", "UnitOfWork"]

A = TypeVar("A", bound=Aggregate)
I_co = TypeVar("I_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)


D = TypeVar("D")

_PLAN_CHARS = 12


class _Unset(Enum):
    """Marks a default that the caller did not pass, because `None` is a default that a step may want."""

    UNSET = "unset"


class ResultSource(Protocol[R_co]):
    """The part of a step that reads its recorded result."""

    @property
    def name(self) -> str:
        """The node's name."""
        ...

    def load_result(self, value: JsonValue) -> R_co:
        """Build the result from its JSON."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """The facts about its run that every step can read.

    Attributes:
        run_id: Id of the run.
        node: Name of the node.
        key: The idempotency key: run, node, direction and generation; the same for every attempt.
        attempt: The attempt, from 1.
        results: Recorded results, by node.
        plan: The plan that the run follows; `None` outside of a run, such as in a unit test.
    """

    run_id: str
    node: str
    key: str
    attempt: int
    results: Mapping[str, JsonValue]
    plan: Plan | None = field(default=None, repr=False)

    @overload
    def result_of(self, step: ResultSource[R_co]) -> R_co: ...
    @overload
    def result_of(self, step: ResultSource[R_co], *, default: D) -> R_co | D: ...
    def result_of(self, step: ResultSource[R_co], *, default: D | Literal[_Unset.UNSET] = _Unset.UNSET) -> R_co | D:
        """Read the result that an earlier step of this run returned.

        A run that was started before the step was added to the saga follows a plan without it. Without `default` such a
        run waits, and no attempt is used.

        Args:
            step: The step, as the saga names it.
            default: The value for a run whose plan does not have the step; ignored if the plan has it.

        Raises:
            CannotContinueError: The run's plan does not have the step and there is no default, or the recorded result
                is no longer valid for its type. Do not catch this error: the run waits until other code is deployed.
            NotFoundError: The step has not succeeded before this one in this run.
        """
        if step.name in self.results:
            return self._loaded(step)
        if self.plan is not None and step.name not in self.plan.nodes:
            if default is not _Unset.UNSET:
                return default
            raise CannotContinueError(
                self.run_id,
                self.node,
                kind="plan",
                why=f"the step asks for the result of {step.name!r}, which the plan of the run does not contain (saga "
                f"{self.plan.saga!r}, plan {self.plan.fingerprint[:_PLAN_CHARS]})",
                remedy=f"deploy code that passes a default, result_of({step.name}, default=...), or put the new steps "
                "into a saga with another name",
            )
        raise NotFoundError(
            f"run {self.run_id!r}: {self.node!r} asks for the result of {step.name!r}, which has not succeeded "
            f"before it; put that step into an earlier stage of the saga"
        )

    def _loaded(self, step: ResultSource[R_co]) -> R_co:
        try:
            return step.load_result(self.results[step.name])
        except InputError as error:
            raise CannotContinueError(
                self.run_id,
                self.node,
                kind="result",
                why=f"the recorded result of {step.name!r} is no longer valid for its type: "
                f"{error.fault or 'its codec refuses it'}",
                remedy=f"deploy a result type of {step.name!r} that accepts the recorded result",
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(_Context):
    """The context of an effect, which calls somebody else's system, perhaps not for the first time.

    Pass `key` to the participant, so that it recognises a repeated call. The direction is part of the key, so an effect
    and its compensation have different keys; `do_key` in a compensation is the key of the effect that it undoes.

    Attributes:
        do_key: The key under which the effect itself was called; equal to `key` except in a compensation.
    """

    do_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitOfWork(_Context):
    """The context of a transaction; all changes made through it are committed together with the step's outcome.

    The driver runs the function again if the commit fails. So the function must do nothing that a rollback does not
    undo: no calls to other systems, no files, no global state.
    """

    work: StepWork

    def get(self, cls: type[A], id: str) -> A:  # noqa: A002 - the word that aggregates use
        """Load an aggregate; its changes are saved when the step succeeds.

        Raises:
            NotFoundError: There is no such aggregate.
        """
        return self.work.get(cls, id)

    def find(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - the word that aggregates use
        """Load an aggregate, or `None` when there is none."""
        return self.work.find(cls, id)

    def add(self, aggregate: A) -> A:
        """Save a new aggregate when the step succeeds.

        Raises:
            InputError: An aggregate of this class and id exists already.
        """
        return self.work.add(aggregate)

    def execute(self, statement: object, *, expect_rows: int | None = None) -> Sequence[tuple[Any, ...]]:
        """Run an SQLAlchemy statement on your own tables in the same database.

        Args:
            statement: An SQLAlchemy Core statement.
            expect_rows: The number of rows that it must match (or return); `None` for any number.

        Returns:
            The rows, for a statement that returns rows; otherwise nothing.

        Raises:
            InputError: The statement matched another number of rows. The step's changes are rolled back as well.
        """
        return self.work.execute(statement, expect_rows=expect_rows)

    def send(
        self, topic: str, *, key: str, value: BaseModel | JsonValue | bytes, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Send a message when the step succeeds: the outbox stores it in the commit, and a relay publishes it.

        Args:
            topic: Name of the destination, as the relays know it.
            key: Key that orders it: messages of one topic and key keep their order.
            value: A pydantic model or JSON value, which is written as JSON, or the bytes to publish.
            headers: Further headers, by name.

        Raises:
            InputError: An argument cannot be stored.
        """
        self.work.send(topic, key=key, value=value, headers=headers)


@dataclass(frozen=True, slots=True)
class Done(Generic[I_co, R_co]):
    """A transaction to undo; it certainly took effect.

    Attributes:
        input: The input of the step.
        result: The result of the step.
    """

    input: I_co
    result: R_co


@dataclass(frozen=True, slots=True)
class Attempted(Generic[I_co, R_co]):
    """An effect to undo; it took effect, or may have.

    Attributes:
        input: The input of the step.
        result: The result of the step; `None` if no one knows whether the step took effect.
    """

    input: I_co
    result: R_co | None
