"""A PostgreSQL store that cannot be used: each reason ends in one line with its remedy, and in its exit status."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from journal_parts import prepare
from outage_parts import own_server
from reading_shop import Amends, as_it_was, project_at

from amends.aggregates.errors import AmendsError
from amends.aggregates.sql.journal import open_journal
from amends.cli.exit_codes import ExitCode, exit_code_of
from amends.sagas.temporal.server.ports import free_port

ROLES = (
    "CREATE ROLE app LOGIN PASSWORD 'right'",
    "CREATE ROLE reader LOGIN PASSWORD 'right'",
    "CREATE ROLE stranger LOGIN PASSWORD 'right'",
    "CREATE ROLE crowd LOGIN PASSWORD 'right' CONNECTION LIMIT 0",
    "CREATE DATABASE shop OWNER app",
    "CREATE DATABASE empty OWNER app",
    "REVOKE CONNECT ON DATABASE empty FROM public",
)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Yield the port of a server that asks for passwords, with a store in one of its databases."""
    port = free_port()
    with own_server() as server:
        with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as admin:
            for statement in ROLES:
                admin.execute(statement.encode())
        server.ask_for_passwords(port)
        app = prepare(f"postgresql://app:right@127.0.0.1:{port}/shop")
        with psycopg.connect(app, autocommit=True) as owner:
            owner.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        yield port


CASES = {
    "a wrong password": ("app:wrong@{host}/shop", 3, "check the user and password"),
    "an unknown user": ("nobody:wrong@{host}/shop", 3, "check the user and password"),
    "a missing database": ("app:right@{host}/nowhere", 3, "create the database, or correct its name in the URL"),
    "a database that is not for this user": ("stranger:right@{host}/empty", 3, "grant the user CONNECT"),
    "too many connections": ("crowd:right@{host}/shop", 3, "raise the limit of connections or use fewer processes"),
    "missing tables": ("app:right@{host}/empty", 2, "run `amends db upgrade`"),
    "a missing schema": ("app:right@{host}/shop?options=-csearch_path%3Dnope", 2, "run `amends db upgrade`"),
    "a user without rights": ("stranger:right@{host}/shop", 3, "grant the user the missing privilege"),
    "a read-only user": (
        "reader:right@{host}/shop",
        3,
        "cannot be written by this user; grant the user SELECT, INSERT,",
    ),
    "a read-only server": (
        "app:right@{host}/shop?options=-cdefault_transaction_read_only%3Don",
        3,
        "is read-only; connect to the primary server",
    ),
    "nobody there": ("app:right@127.0.0.1:1/shop", 3, "check that it runs and that the URL is right"),
    "an unknown host": ("app:right@nowhere.invalid/shop", 3, "check the host in the URL"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_store_that_cannot_be_used_is_said_to_be(port: int, case: str) -> None:
    """Opening it for writing ends in one line that names the store without its password, and the remedy."""
    url, code, remedy = CASES[case]
    with pytest.raises(AmendsError) as raised:
        open_journal(f"postgresql://{url.format(host=f'127.0.0.1:{port}')}")
    said = str(raised.value)
    assert remedy in said
    assert "\n" not in said
    assert "right@" not in said
    assert exit_code_of(raised.value) == code


def test_the_program_says_the_same(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands end in that line and status; `doctor` shows it as a fault, also of a store that can only be read."""
    with as_it_was():
        amends = Amends(project_at(tmp_path), capsys)
        monkeypatch.setenv("AMENDS_STORE_URL", f"postgresql://app:wrong@127.0.0.1:{port}/shop")
        refused = amends("list")
        assert (refused.code, refused.err.count("\n")) == (ExitCode.UNREACHABLE, 1)
        assert "check the user and password" in refused.err
        monkeypatch.setenv("AMENDS_STORE_URL", f"postgresql://reader:right@127.0.0.1:{port}/shop")
        assert amends("list").code == ExitCode.OK
        found = amends("doctor", "--json")
        assert found.code == ExitCode.FOUND
        assert "cannot be written by this user" in found.out


def test_a_missing_schema_cannot_be_filled(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the connection names a missing schema, no tables are created, and the error names the remedy."""
    monkeypatch.setenv("AMENDS_STORE_URL", f"postgresql://app:right@127.0.0.1:{port}/shop?options=-csearch_path%3Dnope")
    refused = Amends(project_at(tmp_path), capsys)("db", "upgrade")
    assert refused.code == ExitCode.USAGE
    assert "create the schema that its search_path names" in refused.err
