"""The schema over time: the migrations lead to the metadata, on both databases, also when many start at once."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aggregate_parts.engines import in_processes, in_threads
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from amends.aggregates.errors import JournalError, UnreachableError
from amends.aggregates.sql.engine import create_store_engine, writing
from amends.aggregates.sql.migrations import (
    HEAD_REVISION,
    REVISIONS,
    VERSION_TABLE,
    current_revision,
    ensure_schema,
    needs_upgrade,
    upgrade,
)
from amends.aggregates.sql.schema import metadata


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    """Yield an engine of an empty database; the test runs once on each."""
    engine = create_store_engine(store_url)
    yield engine
    engine.dispose()


def described(engine: Engine) -> dict[str, Any]:
    """Describe every table but Alembic's as the database itself knows it: columns, keys, indexes."""
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            rows = connection.execute(
                text("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL AND name <> :version"),
                {"version": VERSION_TABLE},
            )
            return {name: re.sub(r"\s+", "", sql).replace('"', "") for name, sql in rows}
    with engine.connect() as connection:
        columns = connection.execute(
            text(
                "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default "
                "FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> :version"
            ),
            {"version": VERSION_TABLE},
        )
        found = {f"{row[0]}.{row[1]}": tuple(row) for row in columns}
        indexes = connection.execute(
            text("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> :version"),
            {"version": VERSION_TABLE},
        )
        return {**found, **{name: (definition,) for name, definition in indexes}}


def test_the_revisions_are_those_of_the_files() -> None:
    """The constants that spare every start the import of Alembic name its revisions, in order, and its head."""
    config = Config()
    config.set_main_option("script_location", "amends.aggregates.sql:migrations")
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [HEAD_REVISION]
    assert tuple(reversed([each.revision for each in script.walk_revisions()])) == REVISIONS


def test_the_migrations_lead_to_the_metadata(engine: Engine) -> None:
    """Alembic finds no difference between a migrated store and the tables that the adapters use."""
    upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []


def test_a_migrated_store_equals_a_created_one(engine: Engine, tmp_path: Path) -> None:
    """Columns, types, keys, indexes and AUTOINCREMENT are as the metadata would create them."""
    upgrade(engine)
    migrated = described(engine)
    if engine.dialect.name == "sqlite":
        created = create_store_engine(f"sqlite:///{tmp_path}/created.db")
    else:
        created = engine
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
    metadata.create_all(created)
    assert described(created) == migrated
    assert len(migrated) > len(metadata.tables)
    created.dispose()


def test_upgrading_twice_is_upgrading_once(engine: Engine) -> None:
    """The second upgrade finds nothing to do, and the store keeps its identity."""
    assert current_revision(engine) is None
    assert needs_upgrade(engine)
    assert upgrade(engine)
    assert current_revision(engine) == HEAD_REVISION
    identity = ensure_schema(engine)
    assert not upgrade(engine)
    assert ensure_schema(engine) == identity


def test_stores_differ_in_their_identity(tmp_path: Path) -> None:
    """Two stores never have the same identity."""
    first, second = (ensure_schema(create_store_engine(f"sqlite:///{tmp_path}/{name}.db")) for name in "ab")
    assert first != second


def test_opening_an_sqlite_store_upgrades_it(sqlite_url: str) -> None:
    """A new file is a store after it was opened once."""
    engine = create_store_engine(sqlite_url)
    ensure_schema(engine)
    assert current_revision(engine) == HEAD_REVISION
    engine.dispose()


def test_opening_a_store_in_memory_upgrades_it() -> None:
    """Opening a store in memory creates it, through the same migrations."""
    engine = create_store_engine("sqlite://")
    assert ensure_schema(engine) == ensure_schema(engine)


def test_opening_a_postgresql_store_leaves_it_as_it_is(postgres_url: str) -> None:
    """A PostgreSQL store is only upgraded on request, and the message names the command."""
    engine = create_store_engine(postgres_url)
    with pytest.raises(JournalError, match=r"has schema none, this version needs 0001; run `amends db upgrade`"):
        ensure_schema(engine)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_opening_for_reading_upgrades_nothing(tmp_path: Path) -> None:
    """A read-only engine on an empty file names the command to run."""
    (tmp_path / "empty.db").touch()
    engine = create_store_engine(f"sqlite:///{tmp_path}/empty.db", readonly=True)
    with pytest.raises(JournalError, match="run `amends db upgrade`"):
        ensure_schema(engine)
    engine.dispose()


def test_a_newer_store_is_refused(engine: Engine) -> None:
    """A store that a newer version has upgraded is neither used nor changed."""
    upgrade(engine)
    with writing(engine) as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))  # noqa: S608 - a constant
    for refuse in (ensure_schema, upgrade, needs_upgrade):
        with pytest.raises(JournalError, match=r"'9999', which is newer than this version's '0001'; install"):
            refuse(engine)
    assert current_revision(engine) == "9999"


def test_a_database_with_foreign_tables_is_refused(engine: Engine) -> None:
    """Another application's table of the same name is not touched; other tables do not matter."""
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE plans (price INTEGER)"))
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
    with pytest.raises(
        JournalError, match="has tables that Amends did not create: plans; use another database or schema"
    ):
        upgrade(engine)
    with writing(engine) as connection:
        connection.execute(text("DROP TABLE plans"))
    assert upgrade(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "theirs"


def test_a_failed_upgrade_leaves_nothing(engine: Engine) -> None:
    """An upgrade that fails half-way is rolled back whole, and can be repeated."""
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE unrelated (x INTEGER)"))
        # The name of the last index that the first revision creates.
        connection.execute(text("CREATE INDEX run_keys_value ON unrelated (x)"))
    with pytest.raises((JournalError, UnreachableError), match="run_keys_value"):
        upgrade(engine)
    assert inspect(engine).get_table_names() == ["unrelated"]
    with writing(engine) as connection:
        connection.execute(text("DROP TABLE unrelated"))
    assert upgrade(engine)


def test_a_store_without_identity_is_refused(engine: Engine) -> None:
    """A store that was emptied by hand is not mistaken for a new one."""
    upgrade(engine)
    with writing(engine) as connection:
        connection.execute(text("DELETE FROM store_identity"))
    with pytest.raises(JournalError, match="has 0 identities instead of one"):
        ensure_schema(engine)


def test_threads_that_upgrade_at_once_all_succeed(engine: Engine) -> None:
    """One of the threads upgrades, and the others find it done."""
    did: list[bool] = []
    in_threads([lambda: did.append(upgrade(engine))] * 4)
    assert sorted(did) == [False, False, False, True]


def test_threads_that_make_different_stores_do_not_mix_them_up(tmp_path: Path) -> None:
    """Alembic's state is shared by all threads; the upgrades of a process take turns."""
    engines = [create_store_engine(f"sqlite:///{tmp_path}/{number}.db") for number in range(6)]
    in_threads([partial(upgrade, engine) for engine in engines])
    assert [current_revision(engine) for engine in engines] == [HEAD_REVISION] * 6
    assert len({ensure_schema(engine) for engine in engines}) == 6


def test_processes_that_open_a_new_store_at_once_all_succeed(store_url: str) -> None:
    """Processes that create the same store at the same moment end up with the same identity."""
    said = in_processes(
        "import sys; from amends.aggregates.sql.engine import create_store_engine\n"
        "from amends.aggregates.sql.migrations import ensure_schema, upgrade\n"
        "import alembic.command\n",
        "engine = create_store_engine(sys.argv[1])\n"
        "if engine.dialect.name != 'sqlite': upgrade(engine)\n"
        "print(ensure_schema(engine))\n",
        store_url,
    )
    assert len(set(said)) == 1
    assert re.fullmatch(r"[0-9a-f-]{36}\n", said[0])


def test_an_up_to_date_store_is_opened_without_alembic(sqlite_url: str) -> None:
    """Reading the revision imports no Alembic, so that a start stays short."""
    ensure_schema(create_store_engine(sqlite_url))
    program = (
        "import sys; from amends.aggregates.sql.engine import create_store_engine\n"
        "from amends.aggregates.sql.migrations import ensure_schema\n"
        f"ensure_schema(create_store_engine({sqlite_url!r}))\n"
        "assert 'alembic' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
