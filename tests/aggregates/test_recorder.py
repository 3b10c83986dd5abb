"""The store as recorders of `eventsourcing`: that library's own test cases, on both databases, and our additions."""

import threading
import uuid
from collections.abc import Iterator
from typing import Any, cast

import pytest
from bounds import HANG_S
from damaging import change
from eventsourcing.persistence import IntegrityError, OperationalError, StoredEvent, Tracking
from eventsourcing.tests.persistence import (
    AggregateRecorderTestCase,
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
    ProcessRecorderTestCase,
    TrackingRecorderTestCase,
)
from sqlalchemy import Engine, event, select

from amends.aggregates.errors import ChangedEventError, JournalError
from amends.aggregates.sql.engine import create_store_engine, writing
from amends.aggregates.sql.errors import as_amends_error
from amends.aggregates.sql.migrations import upgrade
from amends.aggregates.sql.recorder import SqlAggregateRecorder, SqlRecorder
from amends.aggregates.sql.rows import read_stream
from amends.aggregates.sql.schema import stored_events


def _open(url: str) -> Iterator[Engine]:
    engine = create_store_engine(url)
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    """Yield an engine of a new store; the test runs once on each database."""
    yield from _open(store_url)


class _OnSqlite:
    engine: Engine

    @pytest.fixture(autouse=True)
    def _store(self, sqlite_url: str) -> Iterator[None]:
        for self.engine in _open(sqlite_url):
            yield

    def new_originator_id(self) -> str:
        return f"StockItem/{uuid.uuid4()}"


class _OnPostgresql:
    engine: Engine

    @pytest.fixture(autouse=True)
    def _store(self, postgres_url: str) -> Iterator[None]:
        for self.engine in _open(postgres_url):
            yield

    def new_originator_id(self) -> str:
        return f"StockItem/{uuid.uuid4()}"


class TestEventsOfAggregatesOnSqlite(_OnSqlite, AggregateRecorderTestCase):
    """The library's cases for events of aggregates."""

    def create_recorder(self) -> SqlAggregateRecorder:
        """Open the store as the recorder under test."""
        return SqlAggregateRecorder(self.engine)


class TestEventsOfAggregatesOnPostgresql(_OnPostgresql, AggregateRecorderTestCase):
    """The library's cases for events of aggregates."""

    def create_recorder(self) -> SqlAggregateRecorder:
        """Open the store as the recorder under test."""
        return SqlAggregateRecorder(self.engine)


class TestSnapshotsOnSqlite(_OnSqlite, AggregateRecorderTestCase):
    """The library's cases for snapshots."""

    def create_recorder(self) -> SqlAggregateRecorder:
        """Open the store as the recorder under test."""
        return SqlAggregateRecorder(self.engine, for_snapshots=True)


class TestSnapshotsOnPostgresql(_OnPostgresql, AggregateRecorderTestCase):
    """The library's cases for snapshots."""

    def create_recorder(self) -> SqlAggregateRecorder:
        """Open the store as the recorder under test."""
        return SqlAggregateRecorder(self.engine, for_snapshots=True)


class TestNotificationLogOnSqlite(_OnSqlite, ApplicationRecorderTestCase[SqlRecorder]):
    """The library's cases for the notification log."""

    def create_recorder(self) -> SqlRecorder:
        """Open the store as the recorder under test."""
        return SqlRecorder(self.engine)

    def test_insert_subscribe(self) -> None:
        """A subscription sees past and future events, from any start, by topic, until it is stopped."""
        self.optional_test_insert_subscribe()


class TestNotificationLogOnPostgresql(_OnPostgresql, ApplicationRecorderTestCase[SqlRecorder]):
    """The library's cases for the notification log."""

    def create_recorder(self) -> SqlRecorder:
        """Open the store as the recorder under test."""
        return SqlRecorder(self.engine)

    def test_insert_subscribe(self) -> None:
        """A subscription sees past and future events, from any start, by topic, until it is stopped."""
        self.optional_test_insert_subscribe()


class TestTrackingOnSqlite(_OnSqlite, TrackingRecorderTestCase):
    """The library's cases for tracking."""

    def create_recorder(self) -> SqlRecorder:
        """Open the store as the recorder under test."""
        return SqlRecorder(self.engine)


class TestTrackingOnPostgresql(_OnPostgresql, TrackingRecorderTestCase):
    """The library's cases for tracking."""

    def create_recorder(self) -> SqlRecorder:
        """Open the store as the recorder under test."""
        return SqlRecorder(self.engine)


class TestProcessingOnSqlite(_OnSqlite, ProcessRecorderTestCase):
    """The library's cases for events that are recorded together with tracking."""

    def create_recorder(self) -> SqlRecorder:
        """Open the store as the recorder under test."""
        return SqlRecorder(self.engine)


class TestProcessingOnPostgresql(_OnPostgresql, ProcessRecorderTestCase):
    """The library's cases for events that are recorded together with tracking."""

    def create_recorder(self) -> SqlRecorder:
        """Open the store as the recorder under test."""
        return SqlRecorder(self.engine)


class TestNonInterleavingOnSqlite(_OnSqlite, NonInterleavingNotificationIDsBaseCase):
    """The library's case for the order of ids of two large appends at once."""

    insert_num = 200

    def create_recorder(self) -> SqlRecorder:
        """Open the store as the recorder under test."""
        return SqlRecorder(self.engine)


class TestNonInterleavingOnPostgresql(_OnPostgresql, NonInterleavingNotificationIDsBaseCase):
    """The library's case for the order of ids of two large appends at once."""

    insert_num = 200

    def create_recorder(self) -> SqlRecorder:
        """Open the store as the recorder under test."""
        return SqlRecorder(self.engine)


def _event(stream: str, position: int) -> StoredEvent:
    return StoredEvent(originator_id=stream, originator_version=position, topic="Noted", state=b"{}")


def test_events_written_by_others_are_followed(engine: Engine) -> None:
    """A subscription sees events that were written without the recorder, as the committer writes."""
    with SqlRecorder(engine).subscribe() as subscription:
        seen = iter(subscription)
        for position in (1, 2):
            with writing(engine) as connection:
                connection.execute(
                    stored_events.insert().values(
                        originator_id="run/ä", originator_version=position, topic="Noted", state=b"{}"
                    )
                )
            notification = next(seen)
            assert (notification.originator_id, notification.originator_version) == ("run/ä", position)


def test_a_waiting_subscription_is_stopped_from_another_thread(engine: Engine) -> None:
    """`stop` ends an iteration that waits for an event that never comes."""
    with SqlRecorder(engine).subscribe() as subscription:
        reader = threading.Thread(target=lambda: list(subscription))
        reader.start()
        subscription.stop()
        reader.join(HANG_S)
        assert not reader.is_alive()


def test_more_than_one_page_is_followed_in_order(engine: Engine) -> None:
    """Paging neither drops nor repeats nor reorders a notification."""
    SqlRecorder(engine).insert_events([_event("StockItem/a", position) for position in range(1, 8)])
    subscription = SqlRecorder(engine).subscribe(gt=1)
    subscription.page_size = 2
    assert [next(subscription).originator_version for _ in range(6)] == [2, 3, 4, 5, 6, 7]


def test_the_recorder_waits_for_the_writer(engine: Engine, store_url: str) -> None:
    """An insert cannot begin while another writer writes, and raises when it has waited too long."""
    impatient = create_store_engine(store_url)

    @event.listens_for(impatient, "connect")
    def _hurry(connection: Any, _record: object) -> None:  # noqa: ANN401 - one of two drivers
        on_sqlite = impatient.dialect.name == "sqlite"
        connection.cursor().execute("PRAGMA busy_timeout = 1" if on_sqlite else "SET lock_timeout = 1")
        connection.commit()

    recorder = SqlRecorder(impatient)
    sent: list[str] = []
    event.listen(impatient, "before_cursor_execute", lambda *args: sent.append(args[2]))
    with writing(engine), pytest.raises(OperationalError) as caught:
        recorder.insert_events([], tracking=Tracking("orders", 1))
    assert "another process has been writing" in str(as_amends_error(caught.value))
    # A read before its turn could have been out of date when it wrote.
    assert len(sent) == 1
    assert "notification_tracking" not in sent[0]
    recorder.insert_events([], tracking=Tracking("orders", 1))
    assert recorder.max_tracking_id("orders") == 1
    impatient.dispose()


def test_refused_tracking_takes_its_events_with_it(engine: Engine) -> None:
    """Events and tracking are recorded together or not at all."""
    recorder = SqlRecorder(engine)
    recorder.insert_events([_event("StockItem/a", 1)], tracking=Tracking("orders", 5))
    with pytest.raises(IntegrityError):
        recorder.insert_events([_event("StockItem/a", 2)], tracking=Tracking("orders", 5))
    with engine.connect() as connection:
        assert connection.execute(select(stored_events.c.originator_version)).scalars().all() == [1]


def test_create_table_opens_the_store(sqlite_url: str) -> None:
    """A recorder on a new SQLite file creates the whole schema, not only its own tables."""
    engine = create_store_engine(sqlite_url)
    recorder = SqlRecorder(engine)
    with pytest.raises(OperationalError) as caught:
        recorder.max_notification_id()
    assert "run `amends db upgrade`" in str(as_amends_error(caught.value))
    assert isinstance(as_amends_error(caught.value), JournalError)
    recorder.create_table()
    assert recorder.max_notification_id() is None
    assert cast("list[int]", recorder.insert_events([_event("StockItem/a", 1)])) == [1]
    engine.dispose()


def test_what_is_recorded_fits_its_checksum_and_what_was_changed_is_refused(engine: Engine) -> None:
    """Events and snapshots of the library's recorders have checksums, and neither is read after a byte was changed."""
    events, kept = SqlRecorder(engine), SqlAggregateRecorder(engine, for_snapshots=True)
    events.insert_events([_event("StockItem/a", 1), _event("StockItem/a", 2)])
    kept.insert_events([_event("StockItem/a", 2)])
    with engine.connect() as connection:
        read = read_stream(connection, "StockItem/a")
    assert [type(each) for each in read] == [StoredEvent, StoredEvent]
    assert len(kept.select_events("StockItem/a")) == 1
    change(engine, "UPDATE stored_events SET topic = 'Voted' WHERE originator_version = 2")
    change(engine, "UPDATE snapshots SET topic = 'Voted'")
    assert len(events.select_events("StockItem/a", lte=1)) == 1
    for select_changed in (
        lambda: events.select_events("StockItem/a"),
        lambda: events.select_notifications(start=1, limit=10),
        lambda: kept.select_events("StockItem/a"),
    ):
        with pytest.raises(ChangedEventError, match="stream 'StockItem/a' position 2"):
            select_changed()
