"""Engines of the store: the one writer, the owner's rights on a file, and the messages of errors."""

import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from aggregate_parts import engines
from aggregate_parts.engines import add_ones, in_processes, note, noted
from sqlalchemy import Engine, event, exc, text

from amends.aggregates.errors import InputError, UnreachableError
from amends.aggregates.sql.engine import LOCK_WAIT_MS, create_store_engine, is_readonly, writing
from amends.aggregates.sql.errors import as_amends_error, store_errors

engine = engines.engine


def impatient_engine(url: str) -> Engine:
    """Create an engine that does not wait for another writer."""
    engine = create_store_engine(url).execution_options(**{LOCK_WAIT_MS: 1})

    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _hurry(connection: sqlite3.Connection, _record: object) -> None:
            connection.execute("PRAGMA busy_timeout = 1")

    return engine


def test_writing_commits_on_exit_and_only_then(engine: Engine) -> None:
    """Other connections see a row only after the transaction has ended."""
    with writing(engine) as connection:
        note(connection, 1)
        assert noted(engine) == []
    assert noted(engine) == [1]


def test_an_exception_undoes_everything_that_was_written(engine: Engine) -> None:
    """A transaction that ends by an exception leaves nothing, not even the rows that a savepoint kept."""

    def fail_after_writing() -> None:
        with writing(engine) as connection:
            note(connection, 1)
            with connection.begin_nested():
                note(connection, 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_writing()
    assert noted(engine) == []


def test_a_savepoint_undoes_only_its_own(engine: Engine) -> None:
    """Rolling back a savepoint keeps earlier and later writes, data definition included."""
    with writing(engine) as connection:
        note(connection, 1)
        savepoint = connection.begin_nested()
        note(connection, 2)
        connection.execute(text("CREATE TABLE gone (x INTEGER)"))
        savepoint.rollback()
        note(connection, 3)
    assert noted(engine) == [1, 3]
    with engine.connect() as connection, pytest.raises(exc.DBAPIError, match="gone"):
        connection.execute(text("SELECT * FROM gone"))


def test_a_second_writer_is_kept_out_from_its_beginning(engine: Engine, store_url: str) -> None:
    """While one transaction writes, another cannot begin, although it would touch other rows; afterwards it can."""
    impatient = impatient_engine(store_url)
    with writing(engine), pytest.raises(exc.OperationalError) as caught, writing(impatient):
        pytest.fail("two writers at once")
    error = as_amends_error(caught.value)
    assert isinstance(error, UnreachableError)
    assert "another process has been writing for over 30 s" in str(error)
    with writing(impatient) as connection:
        note(connection, 1)
    assert noted(engine) == [1]
    impatient.dispose()


def test_a_reader_is_not_kept_out(engine: Engine, store_url: str) -> None:
    """A transaction that only reads begins at once while another writes."""
    impatient = impatient_engine(store_url)
    with writing(engine) as connection:
        note(connection, 1)
        assert noted(impatient) == []
    impatient.dispose()


def test_what_a_writer_reads_is_still_true_when_it_commits(engine: Engine) -> None:
    """Many threads that read and then add one lose no update, and none fails."""
    with writing(engine) as connection:
        note(connection, 0)

    add_ones(engine, 10)
    assert noted(engine) == list(range(41))


def test_a_connection_can_be_used_again_after_writing(engine: Engine) -> None:
    """On one connection writing and reading alternate, and a failed beginning does no harm."""
    with engine.connect() as connection:
        for number in (1, 2):
            with writing(connection):
                note(connection, number)
            with connection.begin():
                assert connection.execute(text("SELECT max(id) FROM noted")).scalar_one() == number
        # The option of `writing` must not outlive its block, or this reading would wait for the other's writing.
        with writing(engine), connection.begin():
            connection.execute(text("SELECT 1 FROM noted"))


def test_writing_inside_a_transaction_is_refused(engine: Engine) -> None:
    """A connection that has begun to read cannot become a writer half-way."""
    with (
        engine.connect() as connection,
        connection.begin(),
        pytest.raises(exc.InvalidRequestError),
        writing(connection),
    ):
        pytest.fail("began twice")


def test_order_of_ids_is_order_of_commits(engine: Engine) -> None:
    """A reader that polls while several write never finds a new id below one that it has seen."""
    is_sqlite = engine.dialect.name == "sqlite"
    key = "INTEGER PRIMARY KEY AUTOINCREMENT" if is_sqlite else "BIGSERIAL PRIMARY KEY"
    with writing(engine) as connection:
        connection.execute(text(f"CREATE TABLE logged (id {key}, word TEXT)"))

    def append() -> None:
        for _ in range(10):
            with writing(engine) as connection:
                connection.execute(text("INSERT INTO logged (word) VALUES ('a'), ('b')"))

    threads = [threading.Thread(target=append) for _ in range(3)]
    for thread in threads:
        thread.start()
    seen: list[int] = []
    while len(seen) < 60:
        with engine.connect() as connection:
            seen += connection.execute(
                text("SELECT id FROM logged WHERE id > :last ORDER BY id"), {"last": seen[-1] if seen else 0}
            ).scalars()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 60
    assert noted_words(engine) == 60


def noted_words(engine: Engine) -> int:
    """Count the logged words."""
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM logged")).scalar_one())


def test_an_sqlite_store_is_set_up_for_durability(sqlite_url: str) -> None:
    """Every connection has the write-ahead log, full synchronisation, a long busy timeout and foreign keys."""
    engine = create_store_engine(sqlite_url)
    with engine.connect() as first, engine.connect() as second:
        for connection in (first, second):
            found = {
                name: connection.execute(text(f"PRAGMA {name}")).scalar_one()
                for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
            }
            assert found == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 30_000, "foreign_keys": 1}
    engine.dispose()


def test_an_sqlite_store_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    """The file and its companions have the mode 0600, under any umask."""
    before = os.umask(0)
    try:
        engine = create_store_engine(f"sqlite:///{tmp_path}/events.db")
        with writing(engine) as connection:
            connection.execute(text("CREATE TABLE noted (id INTEGER PRIMARY KEY)"))
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["events.db", "events.db-wal", "events.db-shm"], 0o600)
    engine.dispose()


def test_a_relative_path_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing the working directory later does not change the store."""
    monkeypatch.chdir(tmp_path)
    engine = create_store_engine("sqlite:///events.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE noted (id INTEGER PRIMARY KEY)"))
    assert (tmp_path / "events.db").stat().st_size > 0
    assert list((tmp_path / "elsewhere").iterdir()) == []
    engine.dispose()


@pytest.mark.parametrize("name", ["a#b.db", "a%20b.db", "ä b.db", "a&b=c.db"])
def test_any_file_name_can_be_read_only(tmp_path: Path, name: str) -> None:
    """A path that looks like part of a URL names the same file for writing and for reading."""
    url = f"sqlite:///{tmp_path / name}"
    engine = create_store_engine(url)
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE noted (id INTEGER PRIMARY KEY)"))
    assert noted(create_store_engine(url, readonly=True)) == []
    engine.dispose()


def test_a_store_in_memory_lasts_as_long_as_its_engine() -> None:
    """All connections of one `sqlite://` engine, also of other threads, see the same data; other engines do not."""
    engine = create_store_engine("sqlite://")
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE noted (id INTEGER PRIMARY KEY)"))

    def write() -> None:
        with writing(engine) as connection:
            note(connection, 7)

    other = threading.Thread(target=write)
    other.start()
    other.join()
    assert noted(engine) == [7]
    with pytest.raises(exc.OperationalError, match="no such table"):
        noted(create_store_engine("sqlite://"))


def test_threads_take_turns_on_a_store_in_memory() -> None:
    """Many threads on the one connection lose nothing and never see each other's open transaction."""
    engine = create_store_engine("sqlite://")
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE noted (id INTEGER PRIMARY KEY)"))

    add_ones(engine, 20)
    assert len(noted(engine)) == 80


def test_processes_that_create_a_store_at_once_all_succeed(tmp_path: Path) -> None:
    """Opening a new file in several processes at the same moment fails in none of them, and loses no write."""
    in_processes(
        "import sys; from sqlalchemy import text\n"
        "from amends.aggregates.sql.engine import create_store_engine, writing\n",
        f"engine = create_store_engine('sqlite:///{tmp_path}/events.db')\n"
        "with writing(engine) as connection:\n"
        "    connection.execute(text('CREATE TABLE IF NOT EXISTS noted (id INTEGER PRIMARY KEY)'))\n"
        "    connection.execute(text('INSERT INTO noted DEFAULT VALUES'))\n",
    )
    assert noted(create_store_engine(f"sqlite:///{tmp_path}/events.db")) == [1, 2, 3]


def test_a_read_only_engine_reads_and_cannot_write(engine: Engine, store_url: str) -> None:
    """The database itself refuses the write, and the message names the reason."""
    with writing(engine) as connection:
        note(connection, 1)
    readonly = create_store_engine(store_url, readonly=True)
    assert is_readonly(readonly)
    assert not is_readonly(engine)
    assert noted(readonly) == [1]
    with pytest.raises(exc.DBAPIError) as caught, readonly.begin() as connection:
        note(connection, 2)
    assert isinstance(as_amends_error(caught.value), UnreachableError)
    assert noted(engine) == [1]
    readonly.dispose()


def test_a_read_only_engine_creates_no_file(tmp_path: Path) -> None:
    """A missing store is reported, and no file is created."""
    with pytest.raises(InputError, match="does not exist"):
        create_store_engine(f"sqlite:///{tmp_path}/events.db", readonly=True)
    assert list(tmp_path.iterdir()) == []


def test_a_lost_connection_is_replaced(postgres_url: str) -> None:
    """When the server ends a session, its transaction reports the store as unreachable; the next one works."""
    engine = create_store_engine(postgres_url)
    other = create_store_engine(postgres_url)

    def end_sessions() -> int:
        end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
        with other.connect() as connection:
            return len(connection.execute(text(f"{end} AND pid <> pg_backend_pid()")).all())

    def lose_connection() -> None:
        with store_errors(), writing(engine) as connection:
            assert end_sessions() == 1
            connection.execute(text("SELECT 1"))

    with pytest.raises(UnreachableError):
        lose_connection()
    for _ in range(2):
        with writing(engine) as connection:
            assert connection.execute(text("SELECT 1")).scalar_one() == 1
        assert end_sessions() == 1
    engine.dispose()
    other.dispose()


def test_a_postgresql_store_is_set_up_for_durability(postgres_url: str) -> None:
    """A default of the server or user to acknowledge before writing has no effect, and no session waits for ever."""
    lax = create_store_engine(postgres_url)
    with lax.begin() as connection:
        connection.execute(text("ALTER ROLE CURRENT_USER SET synchronous_commit = off"))
    lax.dispose()
    engine = create_store_engine(postgres_url)
    try:
        with engine.connect() as connection:
            found = {
                name: connection.execute(text(f"SHOW {name}")).scalar_one()
                for name in (
                    "synchronous_commit",
                    "lock_timeout",
                    "idle_in_transaction_session_timeout",
                    "transaction_isolation",
                    "application_name",
                )
            }
    finally:
        with engine.begin() as connection:
            connection.execute(text("ALTER ROLE CURRENT_USER RESET synchronous_commit"))
        engine.dispose()
    assert found == {
        "synchronous_commit": "on",
        "lock_timeout": "30s",
        "idle_in_transaction_session_timeout": "1min",
        "transaction_isolation": "read committed",
        "application_name": "amends",
    }


def test_statements_are_prepared_only_where_the_url_says_so(postgres_url: str) -> None:
    """Prepared statements would mix between the clients of a pooler; a direct connection may ask for them."""

    def threshold(url: str) -> object:
        engine = create_store_engine(url)
        with engine.connect() as connection:
            found: object = getattr(connection.connection.driver_connection, "prepare_threshold", "missing")
        engine.dispose()
        return found

    assert threshold(postgres_url) is None
    assert threshold(f"{postgres_url}&prepare_threshold=none") is None
    assert threshold(f"{postgres_url}&prepare_threshold=5") == 5
    for wrong in ("-1", "five", "5&prepare_threshold=6"):
        with pytest.raises(InputError, match="prepare_threshold in the URL is "):
            create_store_engine(f"{postgres_url}&prepare_threshold={wrong}")


def test_stores_in_different_schemas_do_not_wait_for_each_other(postgres_url: str) -> None:
    """The writing lock is per schema, so two stores in one database are independent."""
    engine = create_store_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA other"))
    other = impatient_engine(f"{postgres_url}&options=-csearch_path%3Dother")
    with writing(engine), writing(other) as connection:
        assert connection.execute(text("SELECT current_schema()")).scalar_one() == "other"
    engine.dispose()
    other.dispose()
