"""`amends worker` serves pipelines: the lines of files, once each, whatever happens to the workers."""

import json
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from commands import CommandProject, Started

from amends.aggregates.sql.journal import open_journal

MODULE = """
import os

from pydantic import BaseModel
from sqlalchemy import text

from amends.pipelines.definition.pipeline import Pipeline
from amends.pipelines.definition.relays import Relay
from amends.pipelines.definition.sinks import JsonLinesSink
from amends.pipelines.definition.sources import JsonLinesSource


class Payment(BaseModel):
    id: str
    customer: str


def id_of(payment: Payment) -> str:
    return payment.id


def customer_of(payment: Payment) -> str:
    return payment.customer


published = Relay("NAME-out", JsonLinesSink("out"))
payments = Pipeline("NAME", JsonLinesSource("in/*.jsonl"), Payment, id=id_of, key=customer_of)


@payments.handles
def book(payment: Payment, uow) -> None:
    uow.execute(text("INSERT INTO booked VALUES (:id, :pid)").bindparams(id=payment.id, pid=os.getpid()))
    uow.send("booked", key=payment.customer, value={"id": payment.id})
"""
"""The table has no constraint, so a message that is applied twice is two rows."""


class Payments:
    """A project with a pipeline over files, and the judgement of its store by the lines of the files.

    Args:
        folder: The project's folder.
        address: Address of Temporal.
        name: Name of the pipeline and of the task queue.
    """

    def __init__(self, folder: Path, address: str, name: str) -> None:
        self.project = CommandProject(folder / "shop", environment={"TEMPORAL_ADDRESS": address})
        self.project.write("shop.py", MODULE.replace("NAME", name))
        self.project.write("amends.toml", f'modules = ["shop"]\ntask_queue = "{name}"\n')
        (self.project.path / "in").mkdir()
        self._store = self.project.path / ".amends" / "events.db"
        self._store.parent.mkdir()
        journal = open_journal(f"sqlite:///{self._store}")
        journal.close_blocking()
        with self._rows() as db:
            db.execute("CREATE TABLE booked (id TEXT, pid INT)")
        self.sent: list[str] = []

    def send(self, file: str, count: int) -> None:
        """Append lines to a file."""
        ids = [f"p-{len(self.sent) + number}" for number in range(count)]
        with (self.project.path / "in" / f"{file}.jsonl").open("a") as lines:
            lines.writelines(json.dumps({"id": each, "customer": f"c-{hash(each) % 7}"}) + "\n" for each in ids)
        self.sent += ids

    @contextmanager
    def worker(self) -> Iterator[Started]:
        """Run a worker, from when it is ready."""
        with self.project.started("worker") as started:
            started.read_until("Ready")
            yield started

    def until_booked(self, by: int | None = None) -> None:
        """Wait until every line, or any line by one process, has been booked."""
        wait_until(lambda: by in self.booked_by() if by else len(self.booked()) >= len(self.sent))

    def booked(self) -> list[str]:
        """Return the ids of the bookings."""
        with self._rows() as db:
            return [row[0] for row in db.execute("SELECT id FROM booked")]

    def booked_by(self) -> set[int]:
        """Return the processes that booked something."""
        with self._rows() as db:
            return {row[0] for row in db.execute("SELECT DISTINCT pid FROM booked")}

    def published(self) -> set[str]:
        """Return the ids of the bookings that the relay has written to its file."""
        file = self.project.path / "out" / "booked.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return {json.loads(line)["value"]["id"] for line in lines if line.endswith("\n")}

    def check(self) -> None:
        """Check that every line was booked once."""
        assert Counter(self.booked()) == Counter(self.sent)

    @contextmanager
    def _rows(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._store, timeout=60)
        try:
            with db:
                yield db
        finally:
            db.close()


def wait_until(met: Callable[[], object]) -> None:
    """Wait until a condition is met; only the test's own bound ends the wait."""
    while not met():
        time.sleep(0.05)


def test_a_worker_books_every_line_once_and_hands_its_files_over(temporal_address: str, tmp_path: Path) -> None:
    """Lines of several files are booked once and their messages published; a second worker continues after SIGTERM."""
    shop = Payments(tmp_path, temporal_address, "handed-over")
    shop.send("a", 120)
    shop.send("b", 40)
    with shop.worker() as first:
        shop.until_booked()
        with shop.worker() as second:
            assert first.stop(signal.SIGTERM) == 0
            shop.send("a", 30)
            shop.until_booked(by=second.process.pid)
            shop.until_booked()
            wait_until(lambda: shop.published() == set(shop.sent))
    shop.check()


def test_a_worker_does_not_serve_a_pipeline_that_changed(temporal_address: str, tmp_path: Path) -> None:
    """A definition that differs from the declared one is refused in one line with the remedy; nothing is read."""
    shop = Payments(tmp_path, temporal_address, "changed")
    shop.send("a", 5)
    with shop.worker():
        shop.until_booked()
    module = (shop.project.path / "shop.py").read_text()
    shop.project.write("shop.py", module.replace("key=customer_of", "key=id_of"))
    with shop.worker() as changed:
        pass
    said = [line for line in changed.lines if "is not served" in line]
    assert len(said) == 1
    assert "amends pipeline check changed --accept" in said[0]


@pytest.mark.soak
def test_killed_and_suspended_workers_lose_and_double_nothing(temporal_address: str, tmp_path: Path) -> None:
    """Three `kill -9` and a suspension while lines arrive: each line is booked once, and the others take over."""
    shop = Payments(tmp_path, temporal_address, "killed-workers")
    with ExitStack() as workers:
        running = [workers.enter_context(shop.worker()) for _ in range(2)]
        for number in range(4):
            shop.send("a", 200)
            shop.send("b", 200)
            owners = shop.booked_by()
            victim = next((each for each in running if each.process.pid in owners), running[0])
            if number == 3:
                os.kill(victim.process.pid, signal.SIGSTOP)
                shop.until_booked()
                os.kill(victim.process.pid, signal.SIGCONT)
                shop.send("a", 50)
            else:
                victim.process.kill()
                running.remove(victim)
                running.append(workers.enter_context(shop.worker()))
            shop.until_booked()
    shop.check()
