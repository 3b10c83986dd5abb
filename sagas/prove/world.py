"""A world: runs, calls under way, the participants' books, aggregates, and the time. It never changes. Pure."""

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

from amends.aggregates.run.facts import Fact
from amends.aggregates.run.plan import PlanNode
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import Direction
from amends.sagas.engine.calls import EffectCall
from amends.sagas.prove.books import Books, RecordedAnswer
from amends.sagas.prove.memory import Shelf

__all__ = ["Listener", "Log", "OpenCall", "World", "part_of"]


class Listener(IntEnum):
    """Who waits for the answer of a call."""

    PROMPT = 0
    """A worker, within the timeout of the call: the claim cannot expire before the answer."""
    LATE = 1
    """A worker that was paused, or has counted the call as timed out, and records the answer when it comes."""
    NONE = 2
    """No one: the worker is gone, or it is a copy that the network delivers again."""


class OpenCall(NamedTuple):
    """A call under way.

    Attributes:
        run: Index of the run.
        call: The call.
        listener: Who waits for its answer.
        driver: The driver that made it.
        answer: The participant's answer, on its way back; `None` if the call has not arrived yet.
    """

    run: int
    call: EffectCall
    listener: Listener
    driver: str
    answer: RecordedAnswer | None = None

    @property
    def words(self) -> str:
        """The call in words."""
        return self.words_of(self.call.node, self.call.direction, self.call.attempt)

    @staticmethod
    def words_of(node: str, direction: Direction, attempt: int) -> str:
        """Return a call in words."""
        name = {Direction.DO: "the call", Direction.UNDO: "the undo", Direction.PROBE: "the probe"}[direction]
        return f"{name} of {node!r} (attempt {attempt})"

    @property
    def key(self) -> tuple[Any, ...]:
        """The part on which the future depends."""
        call, answer = self.call, self.answer
        text = "" if answer is None else answer.text
        return self.run, call.key, call.call.do_key, call.direction, call.attempt, self.listener, self.driver, text


class Log(NamedTuple):
    """The facts of a run, the last one first.

    Attributes:
        fact: The last fact.
        before: The facts before it; `None` if there are none.
    """

    fact: Fact
    before: "Log | None"

    def facts(self) -> list[Fact]:
        """Return all facts, the first one first."""
        facts: list[Fact] = []
        log: Log | None = self
        while log is not None:
            facts.append(log.fact)
            log = log.before
        return facts[::-1]


class World(NamedTuple):
    """A state of the search.

    Attributes:
        runs: The runs, in the order in which they were started.
        now_ms: The time, in milliseconds.
        calls: The calls under way.
        books: The participants' books.
        shelf: The aggregates and own tables of the user.
        faults: The number of faults that may still happen.
        decisions: The number of decisions that operators may still make.
        logs: The facts of each run.
        lacks: The step, or the mapping of a step, that the deployed code lacks; empty if it has all.
    """

    runs: tuple[RunRecord, ...]
    now_ms: int
    calls: tuple[OpenCall, ...]
    books: Books
    shelf: Shelf
    faults: int
    decisions: int
    logs: tuple[Log, ...]
    lacks: str = ""

    def with_books(self, books: Books) -> "World":
        """Return the world with other books."""
        return self if books is self.books else self._replace(books=books)

    def calls_of(self, run: int, listener: Listener) -> Iterator[OpenCall]:
        """Return the calls of a run that have this listener."""
        return (call for call in self.calls if call.run == run and call.listener is listener)

    def probed(self, run: int) -> frozenset[str]:
        """Return the nodes of a run whose probe is under way."""
        prompt = self.calls_of(run, Listener.PROMPT)
        return frozenset(each.call.node for each in prompt if each.call.direction is Direction.PROBE)


def part_of(node: PlanNode) -> str:
    """Return the part of the code that a deploy takes from a node: its mapping, or its step if it has none."""
    return node.mapping or node.step
