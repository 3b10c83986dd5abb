"""Scans for drift: the time of the built-in rules must follow the number of new events, not of stored ones."""

import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from figures import Effort, Row, in_turn, ratios
from measured import three_steps
from sqlalchemy import Connection
from store_bench import orders, runs

from amends import Runner
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.sql.engine import writing
from amends.aggregates.sql.journal import SqlJournal
from amends.aggregates.values.checksum import event_checksum
from amends.reconciler.drift.rule import Rule
from amends.reconciler.drift.stream import Reconciliation
from amends.reconciler.rules.runs import run_rules
from amends.reconciler.rules.sql import store_rules
from amends.reconciler.rules.temporal import drive_rules
from amends.reconciler.runtime.reconciler import Reconciler
from amends.sagas.definition.registry import Registry

__all__ = ["reconcile_rows"]

NEW = 100
TURNS = 6
FEW, MANY = 1_000, 100_000
BOUND = 1.5
CHECKSUM = "event_checksum(originator_id || '-' || n, originator_version, topic, state)"


class NoActions:
    """Corrections outside of the journal: none, because nothing is wrong."""

    async def wake(self, run_id: str) -> None:
        """Fail, because a rule found something.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(f"{run_id} is sound")

    async def rebuild(self, runs: object = ()) -> None:
        """Fail, because a rule found something.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(f"the rows of {runs} are sound")


class Watched:
    """A store with finished runs, and the rules that watch it.

    Args:
        runner: Makes new runs.
        name: Tells them from those of another store.
    """

    def __init__(self, runner: Runner, name: str) -> None:
        self._runner = runner
        self._name = name
        journal = self.journal = cast("SqlJournal", runner.journal)
        registry = Registry([three_steps])
        self._reconciler = Reconciler(
            journal, registry, NoActions(), clock=lambda: time.time_ns() // 1_000_000, actor="bench", driven={}
        )
        self._rules: tuple[Rule, ...] = (
            *store_rules(journal.engine, EventCodec([Reconciliation])),
            *run_rules(registry, driver=TEMPORAL_DRIVER),
            *drive_rules(None, "", task_queue="bench", nothing_runs=True),
        )

    async def fill(self, count: int) -> None:
        """Write a number of finished runs into the store; the database copies all but the first."""
        await runs(self._runner, three_steps, orders("old", 1), 1)
        with writing(self.journal.engine) as connection:
            copy_run(connection, "old-0", count)
        await self.scan()

    async def scan(self) -> None:
        """Run every rule once, as a schedule does.

        Raises:
            RuntimeError: A rule found something, or could not scan.
        """
        for rule in self._rules:
            verdict = await self._reconciler.scan(rule)
            if verdict.seen or verdict.rule_state.unobservable is not None:
                raise RuntimeError(
                    f"rule {rule.name}: {verdict.rule_state.unobservable or next(iter(verdict.seen.values()))}"
                )

    async def time(self, number: int, new: int) -> float:
        """Measure a scan by the rules after new runs; several times, because a sweep's parts differ."""
        took = 0.0
        for turn in range(TURNS):
            await runs(self._runner, three_steps, orders(f"{self._name}-{number}-{turn}", new))
            began = time.perf_counter()
            await self.scan()
            took += time.perf_counter() - began
        return took


def copy_run(connection: Connection, run_id: str, count: int) -> None:
    """Copy a run's events, row and keys under other ids."""
    driver = cast("sqlite3.Connection", connection.connection.driver_connection)
    driver.create_function("event_checksum", 4, event_checksum, deterministic=True)
    index = "saga, status, position, started_ms, updated_ms, current, error, keys, driver, fingerprint"
    # Table, its id, the columns that are copied, and the columns that follow from the new id.
    copied: tuple[tuple[str, str, str, Mapping[str, str]], ...] = (
        ("stored_events", "originator_id", "originator_version, topic, state", {"checksum": CHECKSUM}),
        ("saga_index", "run_id", index, {}),
        ("run_keys", "run_id", "field, value", {}),
    )
    for table, id_, rest, made in copied:
        of = f"run/{run_id}" if table == "stored_events" else run_id
        names, values = ", ".join([rest, *made]), ", ".join([rest, *made.values()])
        connection.exec_driver_sql(
            f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count - 1}) "  # noqa: S608 - constants
            f"INSERT INTO {table} ({id_}, {names}) SELECT {id_} || '-' || n, {values} FROM numbers, {table} "
            f"WHERE {id_} = '{of}' ORDER BY n"
        )


async def reconcile_rows(folder: Path, effort: Effort) -> list[Row]:
    """Measure every row of this module."""
    async with (
        Runner.open([three_steps], store_url=f"sqlite:///{folder}/few.db") as small,
        Runner.open([three_steps], store_url=f"sqlite:///{folder}/many.db") as large,
    ):
        few, many = Watched(small, "few"), Watched(large, "many")
        await few.fill(effort.of(FEW))
        await many.fill(effort.of(MANY))
        new = effort.of(NEW)
        of_many, of_few = await in_turn(effort.few_rounds, lambda n: many.time(n, new), lambda n: few.time(n, new))
    return [
        Row(
            f"a run of the built-in rules: its time, with {MANY:,} finished runs and {NEW} new ones",
            f"with {FEW:,} finished runs and {NEW} new ones",
            ratios(of_many, of_few),
            BOUND,
            at_least=False,
        )
    ]
