"""Stories of the search, played on a real store at the same time."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

from amends.aggregates.errors import AmendsError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.intake import Intake
from amends.aggregates.journal import StepWork, Tx
from amends.aggregates.outbox import Outbox
from amends.aggregates.run.facts import Fact, SagaStarted
from amends.aggregates.run.plan import Plan
from amends.aggregates.run.record import RunRecord
from amends.aggregates.sql.journal import SqlJournal
from amends.sagas.engine.start import Start
from amends.sagas.prove.experiment import Prepared
from amends.sagas.prove.functions import TransactionFault
from amends.sagas.prove.memory import MemoryTx
from amends.sagas.prove.moves import Move
from amends.sagas.prove.player import Player
from amends.sagas.prove.search import Stepper
from amends.sagas.prove.units import Ended, Units
from amends.sagas.prove.world import World

__all__ = ["RealStore", "RecordingUnits", "StoredTx"]

MOST_MOVES = 400


class StoredTx:
    """A real `Tx` that also keeps the facts that it appends, as the search does."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.appended: list[Fact] = []
        self.records: dict[str, RunRecord] = {}

    @property
    def store_id(self) -> str:
        """Identity of the store."""
        return self._tx.store_id

    @property
    def recorded_at_ms(self) -> int:
        """Wall time of the batch."""
        return self._tx.recorded_at_ms

    def record(self, run_id: str) -> RunRecord | None:
        """Return a run's record."""
        return self._tx.record(run_id)

    def accept(self, plan: Plan, fact: SagaStarted) -> RunRecord:
        """Begin a run's stream."""
        return self._tx.accept(plan, fact)

    def append(self, record: RunRecord, facts: Sequence[Fact]) -> RunRecord:
        """Append facts to a run's stream."""
        self.appended += facts
        return self._tx.append(record, facts)

    def unit_of_work(
        self, *, cause: str = "", keep_sent_for: timedelta | None = None
    ) -> AbstractContextManager[StepWork]:
        """Open a savepoint."""
        return self._tx.unit_of_work(cause=cause, keep_sent_for=keep_sent_for)

    def first_facts(self, run_ids: Sequence[str]) -> Mapping[str, SagaStarted]:
        """Return the first facts of runs."""
        return self._tx.first_facts(run_ids)

    @property
    def intake(self) -> Intake:
        """The tables of the pipelines."""
        return self._tx.intake

    @property
    def outbox(self) -> Outbox:
        """The messages that wait for a relay."""
        return self._tx.outbox


class RecordingUnits(Units):
    """Units that keep the function of each move, so that the same function can run on a real store.

    Attributes:
        played: The function and the fault of each move that was played last.
    """

    def __init__(self, units: Units) -> None:
        super().__init__(units.registry, units.terms)
        self.played: dict[Move, tuple[Callable[[Any], object], tuple[int, TransactionFault] | None]] = {}

    def _ended(
        self,
        world: World,
        move: Move,
        unit: Callable[[MemoryTx], object],
        fault: tuple[int, TransactionFault] | None,
        passing: tuple[type[AmendsError], ...],
    ) -> Ended:
        self.played[move] = (unit, fault)
        return super()._ended(world, move, unit, fault, passing)


class RealStore:
    """A real store on which a story is played along with the search.

    Args:
        journal: The store.
        prepared: The experiment.
    """

    def __init__(self, journal: SqlJournal, prepared: Prepared) -> None:
        self._journal = journal
        self._units = RecordingUnits(prepared.player.units)
        self._player = Player(self._units)
        self._root = prepared.root
        for start in prepared.starts:
            journal.commit_blocking(_accept(self._units, start))
        for aggregate in prepared.experiment.given:
            journal.commit_blocking(_add(aggregate))

    def play(self, random: Stepper) -> World:
        """Play a random story, and return the world at its end."""
        world = self._root
        for _ in range(MOST_MOVES):
            self._units.played.clear()
            moves = self._player.expand(world)
            if not moves:
                break
            played = moves[random.below(len(moves))]
            if played.move in self._units.played:
                self._commit(played.move)
            world = played.world
        return world

    def _commit(self, move: Move) -> None:
        unit, fault = self._units.played[move]

        def attempt(tx: Tx) -> object:
            self._units.registry.script.start(move.run, fault)
            return unit(StoredTx(tx))

        self._journal.commit_blocking(attempt)


def _accept(units: Units, start: Start) -> Callable[[Tx], object]:
    return lambda tx: units.protocol.accept(tx, start, 0)


def _add(aggregate: Aggregate) -> Callable[[Tx], object]:
    def unit(tx: Tx) -> None:
        with tx.unit_of_work() as work:
            work.add(copy.deepcopy(aggregate))

    return unit
