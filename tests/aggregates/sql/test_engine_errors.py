"""A store that cannot be used: the error names the problem and the remedy."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from aggregate_parts import engines
from aggregate_parts.engines import noted
from sqlalchemy import Engine, exc, make_url, text

from amends.aggregates.errors import AmendsError, InputError, JournalError, UnreachableError
from amends.aggregates.sql.engine import create_store_engine, safe_url, writing
from amends.aggregates.sql.errors import as_amends_error, store_errors

engine = engines.engine


def message(url: str) -> str:
    """Connect, and return the one line of the error."""
    with (
        pytest.raises((AmendsError, exc.SQLAlchemyError)) as caught,
        create_store_engine(url).connect(),
    ):
        pytest.fail("connected")
    line = str(as_amends_error(caught.value))
    assert "\n" not in line
    return line


FORMS = "write sqlite:///path/to/events.db or postgresql://user:password@host/database"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("events.db", f"store URL 'events.db' is refused: it is not a URL; {FORMS}"),
        ("", f"store URL '' is refused: it is not a URL; {FORMS}"),
        (
            "mysql://u:secret@h/db",
            f"store URL 'mysql://u:***@h/db' is refused: the scheme mysql:// is not supported; {FORMS}",
        ),
        (
            "postgresql://u:sec@ret@h/db",
            (
                "store URL 'postgresql://***' is refused: "
                f"it cannot be read as a URL; {FORMS}, special characters of the password percent-encoded"
            ),
        ),
        (
            "sqlite://events.db",
            (
                "store URL 'sqlite://events.db' is refused: a file has no host; "
                "write three slashes before a relative path, four before an absolute one"
            ),
        ),
        (
            "sqlite:///events.db?mode=ro",
            (
                f"store URL 'sqlite:///events.db' is refused: SQLite takes a plain path, "
                f"without parameters and without '?'; {FORMS}"
            ),
        ),
        (
            "sqlite:////no/such/events.db",
            "store '/no/such/events.db': there is no directory '/no/such'; create it or correct store_url",
        ),
        ("sqlite:////usr", "store '/usr' is a directory; name a file in it, such as '/usr/store.db'"),
    ],
)
def test_a_wrong_url_is_an_input_error(url: str, said: str) -> None:
    """Each wrong URL is refused in one line, with its remedy and without its secrets."""
    with pytest.raises(InputError) as caught:
        create_store_engine(url)
    assert str(caught.value) == said


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg, the error for a PostgreSQL URL names the package to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"pip install 'amends\[postgresql\]'"):
        create_store_engine("postgresql://h/db")


def test_a_server_that_is_not_there_is_unreachable() -> None:
    """The message names the store without its password, the cause, and the places to check."""
    said = message("postgresql://u:secret@127.0.0.1:1/db?sslpassword=secret")
    assert said.startswith("store 'postgresql://u:***@127.0.0.1:1/db': connection failed")
    assert said.endswith("check that it runs and that the URL is right")
    assert "secret" not in said


def test_a_database_that_is_not_there_is_unreachable(postgres_url: str) -> None:
    """The server's own reason is in the message."""
    database = make_url(postgres_url).set(database="nowhere")
    assert 'database "nowhere" does not exist' in message(database.render_as_string(hide_password=False))


def test_a_file_that_is_no_database_is_a_journal_error(tmp_path: Path) -> None:
    """Another program's file is neither overwritten nor called unreachable."""
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir or Madam, " * 100)
    said = message(f"sqlite:///{path}")
    assert said.startswith(f"store 'sqlite:///{path}' is not a valid SQLite database (file is not a database)")
    assert path.read_text().startswith("Dear")


def test_a_full_disk_is_unreachable_and_writes_nothing(sqlite_url: str) -> None:
    """On a full disk the message names the reason, and the transaction leaves nothing."""
    engine = create_store_engine(sqlite_url)
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE noted (id INTEGER PRIMARY KEY, word TEXT)"))
    with engine.connect() as connection:
        connection.execute(text("PRAGMA max_page_count = 5"))
        connection.rollback()
        with pytest.raises(UnreachableError, match="make room on the disk"), store_errors(), writing(connection):
            connection.execute(text("INSERT INTO noted (word) VALUES (hex(zeroblob(100000)))"))
    assert noted(engine) == []
    engine.dispose()


def test_missing_tables_tell_ours_from_theirs(engine: Engine) -> None:
    """The message for a missing table names the upgrade for the store's own; a user creates a table of the user's."""
    with pytest.raises(JournalError, match="run `amends db upgrade`"), store_errors(), engine.connect() as connection:
        connection.execute(text("SELECT * FROM stored_events"))
    with pytest.raises(InputError, match="no table 'invoices'"), store_errors(), engine.connect() as connection:
        connection.execute(text("SELECT * FROM invoices"))


def test_user_data_is_not_in_the_message(engine: Engine) -> None:
    """Neither the statement nor its parameters are in the message."""
    with pytest.raises(AmendsError) as caught, store_errors(), engine.connect() as connection:
        connection.execute(text("INSERT INTO noted (id, nothing) VALUES (:id, 1)"), {"id": "4012 8888 8888 1881"})
    assert "4012" not in str(caught.value)
    assert "INSERT" not in str(caught.value)


def test_what_may_not_be_written_is_unreachable() -> None:
    """A directory or file without permission ends in one line, for a user whom permissions bind."""
    program = (
        "import os, sys; from amends.aggregates.sql.engine import create_store_engine\n"
        "if os.getuid() == 0: os.chdir(sys.argv[1]); os.setuid(65534)\n"
        "os.chdir(sys.argv[1])\n"
        "for name in sys.argv[2:]:\n"
        "    try: create_store_engine('sqlite:///' + name)\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
        "    else: print('opened', name)\n"
    )
    # Not below `tmp_path`: each pytest that starts closes the directory of all of them to other users.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "old.db").touch(0o444)
        folder.chmod(0o555)
        try:
            ran = subprocess.run(
                [sys.executable, "-c", program, folder, "new.db", "old.db"], capture_output=True, text=True, check=True
            )
        finally:
            folder.chmod(0o755)
    new, old = ran.stdout.splitlines()
    assert new.startswith("UnreachableError store ")
    assert new.endswith("cannot be created: Permission denied; change its directory's permissions or the URL")
    assert old.startswith("UnreachableError store ")
    assert ": this user may not write '" in old
    assert old.endswith("; change its permissions")


def test_the_name_of_a_store_has_no_secrets() -> None:
    """A store's name leaves out password and parameters; the rest is as the user wrote it."""
    assert safe_url(make_url("postgresql://u:secret@h:5/db?sslpassword=secret")) == "postgresql://u:***@h:5/db"
    assert safe_url(create_store_engine("sqlite://")) == "sqlite://"


def test_an_error_of_the_domain_stays_as_it_is() -> None:
    """An error that already names its remedy is not wrapped."""
    error = InputError("said already")
    assert as_amends_error(error) is error
