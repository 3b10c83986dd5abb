"""Read the status of pipelines and relays: from the store, from their sources, and from Temporal.

How it can fail: a source or a Temporal that does not answer leaves values out, and a remark says why. Only the store is
needed.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from amends.aggregates.errors import AmendsError
from amends.aggregates.intake import Counts, HeldKind, Position
from amends.cli.project.settings import Settings
from amends.cli.runtime.pipeline_commands.opened import answer_of, known_names, open_source, state_of
from amends.cli.runtime.wiring import Project
from amends.cli.views.operated_pipelines.status import PartitionStatus, PipelineStatus, rate_of
from amends.pipelines.control.decide import changes_of
from amends.pipelines.control.state import PipelineState
from amends.pipelines.definition.pipeline import Pipeline
from amends.pipelines.definition.relays import Relay
from amends.pipelines.runtime.partition_work import OwnedKind
from amends.pipelines.source import FROM_START, PartitionReader, SourceConnection, Start
from amends.sagas.runtime.clock import SystemClock

if TYPE_CHECKING:
    from amends.aggregates.sql.journal import SqlJournal
    from amends.pipelines.temporal.owners import Owners

__all__ = ["Statuses"]

_ROWS = 500
_REACH = timedelta(seconds=2)
_AT_ONCE = 20
_OUTBOX = "outbox"


@dataclass
class Statuses:
    """Reads statuses, again and again; connections stay open in between.

    Attributes:
        settings: The settings.
        journal: The store.
        project: The project; `None` to read the store alone.
        ask: Whether to ask the sources and Temporal.
    """

    settings: Settings
    journal: "SqlJournal"
    project: Project | None
    ask: bool = True
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _sources: dict[str, SourceConnection] = field(default_factory=dict)
    _readers: dict[tuple[str, str], PartitionReader] = field(default_factory=dict)
    _owners: "Owners | None" = None
    _probed: bool = False

    async def close(self) -> None:
        """Close all connections."""
        await self._stack.aclose()

    async def read(self, name: str | None = None) -> list[PipelineStatus]:
        """Read the status of every pipeline and relay, or of one.

        Raises:
            NotFoundError: There is no pipeline or relay of that name.
            UnreachableError: The store does not answer.
        """
        names = await asyncio.to_thread(known_names, self.journal, self.project, name)
        relays = {} if self.project is None else self.project.pipelines.relays
        chosen = [relay for each, relay in sorted(relays.items()) if name is None or each == name]
        owners = await self._temporal()
        found = await asyncio.gather(*(self._pipeline(each, owners) for each in names))
        return [*found, *(await asyncio.gather(*(self._relay(each, owners) for each in chosen)))]

    # ---- pipelines

    async def _pipeline(self, name: str, owners: "Owners | None") -> PipelineStatus:
        pipelines: Mapping[str, Pipeline[Any]] = {} if self.project is None else self.project.pipelines.pipelines
        pipeline = pipelines.get(name)
        state, stored, held = await asyncio.to_thread(self._stored, name)
        changes: Sequence[str] = ()
        if pipeline is not None and self.project is not None:
            changes = changes_of(state, self.project.pipelines.declarations[name])
        partitions, problem = stored, ""
        if pipeline is not None and self.ask:
            try:
                partitions = await self._with_ends(pipeline, stored)
            except AmendsError as error:
                problem = str(error)
        if owners is not None:
            partitions = await self._with_owners(owners, OwnedKind.PIPELINE, name, partitions)
        return PipelineStatus(
            kind="pipeline",
            name=name,
            state=state,
            partitions=partitions,
            held=held,
            changes=changes,
            problem=problem,
            defined=pipeline is not None,
        )

    def _stored(self, name: str) -> tuple[PipelineState, list[PartitionStatus], Mapping[HeldKind, int]]:
        state, partitions = state_of(self.journal, name), self._partitions(name)
        return state, partitions, self.journal.intake.held_counts(name)

    def _partitions(self, name: str) -> list[PartitionStatus]:
        intake, now_ms = self.journal.intake, SystemClock().now_ms()
        totals = intake.totals(name)
        found: list[PartitionStatus] = []
        for partition, position in sorted(intake.positions(name).items()):
            rows = intake.batches(name, partition, after=max(0, position.batch - _ROWS), limit=_ROWS)
            rate = rate_of(rows, now_ms, all_read=position.batch <= _ROWS)
            found.append(
                PartitionStatus(name=partition, position=position, counts=totals.get(partition, Counts()), rate=rate)
            )
        return found

    async def _with_ends(self, pipeline: Pipeline[Any], stored: Sequence[PartitionStatus]) -> list[PartitionStatus]:
        """Add the ends of the source, and the partitions that have never been read."""
        source = self._sources.get(pipeline.name)
        if source is None:
            source = await self._stack.enter_async_context(open_source(self.settings, pipeline))
            self._sources[pipeline.name] = source
        return await answer_of(pipeline, self._ends(pipeline, source, {each.name: each for each in stored}))

    async def _ends(
        self, pipeline: Pipeline[Any], source: SourceConnection, stored: Mapping[str, PartitionStatus]
    ) -> list[PartitionStatus]:
        names = [*stored, *(each for each in await source.partitions() if each not in stored)]
        now_ms = SystemClock().now_ms()
        found: list[PartitionStatus] = []
        for name in names:
            status = stored.get(name, PartitionStatus(name=name, position=None))
            reader = await self._reader(pipeline.name, source, name, status.position)
            end = await reader.end()
            found.append(
                replace(status, first=reader.first, end=end, behind_ms=_behind_ms(status.position, end, now_ms))
            )
        return found

    async def _reader(
        self, pipeline: str, source: SourceConnection, partition: str, position: Position | None
    ) -> PartitionReader:
        reader = self._readers.get((pipeline, partition))
        if reader is None:
            start = FROM_START
            if position is not None:
                start = Start(next=position.next, cursor=position.cursor, incarnation=position.incarnation)
            reader = self._readers[pipeline, partition] = await source.open(partition, start)
        return reader

    # ---- relays

    async def _relay(self, relay: Relay, owners: "Owners | None") -> PipelineStatus:
        status = await asyncio.to_thread(self._stored_relay, relay)
        if owners is None:
            return status
        return replace(
            status, partitions=await self._with_owners(owners, OwnedKind.RELAY, relay.name, status.partitions)
        )

    def _stored_relay(self, relay: Relay) -> PipelineStatus:
        journal, now_ms = self.journal, SystemClock().now_ms()
        topics = None if relay.topics is None else sorted(relay.topics)
        (stored,) = self._partitions(relay.name) or [PartitionStatus(name=_OUTBOX, position=None)]
        next_ = 1 if stored.position is None else stored.position.next
        first = journal.outbox_blocking(next_ - 1, 1, topics)
        waiting = journal.outbox_size_blocking(next_ - 1, topics) if first else 0
        behind_ms = max(0, now_ms - first[0].recorded_at_ms) if first else 0
        partition = replace(stored, first=next_, end=next_ + waiting, behind_ms=behind_ms)
        return PipelineStatus(
            kind="relay",
            name=relay.name,
            state=PipelineState(),
            partitions=[partition],
            held=journal.intake.held_counts(relay.name),
        )

    # ---- owners

    async def _temporal(self) -> "Owners | None":
        if self.ask and not self._probed:
            from amends.cli.runtime.temporal import probe_temporal  # noqa: PLC0415 - imports Temporal

            client = (await probe_temporal(self.settings, _REACH)).client
            if client is not None:
                from amends.pipelines.temporal.owners import Owners  # noqa: PLC0415 - as above

                self._owners = Owners(client, self.journal.store_id)
            self._probed = True
        return self._owners

    async def _with_owners(
        self, owners: "Owners", kind: OwnedKind, name: str, partitions: Sequence[PartitionStatus]
    ) -> list[PartitionStatus]:
        limit = asyncio.Semaphore(_AT_ONCE)

        async def one(status: PartitionStatus) -> PartitionStatus:
            async with limit:
                owner = await owners.of(kind, name, status.name)
            return replace(status, owner=owner)

        return list(await asyncio.gather(*map(one, partitions)))


def _behind_ms(position: Position | None, end: int, now_ms: int) -> int | None:
    """Return the time by which a partition is behind; `None` if it has never been read."""
    if position is None:
        return None
    return max(0, now_ms - position.reached_ms) if end > position.next else 0
