"""The canon: the first of all equal parts of worlds stands for the others. Pure.

`Parts.key` is the part of a world on which the future depends: two worlds with equal keys have the same possible
stories. Times in it are relative to now, positions are only their order, and errors are left out, because no decision
depends on them. `Parts.whole` is an equal world that consists of parts which stand for all equal ones.

A user's invariant sees the errors and the position of a run. If there is an invariant, a run stands for another one
only if they agree in these too.
"""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

from amends.aggregates.run.record import RunRecord
from amends.sagas.prove.books import Books
from amends.sagas.prove.memory import Shelf
from amends.sagas.prove.remembered.known import MOST_ANSWERS
from amends.sagas.prove.world import Log, OpenCall, World

__all__ = ["Canon", "Parts"]


class _Run(NamedTuple):
    """The run that stands for a run, with its facts, and the number of its key."""

    asked: RunRecord
    record: RunRecord
    log: Log
    number: int


class Parts(NamedTuple):
    """The parts that stand for those of a world, each with its number.

    Attributes:
        world: The world.
        runs: The runs.
        calls: The calls under way.
        books: The books.
        shelf: The aggregates and tables.
    """

    world: World
    runs: list[_Run]
    calls: list[tuple[OpenCall, int]]
    books: tuple[Books, int]
    shelf: tuple[Shelf, int]

    @property
    def key(self) -> Hashable:
        """The part of the world on which the future depends."""
        world, calls = self.world, self.calls
        numbers = sorted([each[1] for each in calls]) if calls else ()
        runs = tuple([each.number for each in self.runs])
        return world.faults, world.decisions, world.lacks, runs, tuple(numbers), self.books[1], self.shelf[1]

    @property
    def whole(self) -> World:
        """The world that consists of these parts."""
        return self.world._replace(
            runs=tuple([each.record for each in self.runs]),
            calls=tuple([each[0] for each in self.calls]),
            books=self.books[0],
            shelf=self.shelf[0],
            logs=tuple([each.log for each in self.runs]),
        )


class Canon:
    """The parts of worlds that a search has met.

    Args:
        seen: Whether an invariant of the user sees the runs.
    """

    def __init__(self, *, seen: bool) -> None:
        self._seen = seen
        self._numbers: dict[Hashable, int] = {}
        self._first: dict[Hashable, tuple[RunRecord, Log]] = {}
        self._runs: dict[tuple[int, int], _Run] = {}
        self._calls: dict[Hashable, tuple[OpenCall, int]] = {}
        self._known_calls: dict[int, int] = {}
        self._books: dict[Hashable, tuple[Books, int]] = {}
        self._known_books: dict[int, tuple[Books, tuple[Books, int]]] = {}
        self._shelves: dict[Hashable, tuple[Shelf, int]] = {}
        self._results: dict[int, tuple[Mapping[str, Any], Hashable]] = {}

    def of(self, world: World) -> "Parts":
        """Return the parts that stand for those of a world."""
        now_ms = world.now_ms
        runs = [self._run(record, log, now_ms) for record, log in zip(world.runs, world.logs, strict=True)]
        return Parts(
            world,
            runs,
            [self._call(call) for call in world.calls],
            self._book(world.books),
            self._shelves.setdefault(world.shelf.key, (world.shelf, len(self._shelves))),
        )

    def _run(self, record: RunRecord, log: Log, now_ms: int) -> _Run:
        run = self._runs.get((id(record), now_ms))
        if run is not None:
            return run
        key = _run_key(record, now_ms, self._results_key(record.results))
        number = self._numbers.setdefault(key, len(self._numbers))
        first = self._first.setdefault((record.run_id, number, now_ms, self._shown(record)), (record, log))
        if len(self._runs) >= MOST_ANSWERS:
            self._runs.clear()
        run = self._runs[id(record), now_ms] = _Run(record, *first, number)
        return run

    def _shown(self, record: RunRecord) -> Hashable:
        """Return the part of a run that no decision depends on, and that an invariant sees."""
        if not self._seen:
            return None
        postponed, errors = tuple(record.postponed.items()), tuple(record.errors.items())
        return record.state.position, record.latest, record.turned, record.cancel, postponed, errors

    def _call(self, call: OpenCall) -> tuple[OpenCall, int]:
        number = self._known_calls.get(id(call))
        if number is not None:
            return call, number
        key = call.key
        # A call stands for another one only if its function sees the same.
        seen = (key, self._results_key(call.call.call.results))
        known = self._calls.get(seen)
        if known is None:
            known = self._calls[seen] = (call, self._numbers.setdefault(key, len(self._numbers)))
            self._known_calls[id(call)] = known[1]
        return known

    def _book(self, books: Books) -> tuple[Books, int]:
        known = self._known_books.get(id(books))
        if known is not None:
            return known[1]
        part = self._books.setdefault(books.key, (books, len(self._books)))
        if len(self._known_books) >= MOST_ANSWERS:
            self._known_books.clear()
        self._known_books[id(books)] = (books, part)
        return part

    def _results_key(self, results: Mapping[str, Any]) -> Hashable:
        """Return the content of results; a record shares the mapping with the records before it."""
        known = self._results.get(id(results))
        if known is not None:
            return known[1]
        key = frozenset((name, repr(value)) for name, value in results.items())
        if len(self._results) >= MOST_ANSWERS:
            self._results.clear()
        self._results[id(results)] = (results, key)
        return key


def _run_key(record: RunRecord, now_ms: int, results: Hashable) -> Hashable:
    """Return the part of a run on which its future depends.

    Args:
        record: The run.
        now_ms: The time, in milliseconds.
        results: The content of its results.
    """
    state = record.state
    # Nodes are in the order of their first facts, on which the order of undoing depends.
    nodes = tuple([(name, at[0], at[1], _left(at[2], now_ms), at[3], at[5], at[6]) for name, at in state.nodes.items()])
    return state.status, state.cursor, nodes, record.cancel is not None, record.driver, record.current, results


def _left(due_ms: int | None, now_ms: int) -> int | None:
    return None if due_ms is None else max(0, due_ms - now_ms)
