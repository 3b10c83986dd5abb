"""Work on endless partitions whose messages are the numbers from 0: each commit applies the next few of them.

The position and the applied numbers are in an SQLite file of its own, without any constraint against a number that is
applied twice: the fence alone protects it. The file is the judge of a test.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from amends.aggregates.intake import Token
from amends.pipelines.runtime.partition_work import FencedError, OwnedKind, OwnedWork

__all__ = ["Applied", "CountingWork", "Ledger", "counting"]

_BATCH = 3
_PACE_S = 0.05


class Applied(NamedTuple):
    """One number that an owner has applied.

    Attributes:
        number: The number.
        pid: Process of the owner.
        token: Token of the owner.
        at: Time of the commit, in seconds of the machine's monotonic clock.
    """

    number: int
    pid: int
    token: Token
    at: float


class Ledger:
    """The file with the positions and the applied numbers.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self.locked() as db:
            db.execute("CREATE TABLE IF NOT EXISTS place (part TEXT PRIMARY KEY, next INT, slice INT, attempt INT)")
            db.execute(
                "CREATE TABLE IF NOT EXISTS applied (part TEXT, n INT, pid INT, slice INT, attempt INT, at REAL)"
            )

    @contextmanager
    def locked(self) -> Iterator[sqlite3.Connection]:
        """Hold the only lock of the file, so that no owner is inside of a commit meanwhile."""
        db = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=OFF")
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        finally:
            db.close()

    def token(self, partition: str) -> Token | None:
        """Return the stored token of a partition."""
        with self.locked() as db:
            row = db.execute("SELECT slice, attempt FROM place WHERE part = ?", (partition,)).fetchone()
        return Token(*row) if row else None

    def claim(self, partition: str, token: Token) -> int:
        """Raise the token of a partition, and return its position.

        Raises:
            FencedError: The stored token is not smaller.
        """
        with self.locked() as db:
            db.execute("INSERT OR IGNORE INTO place VALUES (?, 0, 0, 0)", (partition,))
            raised = db.execute(
                "UPDATE place SET slice = ?, attempt = ? WHERE part = ? AND (slice, attempt) < (?, ?)",
                (*token, partition, *token),
            )
            if not raised.rowcount:
                raise FencedError("numbers", partition)
            (place,) = db.execute("SELECT next FROM place WHERE part = ?", (partition,)).fetchone()
        return int(place)

    def apply(self, partition: str, token: Token, first: int) -> int:
        """Apply the numbers of a batch, and return the next position.

        Raises:
            FencedError: The stored token or position is another one.
        """
        after = first + _BATCH
        with self.locked() as db:
            moved = db.execute(
                "UPDATE place SET next = ? WHERE part = ? AND next = ? AND slice = ? AND attempt = ?",
                (after, partition, first, *token),
            )
            if not moved.rowcount:
                raise FencedError("numbers", partition)
            row = (os.getpid(), *token, time.monotonic())
            db.executemany(
                "INSERT INTO applied VALUES (?, ?, ?, ?, ?, ?)", [(partition, n, *row) for n in range(first, after)]
            )
        return after

    def applied(self, partition: str, after: float = 0.0) -> list[Applied]:
        """Return the numbers of a partition that were applied after a time, in the order of their commits."""
        with self.locked() as db:
            rows = db.execute(
                "SELECT n, pid, slice, attempt, at FROM applied WHERE part = ? AND at > ? ORDER BY rowid",
                (partition, after),
            ).fetchall()
        return [Applied(n, pid, Token(number, attempt), at) for n, pid, number, attempt, at in rows]

    def last(self, partition: str) -> Applied | None:
        """Return the last number that was applied in a partition."""
        with self.locked() as db:
            row = db.execute(
                "SELECT n, pid, slice, attempt, at FROM applied WHERE part = ? ORDER BY rowid DESC LIMIT 1",
                (partition,),
            ).fetchone()
        return Applied(row[0], row[1], Token(row[2], row[3]), row[4]) if row else None

    def gap(self, partition: str) -> float:
        """Return the longest time between two commits of a partition, in seconds."""
        times = sorted({each.at for each in self.applied(partition)})
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    def check(self, partition: str) -> None:
        """Check that each number was applied once and in order, and that tokens only grew."""
        rows = self.applied(partition)
        assert [each.number for each in rows] == list(range(len(rows)))
        assert [each.token for each in rows] == sorted(each.token for each in rows)


class CountingWork:
    """Applies the numbers of a partition until it is stopped.

    Args:
        ledger: The file.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def run(self, partition: str, token: Token, *, stop: asyncio.Event, seconds: float | None) -> object:
        """Claim the partition, and apply numbers until the request to stop."""
        assert seconds is None
        place = await asyncio.to_thread(self._ledger.claim, partition, token)
        while not stop.is_set():
            place = await asyncio.to_thread(self._ledger.apply, partition, token, place)
            with suppress(TimeoutError):
                async with asyncio.timeout(_PACE_S):
                    await stop.wait()
        return None


def counting(name: str, ledger: Ledger, partitions: Sequence[str]) -> OwnedWork:
    """Return a pipeline of numbers with some partitions."""

    async def listed() -> Sequence[str]:
        return partitions

    async def stored(partition: str) -> Token | None:
        return await asyncio.to_thread(ledger.token, partition)

    return OwnedWork(
        kind=OwnedKind.PIPELINE, name=name, work=CountingWork(ledger), partitions=listed, stored_token=stored
    )
