"""`Pipeline`: the definition of a stream of messages and of the change that each one makes."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Generic, Literal, Self, TypeVar, get_args, overload

from pydantic import BaseModel

from amends.aggregates.errors import DefinitionError
from amends.aggregates.journal import StepWork
from amends.aggregates.text import shorten
from amends.pipelines.definition.bounds import Bounds
from amends.pipelines.definition.checks import (
    check_count,
    check_function,
    check_handler,
    check_header,
    check_model,
    check_remember,
    check_source,
    check_start,
)
from amends.pipelines.definition.message_model import MessageModel
from amends.pipelines.definition.sources import Source
from amends.pipelines.source import RawMessage
from amends.sagas.definition.saga import Saga
from amends.sagas.definition.signatures import check_name

__all__ = ["Handles", "Header", "Pipeline", "Starts", "WhenBusy"]

M = TypeVar("M", bound=BaseModel)
I = TypeVar("I")  # noqa: E741 - the input, as in every signature here

Handler = Callable[[M, StepWork], None]
WhenBusy = Literal["wait", "defer"]


@dataclass(frozen=True, slots=True)
class Header:
    """The id or key of a message is in this header, instead of in its content.

    Attributes:
        name: Name of the header, compared without regard to case.

    Raises:
        DefinitionError: The name is empty or not printable text.
    """

    name: str

    def __post_init__(self) -> None:
        check_header(self.name)


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
        weight: Share of the pipeline when several have messages to read, 1 to 1,000; a weight of 2 reads twice as much.
        bounds: How much the pipeline takes at once, and how much it holds.

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
        when_busy: WhenBusy = "wait",
        max_open_runs: int | None = None,
        weight: int = 1,
        bounds: Bounds = Bounds(),  # noqa: B008 - a frozen value
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
        self.bounds = bounds
        self._work: Starts | Handles | None = None
        self._check()

    def _check(self) -> None:
        what = f"pipeline {self.name!r}"
        check_source(self.source, what)
        check_model(self.model, what)
        for word, function in (("id", self.id), ("key", self.key)):
            if not isinstance(function, Header) and (word == "id" or function is not None):
                check_function(function, f"{what}: {word}", self.model, str, otherwise=" or Header('name')")
        if self.decode is not None:
            check_function(self.decode, f"{what}: decode", RawMessage)
        if self.sequence is not None:
            check_function(self.sequence, f"{what}: sequence", self.model, int)
            if self.key is None:
                raise DefinitionError(f"{what}: sequence counts the messages of each key; set key, too")
        check_remember(self.remember, what)
        if self.when_busy not in get_args(WhenBusy):
            raise DefinitionError(f"{what}: when_busy is {shorten(self.when_busy)}; use 'wait' or 'defer'")
        if self.max_open_runs is not None:
            check_count(self.max_open_runs, f"{what}: max_open_runs", 1_000_000_000)
        check_count(self.weight, f"{what}: weight", 1_000)
        if not isinstance(self.bounds, Bounds):
            raise DefinitionError(f"{what}: bounds is {shorten(self.bounds)}; use Bounds(...)")

    def __repr__(self) -> str:
        return f"<pipeline {self.name!r}>"

    @cached_property
    def message_model(self) -> MessageModel[M]:
        """The reader of the messages' content. It is built late, because a model may refer to names defined below it.

        Raises:
            DefinitionError: Pydantic has no schema for the model, or an upcaster is missing.
        """
        return MessageModel(self.model, f"pipeline {self.name!r}")

    def configured(
        self,
        *,
        source: Source | None = None,
        bounds: Bounds | None = None,
        max_open_runs: int | None = None,
        weight: int | None = None,
    ) -> Self:
        """Return the pipeline with values of the project's settings instead of its own; `None` keeps its own.

        Raises:
            DefinitionError: A value is not valid.
        """
        changed = copy.copy(self)
        changed.source = self.source if source is None else source
        changed.bounds = self.bounds if bounds is None else bounds
        changed.max_open_runs = self.max_open_runs if max_open_runs is None else max_open_runs
        changed.weight = self.weight if weight is None else weight
        changed._check()  # noqa: SLF001 - of this class
        if changed._work is not None:  # noqa: SLF001 - as above
            changed._check_work(changed._work)  # noqa: SLF001 - as above
        return changed

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
        """Start a run of a saga for each message; the decorated function returns the saga's input.

        Args:
            saga: The saga.

        Raises:
            DefinitionError: `saga` is not a saga, the function does not map the message to its input, or the pipeline
                has a function already.
        """
        where = f"@{self.name}.starts"
        if not isinstance(saga, Saga):
            raise DefinitionError(f"{where}({shorten(saga)}): pass a saga, such as @{self.name}.starts(place_order)")

        def decorate(function: Callable[[M], I]) -> Callable[[M], I]:
            check_start(function, where, self.model, saga)
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
            function: The transaction, of a message and a `StepWork`.
            notify_duplicates: Whether a repeated message sends the messages of its first time again.

        Raises:
            DefinitionError: The function does not take a message and a unit of work, or the pipeline has a function
                already.
        """

        def decorate(handler: Handler[M]) -> Handler[M]:
            where = f"@{self.name}.handles"
            check_handler(handler, where, self.model)
            self._set(Handles(handler, notify_duplicates))
            return handler

        return decorate if function is None else decorate(function)

    def _set(self, work: Starts | Handles) -> None:
        if self._work is not None:
            raise DefinitionError(f"pipeline {self.name!r} has a function already; define a second pipeline instead")
        self._check_work(work)
        self._work = work

    def _check_work(self, work: Starts | Handles) -> None:
        if isinstance(work, Handles) and self.max_open_runs is not None:
            raise DefinitionError(
                f"pipeline {self.name!r}: max_open_runs is for pipelines that start runs; remove it, or use starts"
            )
