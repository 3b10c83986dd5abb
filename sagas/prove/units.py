"""The units of the journal, run on a world: drive, claim, settle, intervene. Pure.

Each unit is repeated at once, as a driver does that has lost the reply to its commit. A repetition that changes
anything breaks a law.
"""

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import NamedTuple, TypeVar

from amends.aggregates.errors import AmendsError, BusyError, InputError, RefusedError
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.run.record import RunRecord
from amends.sagas.engine.calls import EffectCall
from amends.sagas.engine.decide import Work
from amends.sagas.engine.due import transactions_due
from amends.sagas.engine.interventions import Intervention
from amends.sagas.engine.outcome import Outcome
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.engine.start import Start
from amends.sagas.prove.books import Books
from amends.sagas.prove.functions import Functions, ProvedRegistry, Ran, TransactionFault
from amends.sagas.prove.memory import Appended, MemoryTx, Shelf
from amends.sagas.prove.moves import Move
from amends.sagas.prove.terms import Terms
from amends.sagas.prove.world import Listener, Log, OpenCall, World

__all__ = ["Played", "UnitFault", "UnitFaultKind", "Units"]

T = TypeVar("T")

_OTHER_DRIVER = "another-driver"


class UnitFaultKind(Enum):
    """The ways in which a unit of the journal can be wrong."""

    FAILS = "it fails"
    REPEATS = "its repetition changes the run"
    NO_THREAD = "it claims a call that has no thread to run in"


class UnitFault(NamedTuple):
    """A fault of a unit of the journal.

    Attributes:
        kind: Its kind.
        message: Its description.
    """

    kind: UnitFaultKind
    message: str


class Played(NamedTuple):
    """A move that was played.

    Attributes:
        move: The move.
        before: The world before it.
        world: The world after it.
        appended: The facts that it appended.
        ran: The transactions that ran, in order.
        settled: The call whose outcome the move records, with the outcome; `None` if it records none.
        fault: Why the move itself breaks a law; `None` if it does not.
    """

    move: Move
    before: World
    world: World
    appended: tuple[Appended, ...] = ()
    ran: tuple[Ran, ...] = ()
    settled: tuple[EffectCall, Outcome] | None = None
    fault: UnitFault | None = None

    @property
    def changed(self) -> bool:
        """Whether the move has any consequence."""
        return bool(self.appended) or self.world is not self.before or self.fault is not None


class Units:
    """Runs units on worlds.

    Args:
        registry: The user's functions.
        terms: The terms of every effect, by name of its step.

    Attributes:
        registry: The user's functions.
        functions: Carries out the calls of effects.
        terms: The terms of every effect, by name of its step.
        protocol: The writing side of a driver that advances any run.
    """

    def __init__(self, registry: ProvedRegistry, terms: dict[str, Terms]) -> None:
        self.registry = registry
        self.functions = Functions(registry)
        self.terms = terms
        self.protocol = RunProtocol(registry, "worker")
        self._drivers: dict[str, RunProtocol] = {}
        self._codec = EventCodec()

    def begin(self, starts: list[Start], shelf: Shelf, *, faults: int, decisions: int) -> World:
        """Return the world in which the runs were accepted and nothing else has happened."""
        tx = MemoryTx({}, Books(), shelf, 0, self._codec)
        runs = tuple(self.protocol.accept(tx, start, 0) for start in starts)
        log: Log | None = None
        for record in runs:
            log = Log(record.started, log)
        return World(runs, 0, (), Books(), shelf, faults, decisions, log)

    def drive(self, world: World, move: Move, fault: tuple[int, TransactionFault] | None = None) -> Played:
        """Append conclusions, run the transactions that are due, and claim the calls that are due."""
        run_id, driver = world.runs[move.run].run_id, world.runs[move.run].driver
        asked, protocol = world.probed(move.run), self._of(driver)

        def unit(tx: MemoryTx) -> tuple[EffectCall, ...]:
            record = protocol.follow(tx, run_id, world.now_ms).record
            if fault is None:
                _check_threads(tx, protocol, record, world.now_ms)
            record, tasks, _ = protocol.claim_all(tx, record, world.now_ms, asked)
            if fault is None and tx.appended and not transactions_due(record, world.now_ms):
                ran = len(self.registry.script.ran)
                self._repeat(tx, lambda: protocol.follow(tx, run_id, world.now_ms), "the driver goes on twice")
                del self.registry.script.ran[ran:]
            return tasks

        def calls(tasks: tuple[EffectCall, ...]) -> tuple[OpenCall, ...]:
            return (*world.calls, *(OpenCall(move.run, task, Listener.PROMPT, driver) for task in tasks))

        return self._run(world, move, unit, calls, fault)

    def take_over(self, world: World, move: Move, work: Work, live: OpenCall | None) -> Played:
        """Deliver a claimed call again, to another worker."""
        run_id, driver = world.runs[move.run].run_id, world.runs[move.run].driver

        def unit(tx: MemoryTx) -> EffectCall | None:
            return self._of(driver).claim(tx, run_id, work, world.now_ms, takeover=True)[1]

        def calls(task: EffectCall | None) -> tuple[OpenCall, ...]:
            others = tuple(each._replace(listener=Listener.LATE) if each is live else each for each in world.calls)
            return others if task is None else (*others, OpenCall(move.run, task, Listener.PROMPT, driver))

        return self._run(world, move, unit, calls)

    def replace_driver(self, world: World, move: Move) -> Played:
        """Let another driver advance the run while calls of the former one are still under way."""
        run_id = world.runs[move.run].run_id

        def unit(tx: MemoryTx) -> None:
            self.protocol.take_over(tx, run_id, _OTHER_DRIVER, world.now_ms, actor="operator", reason="moved")

        played = self._run(world, move, unit, lambda _: world.calls)
        return _decided(played)

    def _of(self, driver: str) -> RunProtocol:
        protocol = self._drivers.get(driver)
        if protocol is None:
            protocol = self._drivers[driver] = RunProtocol(self.registry, "worker", driver)
        return protocol

    def intervene(self, world: World, move: Move, intervention: Intervention) -> Played:
        """Record the decision of an operator.

        Raises:
            RefusedError: The decision does not fit the run.
            BusyError: A call of the node is in flight.
            InputError: The output does not fit.
        """
        run_id = world.runs[move.run].run_id

        def unit(tx: MemoryTx) -> None:
            self.protocol.intervene(tx, run_id, intervention, world.now_ms)

        played = self._run(world, move, unit, lambda _: world.calls, passing=(RefusedError, BusyError, InputError))
        return _decided(played) if move.kind.cost == 0 else played

    def settle(self, world: World, move: Move, call: OpenCall, outcome: Outcome, calls: tuple[OpenCall, ...]) -> Played:
        """Record the outcome of a call, twice.

        Args:
            world: The world, with the books after the call.
            move: The move.
            call: The call.
            outcome: Its outcome.
            calls: The calls that are under way afterwards.
        """

        def unit(tx: MemoryTx) -> None:
            protocol = self._of(call.driver)
            protocol.settle(tx, call.call, outcome, world.now_ms)
            again = "an answer is recorded twice"
            self._repeat(tx, lambda: protocol.settle(tx, call.call, outcome, world.now_ms), again)

        played = self._run(world, move, unit, lambda _: calls)
        return played._replace(settled=(call.call, outcome))

    def wait(self, world: World, move: Move, until_ms: int) -> Played:
        """Let time pass."""
        return Played(move, world, replace(world, now_ms=until_ms))

    def without_unit(self, world: World, move: Move, books: Books, calls: tuple[OpenCall, ...]) -> Played:
        """Return the world after a move that writes nothing to the journal."""
        left = world.faults - move.kind.cost
        return Played(move, world, replace(world, books=books, calls=calls, faults=left))

    def _repeat(self, tx: MemoryTx, unit: Callable[[], object], name: str) -> None:
        count, records = len(tx.appended), dict(tx.records)
        unit()
        if len(tx.appended) > count:
            kinds = ", ".join(each.fact.kind for each in tx.appended[count:])
            tx.records = records
            raise _FaultError(UnitFaultKind.REPEATS, f"{name}, and the second time appends {kinds}")

    def _run(
        self,
        world: World,
        move: Move,
        unit: Callable[[MemoryTx], T],
        calls: Callable[[T], tuple[OpenCall, ...]],
        fault: tuple[int, TransactionFault] | None = None,
        *,
        passing: tuple[type[AmendsError], ...] = (),
    ) -> Played:
        script = self.registry.script
        script.start(move.run, fault)
        tx = MemoryTx(
            {record.run_id: record for record in world.runs}, world.books, world.shelf, world.now_ms, self._codec
        )
        problem: UnitFault | None = None
        under_way = world.calls
        try:
            under_way = calls(unit(tx))
        except passing:
            raise
        except _FaultError as error:
            problem = error.fault
        except Exception as error:  # noqa: BLE001 - the protocol itself must never fail
            problem = UnitFault(UnitFaultKind.FAILS, f"the unit fails: {type(error).__name__}: {error}")
        if script.problem is not None:
            raise script.problem
        after = _after(world, move, tx, under_way)
        return Played(move, world, after, tuple(tx.appended), tuple(script.ran), fault=problem)


class _FaultError(Exception):
    """A unit is wrong."""

    def __init__(self, kind: UnitFaultKind, message: str) -> None:
        super().__init__(message)
        self.fault = UnitFault(kind, message)


def _check_threads(tx: MemoryTx, protocol: RunProtocol, record: RunRecord, now_ms: int) -> None:
    """Check that the driver claims no call while no thread is free for it."""
    after, tasks, _ = protocol.claim_all(tx, record, now_ms, can_begin=lambda *_: False)
    if tasks or after is not record:
        names = ", ".join(task.node for task in tasks)
        raise _FaultError(UnitFaultKind.NO_THREAD, f"no thread is free, and the driver claims the call of {names}")


def _decided(played: Played) -> Played:
    """Count a decision of an operator."""
    if not played.appended:
        return played
    return played._replace(world=replace(played.world, decisions=played.before.decisions - 1))


def _after(world: World, move: Move, tx: MemoryTx, calls: tuple[OpenCall, ...]) -> World:
    log = world.log
    for each in tx.appended:
        log = Log(each.fact, log)
    runs: tuple[RunRecord, ...] = tuple(tx.records[record.run_id] for record in world.runs)
    same = not tx.appended and calls is world.calls and not move.kind.cost
    if same and tx.books is world.books and tx.shelf is world.shelf:
        return world
    left = world.faults - move.kind.cost
    return World(runs, world.now_ms, calls, tx.books, tx.shelf, left, world.decisions, log)
