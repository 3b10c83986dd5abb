"""A store behind PgBouncer in transaction mode: one session of the server serves many clients in turn."""

import asyncio
import subprocess
import sys
from collections import Counter as Tally
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pooler_parts
import psycopg
import pytest
from pooler_parts import Counter, Pooled, drive, pgbouncer, pooled
from sqlalchemy import text

from amends.aggregates.errors import AmendsError, InputError
from amends.aggregates.sql.engine import create_store_engine, writing
from amends.aggregates.sql.journal import open_journal
from amends.aggregates.sql.migrations import upgrade

PGBOUNCER = pgbouncer()
pytestmark = pytest.mark.skipif(
    PGBOUNCER is None, reason="PgBouncer is not installed: apt-get install pgbouncer, and these tests run"
)
RUNS = 40


@pytest.fixture(scope="module")
def store() -> Iterator[Pooled]:
    """Yield a store with its schema, created through the pooler."""
    assert PGBOUNCER is not None
    with pooled(PGBOUNCER) as made:
        engine = create_store_engine(made.url)
        upgrade(engine)
        engine.dispose()
        yield made


def counted(store: Pooled) -> int:
    """Return the number of counted runs."""
    journal = open_journal(store.url, aggregates=[Counter])
    try:
        found = journal.load_blocking(Counter, "runs")
        return 0 if found is None else found.count
    finally:
        journal.close_blocking()


def test_runs_of_several_processes_all_end(store: Pooled) -> None:
    """Two processes with two journals each bring their runs to their end over three sessions, and count each once."""
    before = counted(store)

    def process(name: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, Path(pooler_parts.__file__), store.url, name, str(RUNS)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    with ThreadPoolExecutor() as threads:
        statuses = [status for each in threads.map(process, ["one", "two"]) for status in each]
    assert Tally(statuses) == {"COMPLETED": 2 * RUNS * 9 // 10, "COMPENSATED": 2 * RUNS // 10}
    assert counted(store) - before == 2 * RUNS * 9 // 10


async def test_sessions_that_end_on_the_way_lose_nothing(store: Pooled) -> None:
    """When the server ends the sessions of the pooler, runs continue in other ones, and each counts once."""
    past_the_pooler = Pooled(store.direct.replace("postgresql://", "postgresql+psycopg://"), store.direct)
    seen = before = await asyncio.to_thread(counted, past_the_pooler)
    runs = asyncio.create_task(drive(store.url, "cut", RUNS))
    ended = 0
    while not runs.done():
        if (count := await asyncio.to_thread(counted, past_the_pooler)) >= seen + 5:
            ended += await asyncio.to_thread(store.end_sessions)
            seen = count
        await asyncio.wait([runs], timeout=0.05)
    assert Tally(await runs) == {"COMPLETED": RUNS * 9 // 10, "COMPENSATED": RUNS // 10}
    assert ended
    assert await asyncio.to_thread(counted, past_the_pooler) - before == RUNS * 9 // 10


def test_nothing_that_a_client_sets_is_left_in_a_session(store: Pooled) -> None:
    """Timeouts are there in every transaction, and the next client of the session does not see them."""
    names = ("lock_timeout", "idle_in_transaction_session_timeout", "synchronous_commit")
    shown = text("SELECT " + ", ".join(f"current_setting('{name}')" for name in names))
    engine = create_store_engine(store.url)
    with psycopg.connect(store.url.replace("+psycopg", ""), autocommit=True, prepare_threshold=None) as other:
        clean = other.execute(str(shown).encode()).fetchone()
        for _ in range(5):
            with engine.connect() as connection:
                assert tuple(connection.execute(shown).one()) == ("30s", "1min", "on")
            with writing(engine) as connection:
                assert tuple(connection.execute(shown).one()) == ("30s", "1min", "on")
            assert other.execute(str(shown).encode()).fetchone() == clean
        held = other.execute(
            "SELECT (SELECT count(*) FROM pg_prepared_statements), "
            "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')"
        ).fetchone()
    engine.dispose()
    assert held == (0, 0)


def test_options_in_the_url_are_refused_with_a_remedy(store: Pooled) -> None:
    """PgBouncer accepts no `options` from a client; the message names their proper place."""
    with pytest.raises(AmendsError) as raised:
        open_journal(f"{store.url}?options=-csearch_path%3Dother")
    assert "remove them from the URL and set them for the role" in str(raised.value)


def test_a_search_path_that_the_pooler_ignores_is_refused() -> None:
    """A pooler that drops `options` silently would put the store into another schema than the URL names."""
    assert PGBOUNCER is not None
    with pooled(PGBOUNCER, "ignore_startup_parameters = options") as made:
        engine = create_store_engine(f"{made.url}?options=-csearch_path%3Dother")
        with pytest.raises(InputError, match="the connection pooler ignores the search_path in the URL"):
            engine.connect()
        engine.dispose()
