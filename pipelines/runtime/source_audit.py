"""Compare the effects of a pipeline with the source's own list of ids.

The audit reads every message of the source again, up to the position that the pipeline has reached, and asks the store
for the effect of each id: for `starts` the run, for `handles` the memory of ids. It keeps the ids in memory, about 500
bytes a message.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from amends.aggregates.errors import UnreachableError
from amends.aggregates.intake import BatchRow, IntakeReader, Position
from amends.aggregates.journal import Journal
from amends.pipelines.control.comparison import Gathered, SourceAudit, judged
from amends.pipelines.control.state import PipelineControl, state_in
from amends.pipelines.definition.pipeline import Pipeline, Starts
from amends.pipelines.intake.arrival import Arrival, arrive
from amends.pipelines.intake.remember import gap_hash, number_hash
from amends.pipelines.intake.run_ids import run_id_of
from amends.pipelines.source import PartitionReader, RawMessage, SourceConnection, SourceReplacedError, Start

__all__ = ["audit_source"]

_PAGE = 1_000
_BYTES = 16 * 1024 * 1024
_WAIT = timedelta(seconds=2)
_ALL = 1_000_000
_SILENT_READS = 5

Progress = Callable[[str, int, int], None]
"""Called with a partition, the number of positions that were read, and their number in all."""


async def audit_source(
    journal: Journal, pipeline: Pipeline[Any], source: SourceConnection, *, progress: Progress = lambda *_: None
) -> SourceAudit:
    """Compare the effects of a pipeline with its source.

    Args:
        journal: The store.
        pipeline: The pipeline.
        source: An open connection to its source.
        progress: Called after each read.

    Raises:
        UnreachableError: The store or the source does not answer.
        SourceSetupError: The source does not exist, or refuses the credentials.
    """
    gathered = Gathered()
    positions = await asyncio.to_thread(journal.intake.positions, pipeline.name)
    for partition, position in sorted(positions.items()):
        rows = await asyncio.to_thread(_rows_up_to, journal.intake, pipeline.name, partition, position.batch)
        gathered.rows += ((partition, row) for row in rows)
        if rows:
            await _Reading(pipeline, source, gathered, progress).read(partition, position, rows)
    held = await asyncio.to_thread(lambda: journal.intake.held(pipeline.name, limit=_ALL))
    gathered.held = {(each.partition, each.position) for each in held}
    state = state_in(await journal.load(PipelineControl, pipeline.name))
    readable = [each for each in gathered.by_place.values() if not each.fault]
    effects = await asyncio.to_thread(_effects, journal, pipeline, readable)
    return judged(gathered, pipeline, state, effects, await asyncio.to_thread(journal.intake.horizon, pipeline.name))


# ---- reading


def _rows_up_to(intake: IntakeReader, name: str, partition: str, last: int) -> list[BatchRow]:
    return [row for row in _rows(intake, name, partition) if row.number <= last]


def _rows(intake: IntakeReader, name: str, partition: str) -> Iterator[BatchRow]:
    after = 0
    while page := intake.batches(name, partition, after=after, limit=_PAGE):
        yield from page
        after = page[-1].number


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reads the messages of a pipeline again."""

    pipeline: Pipeline[Any]
    source: SourceConnection
    gathered: Gathered
    progress: Progress

    async def read(self, partition: str, position: Position, rows: Sequence[BatchRow]) -> None:
        """Read the messages of all commits of a partition."""
        first, end = min(row.first for row in rows), max(row.next for row in rows)
        try:
            reader = await self.source.open(partition, Start(next=first, incarnation=position.incarnation))
        except SourceReplacedError as error:
            self.gathered.findings.append(f"partition {partition!r} cannot be compared: {error}")
            return
        try:
            await self._read_to(reader, partition, first, end)
        finally:
            await reader.close()

    async def _read_to(self, reader: PartitionReader, partition: str, first: int, end: int) -> None:
        at, silent, gathered = first, 0, self.gathered
        while at < end:
            read = await reader.read(_PAGE, max_bytes=_BYTES, wait=_WAIT)
            if read.lost is not None:
                gathered.lost += min(read.lost.last + 1, end) - read.lost.first
            for arrival in await asyncio.to_thread(_arrivals, self.pipeline, read.messages):
                if arrival.raw.position < end:
                    gathered.by_place[partition, arrival.raw.position] = arrival
            silent = silent + 1 if read.next <= at else 0
            if silent >= _SILENT_READS:
                raise UnreachableError(
                    f"the source has no message at position {at} of partition {partition!r}, but the pipeline has read "
                    f"up to {end}; check that it is the same source"
                )
            at = max(at, read.next)
            self.progress(partition, min(at, end) - first, end - first)


def _arrivals(pipeline: Pipeline[Any], messages: Sequence[RawMessage]) -> list[Arrival]:
    return [arrive(pipeline, each) for each in messages]


def _effects(journal: Journal, pipeline: Pipeline[Any], messages: Sequence[Arrival]) -> frozenset[str]:
    """Return the ids that have an effect, as far as the store knows."""
    found: set[str] = set()
    for first in range(0, len(messages), _PAGE):
        page = messages[first : first + _PAGE]
        if isinstance(pipeline.work, Starts):
            runs = {run_id_of(pipeline.name, each.id): each.id for each in page}
            records = journal.records_blocking(list(runs))
            found |= {runs[run] for run, record in records.records.items() if record is not None}
            found |= {runs[run] for run in records.damaged}
        elif pipeline.sequence is not None:
            found |= _numbers(journal.intake, pipeline.name, page)
        else:
            hashes = {each.hash: each.id for each in page}
            known = journal.intake.known(pipeline.name, list(hashes), oldest_bucket=0)
            found |= {hashes[each] for each in known}
    return frozenset(found)


def _numbers(intake: IntakeReader, name: str, page: Sequence[Arrival]) -> set[str]:
    last = intake.last_numbers(name, list({each.key for each in page}))
    hashes = [make(each.key, each.sequence or 0) for each in page for make in (gap_hash, number_hash)]
    known = intake.known(name, hashes, oldest_bucket=0)
    return {
        each.id
        for each in page
        if (each.sequence or 0) <= last.get(each.key, -1)
        and (gap_hash(each.key, each.sequence or 0) not in known or number_hash(each.key, each.sequence or 0) in known)
    }
