"""`Pipeline`: the definition of a stream of messages and of the change that each one makes."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Literal, TypeVar, overload

from pydantic import BaseModel

from amends.aggregates.errors import DefinitionError
from amends.aggregates.journal import StepWork
from amends.pipelines.definition.sources import Source
from amends.pipelines.source import RawMessage
from amends.sagas.definition.saga import Saga
from amends.sagas.definition.signatures import check_name, parameters, refuse_async

__all__ = ["Handles", "Header", "Pipeline", "Starts"]

M = TypeVar("M", bound=BaseModel)
I = TypeVar("I")  # noqa: E741 - the input, as in every signature here

Handler = Callable[[M, StepWork], None]


@dataclass(frozen=True, slots=True)
class Header:
    """The id or key of a message is in this header, instead of in its content.

    Attributes:
        name: Name of the header, compared without regard to case.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Starts:
    """Each message starts a run, whose id follows from the message's id.

    Attributes:
        saga: The saga.
        mapping: Function from the message to the saga's input.
    """

    saga: Saga[Any]
    mapping: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Handles:
    """Each message runs a transaction.

    Attributes:
        function: The transaction; its changes and the position in the source are one commit.
        notify_duplicates: Whether a repeated message sends the messages of its first time again.
    """

    function: Callable[[Any, StepWork], None]
    notify_duplicates: bool = False


class Pipeline(Generic[M]):
    """A stream of messages from a source, and the change that each one makes. It has one `starts` or `handles`.

    Args:
        name: Its name in commands, configuration and journal.
        source: The source; `[pipelines.NAME]` in `amends.toml` may replace it.
        model: Model of a message's content.
        id: Function from a message to its id, or the header with it. Two messages with one id are one message.
        key: Function from a message to its key, or the header with it; `None` for the id. Messages of one key keep
            their order, and a failed one holds up the later ones of its key only.
        decode: Function from the raw message to a value that `model` validates; `None` for JSON.
        sequence: Function from a message to the number that its producer counts for each key; `None` if producers do
            not count. The memory of ids then costs one number for each key.
        remember: The time for which the store remembers ids: a message older than that is set aside, because the store
            cannot tell whether it was applied.
        when_busy: `wait` to leave messages in the source while the pipeline is busy; `defer` to take them into the
            store and apply them later.
        max_open_runs: For `starts`: number of open runs of the saga at which the pipeline pauses; `None` for no bound.
        weight: Share of the pipeline when several have messages to read; a weight of 2 reads twice as much.

    Raises:
        DefinitionError: An argument is not valid.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        model: type[M],
        *,
        id: Callable[[M], str] | Header,  # noqa: A002 - the word that users know
        key: Callable[[M], str] | Header | None = None,
        decode: Callable[[RawMessage], object] | None = None,
        sequence: Callable[[M], int] | None = None,
        remember: timedelta = timedelta(days=7),
        when_busy: Literal["wait", "defer"] = "wait",
        max_open_runs: int | None = None,
        weight: int = 1,
    ) -> None:
        self.name = check_name(name, "pipeline")
        self.source = source
        self.model = model
        self.id = id
        self.key = key
        self.decode = decode
        self.sequence = sequence
        self.remember = remember
        self.when_busy = when_busy
        self.max_open_runs = max_open_runs
        self.weight = weight
        self._work: Starts | Handles | None = None

    @property
    def work(self) -> Starts | Handles:
        """The change that each message makes.

        Raises:
            DefinitionError: The pipeline has none.
        """
        if self._work is None:
            raise DefinitionError(
                f"pipeline {self.name!r} does nothing with its messages; decorate a function with "
                f"@{self.name}.handles or @{self.name}.starts(saga)"
            )
        return self._work

    def starts(self, saga: Saga[I]) -> Callable[[Callable[[M], I]], Callable[[M], I]]:
        """Start a run of a saga for each message; the decorated function returns the saga's input."""

        def decorate(function: Callable[[M], I]) -> Callable[[M], I]:
            where = f"@{self.name}.starts"
            refuse_async(function, where)
            parameters(function, 1, where)
            self._set(Starts(saga, function))
            return function

        return decorate

    @overload
    def handles(self, function: Handler[M], /) -> Handler[M]: ...
    @overload
    def handles(self, /, *, notify_duplicates: bool = False) -> Callable[[Handler[M]], Handler[M]]: ...

    def handles(
        self, function: Handler[M] | None = None, /, *, notify_duplicates: bool = False
    ) -> Handler[M] | Callable[[Handler[M]], Handler[M]]:
        """Run a transaction for each message.

        Args:
            function: The transaction, of a message and a unit of work.
            notify_duplicates: Whether a repeated message sends the messages of its first time again.
        """

        def decorate(handler: Handler[M]) -> Handler[M]:
            where = f"@{self.name}.handles"
            refuse_async(handler, where)
            parameters(handler, 2, where)
            self._set(Handles(handler, notify_duplicates))
            return handler

        return decorate if function is None else decorate(function)

    def _set(self, work: Starts | Handles) -> None:
        if self._work is not None:
            raise DefinitionError(f"pipeline {self.name!r} has a function already; define a second pipeline instead")
        self._work = work
