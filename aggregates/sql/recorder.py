"""The store as recorders of `eventsourcing`, for programs that read or follow the log with that library.

These are eventsourcing-sqlalchemy's recorders on the tables of `sql.schema`, whose ids are text. They begin every
writing transaction as all writers of the store do (`sql.engine.writing`), so that the order of ids stays the order of
commits. They do not check that a stream continues at head + 1: the committer does, and only the committer writes runs.
They write rows with their checksums, and read only rows that match them. They raise the errors of
`eventsourcing.persistence`, and `ChangedEventError`.
"""

from collections.abc import Sequence
from threading import Event
from typing import Any

from eventsourcing.persistence import (
    ApplicationRecorder,
    Notification,
    ProgrammingError,
    StoredEvent,
    Subscription,
)
from eventsourcing_sqlalchemy.datastore import SQLAlchemyDatastore, Transaction, transactions
from eventsourcing_sqlalchemy.recorders import SQLAlchemyAggregateRecorder, SQLAlchemyProcessRecorder
from sqlalchemy import Engine, event
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from amends.aggregates.events.event_codec import changed_error
from amends.aggregates.sql.engine import take_writer_lock, writing_engine
from amends.aggregates.sql.migrations import ensure_schema
from amends.aggregates.sql.schema import metadata, notification_tracking, snapshots, stored_events
from amends.aggregates.values.checksum import ChangedEvent, read_event, snapshot_fits

__all__ = ["PollingSubscription", "SqlAggregateRecorder", "SqlRecorder"]

POLL_INTERVAL_S = 0.1
"""Pause of a subscription that has read everything before its next query, in seconds."""


class _Record(DeclarativeBase):
    metadata = metadata


class _StoredEvent(_Record):
    __table__ = stored_events


class _Snapshot(_Record):
    __table__ = snapshots


class _Tracking(_Record):
    __table__ = notification_tracking


_RECORDS: dict[str, type[_Record]] = {
    stored_events.name: _StoredEvent,
    snapshots.name: _Snapshot,
    notification_tracking.name: _Tracking,
}


def _verify(record: Any, _context: object) -> None:  # noqa: ANN401 - a row, loaded by SQLAlchemy's mapper
    row, checksum = (record.originator_id, record.originator_version, record.topic, record.state), record.checksum
    if isinstance(record, _Snapshot):
        if not snapshot_fits(*row, checksum):
            raise changed_error(StoredEvent(*row))
    elif isinstance(stored := read_event(*row, checksum), ChangedEvent):
        raise changed_error(stored)


for _record in (_StoredEvent, _Snapshot):
    event.listen(_record, "load", _verify)


class _Datastore(SQLAlchemyDatastore):
    """Sessions on an engine of the store; a writing session keeps other writers out from its start."""

    def __init__(self, engine: Engine) -> None:
        self._read = sessionmaker(engine)
        self._write = sessionmaker(writing_engine(engine))
        super().__init__(session_maker=self._read)
        self.engine = engine

    def transaction(self, commit: bool) -> Transaction:  # noqa: FBT001 - the signature is eventsourcing-sqlalchemy's
        running = transactions.get(None)
        if running is None:
            running = Transaction(self._write() if commit else self._read(), commit=commit, lock=None)
            running.token = transactions.set(running)
        elif commit and not running.commit:
            raise ProgrammingError("a read transaction is open; end it before writing")
        return running

    @classmethod
    def define_record_class(cls, cls_name: str, table_name: str, schema_name: str | None, base_cls: type[Any]) -> Any:  # noqa: ANN401, ARG003 - as above
        return _RECORDS[table_name]


class SqlAggregateRecorder(SQLAlchemyAggregateRecorder):
    """Events of aggregates by stream, or their snapshots.

    Args:
        engine: An engine from `create_store_engine`, of a store whose schema is up to date.
        for_snapshots: Whether to record snapshots.
    """

    def __init__(self, engine: Engine, *, for_snapshots: bool = False) -> None:
        table = snapshots if for_snapshots else stored_events
        super().__init__(_Datastore(engine), events_table_name=table.name, for_snapshots=for_snapshots)
        self._engine = engine

    def create_table(self) -> None:
        """Bring the schema up to date, as opening the store does."""
        ensure_schema(self._engine)

    def _lock_table(self, session: Session) -> None:
        take_writer_lock(session.connection())


class SqlRecorder(SQLAlchemyProcessRecorder):
    """The whole store: streams, notification log, and the progress of each reader of another log.

    Args:
        engine: An engine from `create_store_engine`, of a store whose schema is up to date.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(
            _Datastore(engine), events_table_name=stored_events.name, tracking_table_name=notification_tracking.name
        )
        self._engine = engine

    def create_table(self) -> None:
        """Bring the schema up to date, as opening the store does."""
        ensure_schema(self._engine)

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> "PollingSubscription":
        """Follow the notification log, with existing and future notifications, on either database.

        Args:
            gt: Only notifications after this id; `None` for all.
            topics: Only notifications of these topics; empty for all.
        """
        return PollingSubscription(self, gt, topics)

    def _lock_table(self, session: Session) -> None:
        take_writer_lock(session.connection())

    def _notify_channel(self, session: Session) -> None:
        """Send no notification: subscriptions poll, because the committer does not notify either."""


class PollingSubscription(Subscription[ApplicationRecorder]):
    """An endless iterator of notifications in the order of their ids.

    It misses no notification and yields none out of order, because the order of ids is the order of commits. Any thread
    may call `stop`; the iteration then ends within the time of one query.

    Args:
        recorder: The recorder to read from.
        gt: Only notifications after this id; `None` for all.
        topics: Only notifications of these topics; empty for all.
        interval_s: Pause between queries when there is nothing new, in seconds.
    """

    page_size = 500

    def __init__(
        self,
        recorder: ApplicationRecorder,
        gt: int | None = None,
        topics: Sequence[str] = (),
        *,
        interval_s: float = POLL_INTERVAL_S,
    ) -> None:
        super().__init__(recorder, gt, topics)
        self._interval_s = interval_s
        self._page: list[Notification] = []
        self._stopped = Event()

    def stop(self) -> None:
        """End the iteration."""
        super().stop()
        self._stopped.set()

    def __next__(self) -> Notification:
        while not self._stopped.is_set():
            if self._page:
                return self._page.pop()
            found = self._recorder.select_notifications(
                start=self._last_notification_id or 0,
                limit=self.page_size,
                topics=self._topics,
                inclusive_of_start=False,
            )
            if found:
                self._last_notification_id = found[-1].id
                self._page = list(reversed(found))
            else:
                self._stopped.wait(self._interval_s)
        raise StopIteration
