"""The part of a step's unit of work that all stores share: the checks of its calls, and their messages. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, JsonValue

from amends.aggregates.errors import InputError, NotFoundError, UnitOfWorkError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.outbox import ID_HEADER, SentMessage
from amends.aggregates.text import shorten
from amends.aggregates.values.json_codec import DEFAULT_LIMITS, JsonCodec
from amends.aggregates.values.strict_json import encodable, json_bytes, refuse_unreadable

__all__ = ["CheckedWork"]

A = TypeVar("A", bound=Aggregate)

MAX_TOPIC_CHARS = 200
"""Longest topic in characters; Kafka allows 249 and NATS more."""


class CheckedWork(ABC):
    """A `StepWork` without its storage: a store adds `execute`, and the methods that read and keep.

    Args:
        cause: Id of the run or of the message that causes the messages that the step sends.
    """

    def __init__(self, cause: str = "") -> None:
        self._cause = cause
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

    def send(
        self, topic: str, *, key: str, value: BaseModel | JsonValue | bytes, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Send a message when the step succeeds.

        Raises:
            InputError: An argument cannot be stored.
            UnitOfWorkError: The step has ended, or an earlier statement of it has failed.
        """
        self._check()
        _check_text("topic", topic, MAX_TOPIC_CHARS)
        what = f"message to {topic!r}"
        _check_text(f"{what}: key", key)
        for name, each in headers:
            _check_text(f"{what}: name of a header", name)
            _check_text(f"{what}: header {name!r}", each)
            if name.lower() == ID_HEADER:
                raise InputError(f"{what}: header {name!r} carries the id that the relay sets; use another name")
        raw = _content(value, what)
        self._send(SentMessage(topic=topic, key=key, value=raw, headers=tuple(headers), cause=self._cause))

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

    @abstractmethod
    def _send(self, message: SentMessage) -> None:
        """Store a message when the step succeeds."""

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


@lru_cache(maxsize=256)
def _codec(model: type[BaseModel]) -> JsonCodec[Any]:
    return JsonCodec(model, what=f"message {model.__name__}")


def _content(value: BaseModel | JsonValue | bytes, what: str) -> bytes:
    if isinstance(value, BaseModel):
        return _codec(type(value)).dump_text(value).encode()
    if not isinstance(value, bytes):
        raw = json_bytes(value, what)
        refuse_unreadable(raw, what=what, limits=DEFAULT_LIMITS)
        return raw
    if len(value) > DEFAULT_LIMITS.max_bytes:
        raise InputError(
            f"{what}: {len(value)} bytes, the limit is {DEFAULT_LIMITS.max_bytes}; keep the data elsewhere and send a "
            "reference"
        )
    return value


def _check_text(what: str, text: object, most: int = 2_000) -> None:
    """Refuse anything but text that every database can store; only a key or a header may be empty."""
    if not isinstance(text, str):
        raise InputError(f"{what} is {type(text).__name__}; use text")
    if (not text and what == "topic") or len(text) > most:
        raise InputError(f"{what} has {len(text)} characters; use 1 to {most}")
    if "\0" in text or not encodable(text):
        raise InputError(f"{what} {shorten(text)} has a NUL character or a lone surrogate; use other text")


def _line(error: BaseException) -> str:
    return (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]
