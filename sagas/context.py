"""What a step is given besides its input, and what a compensation is given of the step it undoes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pydantic import JsonValue

from amends.aggregates.domain import Aggregate
from amends.aggregates.errors import NotFoundError
from amends.aggregates.journal import StepWork

__all__ = ["Attempted", "Call", "Done", "ResultSource", "UnitOfWork"]

A = TypeVar("A", bound=Aggregate)
I_co = TypeVar("I_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)


class ResultSource(Protocol[R_co]):
    """A step, as far as reading its recorded result goes."""

    @property
    def name(self) -> str:
        """The node's name."""
        ...

    def load_result(self, value: JsonValue) -> R_co:
        """Make the result from its JSON."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """What every step knows about the run it is part of.

    Attributes:
        run_id: Id of the run.
        node: Name of the node.
        key: The idempotency key: run, node, direction and generation; the same for every attempt.
        attempt: The attempt, from 1.
    """

    run_id: str
    node: str
    key: str
    attempt: int
    results: Mapping[str, JsonValue]

    def result_of(self, step: ResultSource[R_co]) -> R_co:
        """Read what an earlier step of this run returned.

        Args:
            step: The step, as it stands in the saga.

        Raises:
            NotFoundError: The step has not succeeded before this one in this run.
        """
        if step.name not in self.results:
            raise NotFoundError(
                f"run {self.run_id!r}: {self.node!r} asks for the result of {step.name!r}, which has not succeeded "
                f"before it; put it into an earlier stage of the saga"
            )
        return step.load_result(self.results[step.name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(_Context):
    """The context of an effect: somebody else's system is about to be called, perhaps not for the first time.

    Hand `key` to the participant: it is what makes a repeated call recognisable. A direction is part of it, so an
    effect and its compensation have different keys; `do_key` in a compensation is the key of the effect that it undoes.

    Attributes:
        do_key: The key under which the effect itself was called; equal to `key` except in a compensation.
    """

    do_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitOfWork(_Context):
    """The context of a transaction: what the step does through it is committed together with the step's outcome.

    The function may be run again when the commit fails, so it does nothing that is not undone with the transaction: no
    calls to the outside, no files, no global state.
    """

    work: StepWork

    def get(self, cls: type[A], id: str) -> A:  # noqa: A002 - the word that aggregates use
        """Load an aggregate; what is done to it is saved when the step succeeds.

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
        """Run an SQLAlchemy statement on own tables of the same database.

        Args:
            statement: A SQLAlchemy Core statement.
            expect_rows: How many rows it must match (or return); `None` for any number.

        Returns:
            The rows, for a statement that returns rows; otherwise nothing.

        Raises:
            InputError: Another number of rows was matched; the step's changes are undone with it.
        """
        return self.work.execute(statement, expect_rows=expect_rows)


@dataclass(frozen=True, slots=True)
class Done(Generic[I_co, R_co]):
    """A transaction step that is to be undone: it certainly took effect.

    Attributes:
        input: What the step was given.
        result: What it returned.
    """

    input: I_co
    result: R_co


@dataclass(frozen=True, slots=True)
class Attempted(Generic[I_co, R_co]):
    """An effect that is to be undone: it took effect, or may have.

    Attributes:
        input: What the step was given.
        result: What it returned; `None` when it is in doubt whether it took effect.
    """

    input: I_co
    result: R_co | None
