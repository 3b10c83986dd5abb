"""Given / when / then for pipelines: unit tests of handlers with messages that come twice, or with a process that ends.

A scenario runs the real intake on a store in memory. The messages come from a source in memory; no test needs a broker.
"""

import asyncio
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

from pydantic import BaseModel, JsonValue

from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.intake import Counts, HeldMessage, Token
from amends.aggregates.journal import Tx
from amends.aggregates.outbox import SentMessage
from amends.aggregates.sql.journal import open_journal
from amends.pipelines.definition.pipeline import Pipeline, Starts
from amends.pipelines.runtime.partition_loop import PartitionLoop
from amends.pipelines.runtime.slice_end import SliceEnd
from amends.pipelines.testing.memory_source import MemorySource
from amends.sagas.definition.registry import Registry

__all__ = ["PipelineScenario"]

A = TypeVar("A", bound=Aggregate)
M = TypeVar("M", bound=BaseModel)


class _CrashError(BaseException):
    """Ends a unit and its callers at once, as the end of the process does."""


class PipelineScenario(Generic[M]):
    """One pipeline, a source and a store in memory.

    Args:
        pipeline: The pipeline under test.

    Attributes:
        source: The source; for messages with keys, headers, holes and losses.
        journal: The store.
        started: The ids of the runs that the messages have started. The scenario does not drive them.

    Example:
        >>> from pydantic import BaseModel
        >>> from amends import Aggregate
        >>> from amends.pipelines.definition.pipeline import Pipeline
        >>> from amends.pipelines.definition.sources import JsonLinesSource
        >>> class Counted(BaseModel):
        ...     id: str
        >>> def id_of(counted: Counted) -> str:
        ...     return counted.id
        >>> counts = Pipeline("counts", JsonLinesSource("in/*.jsonl"), Counted, id=id_of)
        >>> @counts.handles
        ... def recount(counted: Counted, uow) -> None:
        ...     uow.send("counted", key=counted.id, value={"id": counted.id})
        >>> with PipelineScenario(counts) as scenario:
        ...     scenario.message(Counted(id="a")).redelivered().crashed_before_commit().taken()
        ...     [message.key for message in scenario.sent]
        ['a']
    """

    def __init__(self, pipeline: Pipeline[M]) -> None:
        self.pipeline = pipeline
        self.source = MemorySource()
        self.started: list[str] = []
        self._crashes = 0
        self._commits: int | None = None
        self._attempt = 0
        self.journal = open_journal("sqlite://", on_commit=self._on_commit)
        work = pipeline.work
        registry = Registry([work.saga] if isinstance(work, Starts) else [])
        self._loop = PartitionLoop(self.journal, registry, pipeline, self.source, on_started=self._drive)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.journal.close_blocking()

    async def _drive(self, runs: Sequence[str]) -> None:
        self.started += [each for each in runs if each not in self.started]

    def _on_commit(self, when: str, _: int) -> None:
        # The first commit of an attempt claims the partition; the second one has the messages.
        if self._commits is None or when != "before":
            return
        self._commits += 1
        if self._crashes and self._commits > 1:
            self._crashes -= 1
            raise _CrashError

    # ---- given

    def given(self, *aggregates: Aggregate) -> Self:
        """Put aggregates into the store before the messages come."""

        def save(tx: Tx) -> None:
            with tx.unit_of_work() as work:
                for aggregate in aggregates:
                    work.add(aggregate)

        self.journal.commit_blocking(save)
        return self

    def message(
        self,
        content: BaseModel | JsonValue | bytes,
        *,
        key: bytes | None = None,
        headers: tuple[tuple[str, bytes], ...] = (),
        source_ms: int | None = None,
    ) -> Self:
        """Add a message to the source.

        Args:
            content: Its content: a model, JSON or bytes.
            key: The key that its producer gave it.
            headers: Its headers.
            source_ms: Its time, in milliseconds since the epoch.
        """
        value = content
        if isinstance(content, BaseModel):
            value = content.model_dump_json().encode()
        elif not isinstance(content, bytes):
            value = json.dumps(content).encode()
        assert isinstance(value, bytes)  # noqa: S101 - by the three cases
        self.source.put(value, key=key, headers=headers, source_ms=source_ms)
        return self

    def redelivered(self) -> Self:
        """Add the last message once more, as a producer does that has lost the reply."""
        last = self.source.messages()[-1]
        self.source.put(last.value, key=last.key, headers=last.headers, source_ms=last.source_ms)
        return self

    def crashed_before_commit(self, times: int = 1) -> Self:
        """End the process before the next commits of messages; each time, another owner then takes them."""
        self._crashes += times
        return self

    # ---- when

    def take(self) -> SliceEnd:
        """Run the pipeline over all messages of the source, and return the reason for the end."""
        while True:
            self._attempt += 1
            self._commits = 0
            try:
                return asyncio.run(self._loop.run("0", Token(1, self._attempt), stop=asyncio.Event(), until_end=True))
            except _CrashError:
                continue
            finally:
                self._commits = None

    def taken(self) -> None:
        """Run the pipeline over all messages of the source.

        Raises:
            AssertionError: The pipeline has paused.
        """
        end = self.take()
        if end.reason:
            raise AssertionError(f"the pipeline has paused: {end.reason}")

    # ---- then

    def load(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - the word that aggregates use
        """Return an aggregate; `None` if there is none."""
        return self.journal.load_blocking(cls, id)

    @property
    def sent(self) -> list[SentMessage]:
        """The messages that the handlers have sent, in order."""
        return [each.message for each in self.journal.outbox_blocking(0, 100_000)]

    @property
    def held(self) -> list[HeldMessage]:
        """The messages that were set aside, in order."""
        return list(self.journal.intake.held(self.pipeline.name, limit=100_000))

    @property
    def counts(self) -> Counts:
        """The number of messages by their fate."""
        return self.journal.intake.totals(self.pipeline.name).get("0", Counts())
