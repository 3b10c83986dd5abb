"""The units of the journal, run on a world: drive, claim, settle, intervene. Pure.

Each unit is repeated at once, as a driver does that has lost the reply to its commit. A repetition that changes
anything breaks a law.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple, TypeVar

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
from amends.sagas.prove.remembered.known import Known
from amends.sagas.prove.terms import Terms
from amends.sagas.prove.world import Listener, Log, OpenCall, World

__all__ = ["Ended", "Played", "SettledUnit", "UnitFault", "UnitFaultKind", "Units"]

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

    @property
    def lawful(self) -> bool:
        """Whether no law is about the move: it is no fault of a unit, and brings no fact, no answer and no new book."""
        quiet = self.fault is None and not self.appended and self.settled is None
        return quiet and self.world.books is self.before.books


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
        known: The results of units that have run already; `None` to run each unit whenever it is played.
    """

    def __init__(self, registry: ProvedRegistry, terms: dict[str, Terms]) -> None:
        self.registry = registry
        self.functions = Functions(registry)
        self.terms = terms
        self.protocol = RunProtocol(registry, "worker")
        self.known: Known | None = None
        self._drivers: dict[tuple[str, str], RunProtocol] = {}
        self._codec = EventCodec()

    def begin(self, starts: list[Start], shelf: Shelf, *, faults: int, decisions: int) -> World:
        """Return the world in which the runs were accepted and nothing else has happened."""
        tx = MemoryTx({}, Books(), shelf, 0, self._codec)
        runs = tuple(self.protocol.accept(tx, start, 0) for start in starts)
        logs = tuple(Log(record.started, None) for record in runs)
        return World(runs, 0, (), Books(), shelf, faults, decisions, logs)

    @contextmanager
    def remembering(self) -> Iterator[Known]:
        """Return the block in which each unit runs once for the same run, call and time."""
        self.known = Known()
        try:
            yield self.known
        finally:
            self.known = None

    def ask(self, question: Hashable, about: tuple[object, ...], find: Callable[[], T]) -> T:
        """Return the answer to a question about objects that never change, and remember it while that is wanted.

        Args:
            question: Everything that can differ between two questions about the same objects.
            about: The objects.
            find: Returns the answer; a pure function of the question and the objects.
        """
        return find() if self.known is None else self.known.answer(question, about, find)

    def carry_out(self, task: EffectCall) -> Outcome:
        """Return the outcome of a call that the participant carries out.

        Raises:
            ProveError: The function does not fit the search.
        """
        return self.ask("carry out", (task,), lambda: self.functions.carry_out(task))

    def drive(self, world: World, move: Move, fault: tuple[int, TransactionFault] | None = None) -> Played:
        """Append conclusions, run the transactions that are due, and claim the calls that are due."""
        run_id, driver = world.runs[move.run].run_id, world.runs[move.run].driver
        asked, protocol = world.probed(move.run), self._of(driver, world.lacks)

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
            if not tasks:
                return world.calls
            return (*world.calls, *(OpenCall(move.run, task, Listener.PROMPT, driver) for task in tasks))

        return self._run(world, move, unit, calls, fault, question=("drive", asked, fault, world.lacks))

    def take_over(self, world: World, move: Move, work: Work, live: OpenCall | None) -> Played:
        """Deliver a claimed call again, to another worker."""
        run_id, driver = world.runs[move.run].run_id, world.runs[move.run].driver

        def unit(tx: MemoryTx) -> EffectCall | None:
            return self._of(driver).claim(tx, run_id, work, world.now_ms, takeover=True)[1]

        def calls(task: EffectCall | None) -> tuple[OpenCall, ...]:
            others = world.calls
            if live is not None:
                # Two copies of a call may be one object, and only one of them is left alone.
                place = next(place for place, each in enumerate(others) if each is live)
                others = (*others[:place], live._replace(listener=Listener.LATE), *others[place + 1 :])
            return others if task is None else (*others, OpenCall(move.run, task, Listener.PROMPT, driver))

        return self._run(world, move, unit, calls, question=("take over", work))

    def replace_driver(self, world: World, move: Move) -> Played:
        """Let another driver advance the run while calls of the former one are still under way."""
        run_id = world.runs[move.run].run_id

        def unit(tx: MemoryTx) -> None:
            self.protocol.take_over(tx, run_id, _OTHER_DRIVER, world.now_ms, actor="operator", reason="moved")

        return _decided(self._run(world, move, unit, lambda _: world.calls, question=("replace driver",)))

    def _of(self, driver: str, lacks: str = "") -> RunProtocol:
        protocol = self._drivers.get((driver, lacks))
        if protocol is None:
            registry = self.registry.without(lacks) if lacks else self.registry
            protocol = self._drivers[driver, lacks] = RunProtocol(registry, "worker", driver)
        return protocol

    def deploy(self, world: World, move: Move, lacks: str) -> Played:
        """Deploy a release that lacks a step or a mapping; empty for one that lacks nothing."""
        return Played(move, world, world._replace(lacks=lacks, faults=world.faults - move.kind.cost))

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

        passing = (RefusedError, BusyError, InputError)
        question = ("intervene", intervention.kind, intervention.node, repr(intervention.output))
        played = self._run(world, move, unit, lambda _: world.calls, passing=passing, question=question)
        return _decided(played) if move.kind.cost == 0 else played

    def settle(self, world: World, move: Move, call: OpenCall, outcome: Outcome) -> "SettledUnit":
        """Record the outcome of a call, twice; return the result, which depends on no other call."""

        def unit(tx: MemoryTx) -> None:
            protocol = self._of(call.driver)
            protocol.settle(tx, call.call, outcome, world.now_ms)
            again = "an answer is recorded twice"
            self._repeat(tx, lambda: protocol.settle(tx, call.call, outcome, world.now_ms), again)

        settled = (call.call, outcome)
        return SettledUnit(settled, self._ended_of(world, move, unit, ("settle", call.driver), settled))

    def settled(
        self, world: World, move: Move, unit: "SettledUnit", books: Books, calls: tuple[OpenCall, ...]
    ) -> Played:
        """Return the world after the outcome of a call was recorded.

        Args:
            world: The world.
            move: The move.
            unit: The result of `settle`.
            books: The books after the call.
            calls: The calls that are under way afterwards.
        """
        ended = unit.ended
        after = _after(world.with_books(books), move, ended, calls)
        return Played(move, world, after, ended.appended, ended.ran, unit.settled, ended.problem)

    def wait(self, world: World, move: Move, until_ms: int) -> Played:
        """Let time pass."""
        return Played(move, world, world._replace(now_ms=until_ms))

    def without_unit(self, world: World, move: Move, books: Books, calls: tuple[OpenCall, ...]) -> Played:
        """Return the world after a move that writes nothing to the journal."""
        left = world.faults - move.kind.cost
        return Played(move, world, world._replace(books=books, calls=calls, faults=left))

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
        question: Hashable,
    ) -> Played:
        ended = self._ended_of(world, move, unit, question, fault=fault, passing=passing)
        if ended.refused is not None:
            raise ended.refused.with_traceback(None)
        under_way = world.calls if ended.problem is not None else calls(ended.value)
        after = _after(world, move, ended, under_way)
        return Played(move, world, after, ended.appended, ended.ran, fault=ended.problem)

    def _ended_of(
        self,
        world: World,
        move: Move,
        unit: Callable[[MemoryTx], object],
        question: Hashable,
        about: tuple[object, ...] = (),
        *,
        fault: tuple[int, TransactionFault] | None = None,
        passing: tuple[type[AmendsError], ...] = (),
    ) -> "Ended":
        """Run a unit, unless its result is known; books and shelf matter only if it runs a transaction."""
        known = self.known
        if known is None:
            return self._ended(world, move, unit, fault, passing)
        key, first = (move.run, world.now_ms, question), (world.runs[move.run], *about)
        ended: Ended | None = known.find(key, first)
        if ended is not None and ended.ran:
            ended = known.find(key, (*first, world.books, world.shelf))
        if ended is None:
            ended = self._ended(world, move, unit, fault, passing)
            known.keep(key, first, ended)
            if ended.ran:
                known.keep(key, (*first, world.books, world.shelf), ended)
        return ended

    def _ended(
        self,
        world: World,
        move: Move,
        unit: Callable[[MemoryTx], object],
        fault: tuple[int, TransactionFault] | None,
        passing: tuple[type[AmendsError], ...],
    ) -> "Ended":
        script = self.registry.script
        script.start(move.run, fault)
        records = {record.run_id: record for record in world.runs}
        tx = MemoryTx(records, world.books, world.shelf, world.now_ms, self._codec)
        value: object = None
        problem: UnitFault | None = None
        refused: AmendsError | None = None
        try:
            value = unit(tx)
        except passing as error:
            refused = error
        except _FaultError as error:
            problem = error.fault
        except Exception as error:  # noqa: BLE001 - the protocol itself must never fail
            problem = UnitFault(UnitFaultKind.FAILS, f"the unit fails: {type(error).__name__}: {error}")
        if script.problem is not None:
            raise script.problem
        record, log = tx.records[world.runs[move.run].run_id], world.logs[move.run]
        for each in tx.appended:
            log = Log(each.fact, log)
        return Ended(value, record, log, tx.books, tx.shelf, tuple(tx.appended), tuple(script.ran), problem, refused)


class SettledUnit(NamedTuple):
    """The result of recording the outcome of a call.

    Attributes:
        settled: The call and its outcome.
        ended: The result of the unit.
    """

    settled: tuple[EffectCall, Outcome]
    ended: "Ended"


class Ended(NamedTuple):
    """The result of a unit.

    Attributes:
        value: The value that it returned.
        record: The run after it.
        log: The facts of the run.
        books: The books after it; those before it unless a transaction ran.
        shelf: The aggregates and tables after it; likewise.
        appended: The facts that it appended.
        ran: The transactions that ran, in order.
        problem: Why it breaks a law; `None` if it does not.
        refused: The error by which it refuses the move; `None` if it does not.
    """

    value: Any
    record: RunRecord
    log: Log
    books: Books
    shelf: Shelf
    appended: tuple[Appended, ...]
    ran: tuple[Ran, ...]
    problem: UnitFault | None
    refused: AmendsError | None


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
    return played._replace(world=played.world._replace(decisions=played.before.decisions - 1))


def _after(world: World, move: Move, ended: Ended, calls: tuple[OpenCall, ...]) -> World:
    books, shelf = (ended.books, ended.shelf) if ended.ran else (world.books, world.shelf)
    cost = move.kind.cost
    same = not ended.appended and calls is world.calls and not cost
    if same and books is world.books and shelf is world.shelf:
        return world
    runs, logs = world.runs, world.logs
    if ended.appended:
        run = move.run
        runs = (*runs[:run], ended.record, *runs[run + 1 :])
        logs = (*logs[:run], ended.log, *logs[run + 1 :])
    return World(runs, world.now_ms, calls, books, shelf, world.faults - cost, world.decisions, logs, world.lacks)
