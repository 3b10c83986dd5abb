"""A table of numbers, engines for it, and threads and processes that use a store at once."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from bounds import HANG_S
from sqlalchemy import Connection, Engine, text

from amends.aggregates.sql.engine import create_store_engine, writing


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    """Yield an engine of a database with one table; the test runs once on each database."""
    engine = create_store_engine(store_url)
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE noted (id INTEGER PRIMARY KEY, word TEXT)"))
    yield engine
    engine.dispose()


def note(connection: Connection, number: int) -> None:
    """Insert a row."""
    connection.execute(text("INSERT INTO noted (id) VALUES (:n)"), {"n": number})


def noted(engine: Engine) -> list[int]:
    """Read all rows as committed."""
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT id FROM noted ORDER BY id")).scalars())


def add_ones(engine: Engine, times: int) -> None:
    """Read the highest number and insert the next one, several times in each of four threads."""

    def add() -> None:
        for _ in range(times):
            with writing(engine) as connection:
                note(connection, connection.execute(text("SELECT coalesce(max(id), 0) FROM noted")).scalar_one() + 1)

    in_threads([add] * 4)


def in_threads(calls: Sequence[Callable[[], object]]) -> None:
    """Run each call in a separate thread, and wait for all of them."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_processes(imports: str, work: str, *arguments: str) -> list[str]:
    """Run a program in three processes, which begin their work at the same moment, and check that all end well.

    Args:
        imports: The lines before that moment, which import `sys`.
        work: The lines after it.
        arguments: Arguments of the program.

    Returns:
        The output of each process.
    """
    program = f"{imports}sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.readline()\n{work}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=HANG_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    return said
