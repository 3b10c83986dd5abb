"""The part of a step's unit of work that all stores share: the checks of its calls, and their messages. Pure."""

from abc import ABC, abstractmethod
from typing import TypeVar

from amends.aggregates.errors import InputError, NotFoundError, UnitOfWorkError
from amends.aggregates.events.aggregate import Aggregate

__all__ = ["CheckedWork"]

A = TypeVar("A", bound=Aggregate)


class CheckedWork(ABC):
    """A `StepWork` without its storage: a store adds `execute`, and the three methods that read and keep aggregates."""

    def __init__(self) -> None:
        self._spoiled: Exception | None = None
        self._ended = False

    def get(self, cls: type[A], id: str) -> A:  # noqa: A002 - the word that aggregates use
        """Load an aggregate; its changes are saved when the step succeeds.

        Raises:
            NotFoundError: There is no such aggregate.
        """
        found = self.find(cls, id)
        if found is None:
            raise NotFoundError(f"there is no {cls.__name__} {id!r}; add it in an earlier step or use find()")
        return found

    def find(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - the word that aggregates use
        """Load an aggregate, or `None` when there is none.

        Raises:
            InputError: The id is invalid, or the stream belongs to another class.
            UnitOfWorkError: The step has ended, or an earlier statement of it has failed.
            JournalError: The aggregate's stream is unreadable.
        """
        self._check()
        stream = cls.stream_of(id)
        found = self._load(cls, stream)
        if found is None or isinstance(found, cls):
            return found
        raise InputError(f"{stream!r} is a {type(found).__qualname__}, not a {cls.__qualname__}")

    def add(self, aggregate: A) -> A:
        """Save a new aggregate when the step succeeds.

        Raises:
            InputError: An aggregate of this class and id exists already, or this one is not new.
            UnitOfWorkError: The step has ended, or an earlier statement of it has failed.
        """
        self._check()
        cls = type(aggregate)
        stream = cls.stream_of(aggregate.id)
        if self._exists(cls, stream):
            raise InputError(f"{cls.__name__} {aggregate.id!r} exists already; use get() to change it")
        if aggregate.version != len(aggregate.pending_events):
            raise InputError(
                f"{cls.__name__} {aggregate.id!r} is at version {aggregate.version}; add() accepts only new aggregates"
            )
        self._keep(stream, aggregate)
        return aggregate

    def end(self) -> None:
        """Refuse all further calls, because the step has ended."""
        self._ended = True

    @abstractmethod
    def _load(self, cls: type[Aggregate], stream: str) -> Aggregate | None:
        """Return the aggregate of a stream, the same object at each call; `None` when there is none."""

    @abstractmethod
    def _exists(self, cls: type[Aggregate], stream: str) -> bool:
        """Check whether a stream has an aggregate, in the store or in this step."""

    @abstractmethod
    def _keep(self, stream: str, aggregate: Aggregate) -> None:
        """Save a new aggregate when the step succeeds."""

    def _check(self) -> None:
        if self._ended:
            raise UnitOfWorkError("this unit of work ended with its step; do not use it afterwards")
        if self._spoiled is not None:
            raise UnitOfWorkError(
                f"an earlier statement of this step failed ({_line(self._spoiled)}); let the error propagate"
            )

    def _check_rows(self, matched: int, expected: int | None) -> None:
        """Spoil the step if a statement matched another number of rows than expected; `None` for any number."""
        if expected is not None and matched != expected:
            self._spoiled = InputError(f"the statement matched {matched} rows instead of {expected}")
            raise self._spoiled

    def _check_statements(self) -> None:
        """Refuse to save the step if a statement has failed, even if the step caught its error."""
        if self._spoiled is not None:
            raise UnitOfWorkError(
                f"a statement of this step failed ({_line(self._spoiled)}), so the step cannot commit; let the error "
                "propagate"
            ) from self._spoiled


def _line(error: BaseException) -> str:
    return (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]
