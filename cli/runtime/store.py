"""Opening the store for reading: without creating or writing anything, and without modules or Temporal."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from amends.aggregates.errors import NotFoundError, UnreachableError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.journal import RunQuery
from amends.aggregates.run.reading import RunReading
from amends.aggregates.run.record import RunRecord
from amends.cli.exit_codes import ExitCode
from amends.cli.output.remarks import note
from amends.cli.project.settings import Settings
from amends.sagas.engine.start import check_run_id

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from amends.aggregates.sql.journal import SqlJournal

__all__ = [
    "codec_of",
    "in_data_dir",
    "open_for_reading",
    "reading_of",
    "record_of",
    "report_damage",
    "require_store",
    "sqlite_file",
    "store_engine",
]

_SQLITE = "sqlite:///"
_LOOKED_AT = 1_000
_NEAR = 3


def sqlite_file(settings: Settings) -> Path | None:
    """Return the path of the store's file; `None` for a store that is not SQLite."""
    url = settings.store_url
    return Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) else None


def in_data_dir(settings: Settings) -> bool:
    """Check whether the store is a file in the data directory, which commands create when they need it."""
    path = sqlite_file(settings)
    return path is not None and path.parent == settings.data_dir


def require_store(settings: Settings) -> None:
    """Check that there is something to read, now or after a run has started.

    Raises:
        InputError: The SQLite file is in a directory that does not exist, and that no command creates.
        UnreachableError: The SQLite file does not exist yet.
    """
    path = sqlite_file(settings)
    if path is None or path.exists():
        return
    if in_data_dir(settings) or path.parent.is_dir():
        raise UnreachableError(
            f"store {settings.safe_store_url!r} does not exist yet; the first `amends run` or `amends dev` creates "
            "it, or correct store_url"
        )
    from amends.aggregates.sql.engine import no_directory  # noqa: PLC0415 - imports the database

    raise no_directory(path)


@contextmanager
def store_engine(settings: Settings) -> Iterator["Engine"]:
    """Open the store's engine read-only, with any schema.

    Raises:
        InputError: The URL cannot be used, or names a directory that does not exist.
        UnreachableError: There is no store yet, or it cannot be read.
    """
    from amends.aggregates.sql.engine import create_store_engine  # noqa: PLC0415 - imports the database

    require_store(settings)
    engine = create_store_engine(settings.store_url, readonly=True)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def open_for_reading(settings: Settings) -> Iterator["SqlJournal"]:
    """Open the configured store, read-only.

    Raises:
        InputError: The URL cannot be used.
        UnreachableError: There is no store yet, or it cannot be read.
        JournalError: Its schema is not this version's.
    """
    from amends.aggregates.sql.journal import SqlJournal  # noqa: PLC0415 - imports the database
    from amends.aggregates.sql.migrations import ensure_schema  # noqa: PLC0415 - as above

    with store_engine(settings) as engine:
        # Commands that read other streams, such as a reconciliation, register their classes themselves.
        journal = SqlJournal(engine, EventCodec(), ensure_schema(engine))
        try:
            yield journal
        finally:
            journal.close_blocking()


def codec_of(aggregates: Sequence[type[Aggregate]]) -> EventCodec:
    """Create the codec for facts, those of reconciliations included, and for the events of these aggregates."""
    from amends.pipelines.control.state import PipelineControl  # noqa: PLC0415 - as above
    from amends.reconciler.drift.stream import Reconciliation  # noqa: PLC0415 - as above
    from amends.reconciler.maintenance_windows import Maintenance  # noqa: PLC0415 - few commands need them
    from amends.reconciler.schedules.decide import Schedules  # noqa: PLC0415 - as above

    codec = EventCodec([Reconciliation, Maintenance, Schedules, PipelineControl])
    for aggregate in aggregates:
        codec.register(aggregate)
    return codec


def record_of(journal: "SqlJournal", run_id: str) -> RunRecord:
    """Return a run's record.

    Raises:
        InputError: No run can have this id.
        NotFoundError: The run does not exist; the message names ids that are nearly the same.
    """
    record = journal.record_blocking(check_run_id(run_id))
    if record is None:
        known = [row.run_id for row in journal.runs_blocking(RunQuery(limit=_LOOKED_AT))]
        raise NotFoundError(f"no run has the id {run_id!r} in this store; {_suggestion(run_id, known)}")
    return record


def reading_of(journal: "SqlJournal", run_id: str) -> RunReading:
    """Return the readable part of a run.

    Raises:
        InputError: No run can have this id.
        NotFoundError: The run does not exist; the message names ids that are nearly the same.
    """
    reading = journal.reading_blocking(check_run_id(run_id))
    return reading if reading is not None else RunReading(record_of(journal, run_id), (), ())


def report_damage(reading: RunReading) -> ExitCode:
    """Print the unreadable places of a run on stderr, and return the exit status that follows from them."""
    for damage in reading.damage:
        note(str(damage))
    return ExitCode.DAMAGED if reading.damage else ExitCode.OK


def _suggestion(run_id: str, known: Sequence[str]) -> str:
    if not known:
        return "it has no runs yet"
    near = [each for each in known if each.startswith(run_id)][:_NEAR]
    near = near or difflib.get_close_matches(run_id, known, n=_NEAR, cutoff=0.7)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else "`amends list` lists those there are"
