"""Rebuild the read model from the journal.

The rebuild goes through the store page by page, each page in a transaction of its own, so that memory stays bounded for
any size of the store and other processes can go on working.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, literal, select

from amends.aggregates.audit import Finding
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.run.facts import run_of, stream_of_run
from amends.aggregates.run.record import RunSummary
from amends.aggregates.sql.check import fold_run, streams_after
from amends.aggregates.sql.engine import writing
from amends.aggregates.sql.errors import store_errors
from amends.aggregates.sql.loading import Plans
from amends.aggregates.sql.run_index import write_keys, write_runs
from amends.aggregates.sql.schema import is_text, run_keys, saga_index, stored_events

__all__ = ["RebuiltIndex", "rebuild_index", "rebuild_runs"]


@dataclass(frozen=True, slots=True)
class RebuiltIndex:
    """The result of rebuilding the read model.

    Attributes:
        written: The number of runs whose rows were rebuilt.
        removed: The number of removed rows of runs that have no facts.
        skipped: For each run that could not be folded, the reason; its rows stay unchanged.
    """

    written: int
    removed: int
    skipped: tuple[Finding, ...]


def rebuild_index(engine: Engine, codec: EventCodec) -> RebuiltIndex:
    """Rebuild the rows and business keys of all runs from the journal, and remove those of runs that are not in it.

    Other processes can go on working meanwhile; the rebuild takes the writing lock for one page at a time.

    Args:
        engine: Engine of a store whose schema is up to date.
        codec: Codec that reads the facts.

    Raises:
        UnreachableError: The store is not readable or writable; the rows that were rebuilt so far stay, and are right.
    """
    kept = Plans()
    written = 0
    skipped: list[Finding] = []
    after = ""
    while True:
        with store_errors(), writing(engine) as connection:
            streams = streams_after(connection, after, only_runs=True)
            # SQLite's pattern does not distinguish "run/" from "Run/".
            runs = [stream for stream in streams if is_text(stream) and run_of(stream) is not None]
            done = _make_again(connection, codec, kept, runs)
        written += done.written
        skipped += done.skipped
        if not streams:
            break
        after = streams[-1]
    with store_errors(), writing(engine) as connection:
        removed = connection.execute(delete(saga_index).where(_without_facts(saga_index))).rowcount
        connection.execute(delete(run_keys).where(_without_facts(run_keys)))
    return RebuiltIndex(written, removed, tuple(skipped))


def rebuild_runs(engine: Engine, codec: EventCodec, run_ids: Sequence[str]) -> RebuiltIndex:
    """Rebuild the rows and business keys of some runs, and remove those of runs that are not in the journal.

    Args:
        engine: Engine of a store whose schema is up to date.
        codec: Codec that reads the facts.
        run_ids: A small number of runs, because one transaction writes all of them.

    Raises:
        UnreachableError: The store is not readable or writable; it is unchanged.
    """
    streams = [stream_of_run(run_id) for run_id in run_ids]
    with store_errors(), writing(engine) as connection:
        name = stored_events.c.originator_id
        there = set(connection.execute(select(name).where(name.in_(streams)).distinct()).scalars())
        done = _make_again(connection, codec, Plans(), [stream for stream in streams if stream in there])
        lost = [run_id for run_id, stream in zip(run_ids, streams, strict=True) if stream not in there]
        removed = connection.execute(delete(saga_index).where(saga_index.c.run_id.in_(lost))).rowcount
        connection.execute(delete(run_keys).where(run_keys.c.run_id.in_(lost)))
    return RebuiltIndex(done.written, removed, done.skipped)


def _make_again(connection: Connection, codec: EventCodec, kept: Plans, streams: Sequence[str]) -> RebuiltIndex:
    audits = [fold_run(connection, codec, kept, stream) for stream in streams]
    summaries = [audit.record.summary for audit in audits if audit.sound and audit.record is not None]
    _replace(connection, summaries)
    return RebuiltIndex(len(summaries), 0, tuple(finding for audit in audits for finding in audit.findings))


def _without_facts(table: Any) -> Any:  # noqa: ANN401 - SQL expressions
    stream = literal(stream_of_run("")).concat(table.c.run_id)
    return ~select(literal(1)).where(stored_events.c.originator_id == stream).exists()


def _replace(connection: Connection, summaries: Sequence[RunSummary]) -> None:
    run_ids = [summary.run_id for summary in summaries]
    if not run_ids:
        return
    for table in (saga_index, run_keys):
        connection.execute(delete(table).where(table.c.run_id.in_(run_ids)))
    write_runs(connection, summaries)
    keys = [(summary.run_id, field, value) for summary in summaries for field, value in summary.keys.items()]
    if keys:
        write_keys(connection, keys)
