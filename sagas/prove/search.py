"""The search: explore every story within a number of faults, shortest story first, equal worlds once. Pure.

States are taken in the order of their faults and then of their length, so the first story that breaks a law is a
shortest one. Equal worlds are explored once; the number of stories that they stand for is counted afterwards, along
the edges. A cycle among the edges is a story that never ends, which breaks a law too.

When the budget is spent, the search goes on with random stories from the states that it has not explored. The choices
come from a seed, so equal seeds and equal states give equal stories.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from amends.aggregates.run.transitions import NODE_TRANSITIONS
from amends.sagas.prove.coverage import Coverage, Row, row_of
from amends.sagas.prove.laws import ENDS, Broken, Law, broken, broken_at_end, is_end
from amends.sagas.prove.player import Player
from amends.sagas.prove.remembered.canon import Canon
from amends.sagas.prove.units import Played
from amends.sagas.prove.world import World

__all__ = ["Explored", "Path", "Search", "Stepper", "Violation"]

Path = tuple[int, ...]
"""A story: the index of each move among the moves that were possible."""

Judge = Callable[[World], Broken | None]
"""Checks the user's own laws in a world."""

Budget = Callable[[int], float]
"""Takes the number of explored states, and returns the part of the budget that is spent, from 0."""

_EXPLORING = 0.7
_LONGEST_STORY = 2_000


class Violation(NamedTuple):
    """A law that a story breaks, with the shortest story that was found.

    Attributes:
        law: The law.
        message: How the story breaks it.
        path: The story.
        faults: The number of faults in it.
    """

    law: Law
    message: str
    path: Path
    faults: int

    @property
    def rank(self) -> tuple[int, int]:
        """Its place among violations: few faults come first, then few moves."""
        return self.faults, len(self.path)


class Explored(NamedTuple):
    """The result of a search.

    Attributes:
        states: The number of different worlds.
        scenarios: The number of stories from the start to an end.
        ends: The number of different ends, by the statuses of the runs.
        violations: The broken laws, each with a shortest story; the shortest first.
        coverage: The rows of the node table that were used.
        complete: The largest number of faults up to which every story was explored; -1 if not even those without.
        sampled: The number of random stories; 0 for a search that explored everything.
    """

    states: int
    scenarios: int
    ends: dict[tuple[str, ...], int]
    violations: tuple[Violation, ...]
    coverage: Coverage
    complete: int
    sampled: int


class Stepper:
    """Random numbers from a seed: a linear congruential generator.

    Args:
        seed: The seed.

    Source:
        Constants of MMIX by Donald Knuth.
    """

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, bound: int) -> int:
        """Return a number from 0 to `bound - 1`."""
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self._state >> 33) % bound


class Search:
    """Explores the stories that begin in a world.

    Args:
        player: Plays the moves.
        judge: Checks the user's invariant at an end; `None` for none.
        always: Checks the user's invariant in every world; `None` for none.
        budget: The budget.
        seed: The seed of random stories.
    """

    def __init__(
        self,
        player: Player,
        *,
        judge: Judge | None = None,
        always: Judge | None = None,
        budget: Budget = lambda _: 0.0,
        seed: int = 0,
    ) -> None:
        self._player = player
        self._judge = judge
        self._always = always
        self._budget = budget
        self._random = Stepper(seed)
        self._canon = Canon(seen=judge is not None or always is not None)
        self._index: dict[Hashable, int] = {}
        self._parents: list[tuple[int, int]] = []
        self._edges: list[list[int]] = []
        self._at_end: list[bool] = []
        self._pending: dict[int, World] = {}
        self._queue: list[tuple[int, int, int]] = []
        self._ends: Counter[tuple[str, ...]] = Counter()
        self._violations: dict[str, Violation] = {}
        self._used: set[Row] = set()
        self._kinds: set[tuple[str, str]] = set()
        self._sampled = 0

    def explore(self, root: World) -> Explored:
        """Explore every story, or as many as the budget allows.

        Raises:
            ProveError: A function of the user does not fit the search.
        """
        self._faults = root.faults
        with self._player.units.remembering() as self._known:
            count = self._explore(root)
        complete = self._queue[0][0] - 1 if self._queue else root.faults
        while self._queue and self._budget(count) < 1:
            self._sample()
        scenarios = self._count()
        return self._result(scenarios, complete)

    def _explore(self, root: World) -> int:
        """Explore while the budget allows it, and return the number of explored states."""
        self._reach(root, (-1, 0), 0)
        count = 0
        while self._queue:
            if self._budget(count) >= _EXPLORING:
                break
            count += 1
            _, depth, index = heapq.heappop(self._queue)
            self._expand(index, self._pending.pop(index), depth)
        return count

    def _result(self, scenarios: int, complete: int) -> Explored:
        violations = tuple(sorted(self._violations.values(), key=lambda each: each.rank))
        used = frozenset(row for row in self._used if row.kind in NODE_TRANSITIONS[row.status])
        kinds: dict[str, frozenset[str]] = {}
        for node, kind in self._kinds:
            kinds[node] = kinds.get(node, frozenset()) | {kind}
        coverage = Coverage(used, kinds)
        return Explored(len(self._index), scenarios, dict(self._ends), violations, coverage, complete, self._sampled)

    def _expand(self, index: int, world: World, depth: int) -> None:
        moves = self._player.expand(world)
        for choice, played in enumerate(moves):
            if laws := self._broken(played):
                self._break(laws, (*self._path(index), choice), played.world)
                continue
            self._edges[index].append(self._reach(played.world, (index, choice), depth + 1))
        if not moves and not self._at_end[index]:
            self._break([Broken(ENDS, _stuck(world))], self._path(index), world)

    def _broken(self, played: Played) -> tuple[Broken, ...]:
        """Return the laws that a move breaks; they are functions of the run, the call and the books."""
        if played.lawful:
            return ()
        if played.fault is not None:
            return self._checked(played)
        before, after, run = played.before, played.world, played.move.run
        about = (before.runs[run], after.runs[run], played.appended, before.books, after.books, *(played.settled or ()))
        return self._known.answer((played.move.kind, before.now_ms, before.lacks), about, lambda: self._checked(played))

    def _checked(self, played: Played) -> tuple[Broken, ...]:
        for step in played.appended:
            row = row_of(step)
            if row is not None:
                self._used.add(row)
                self._kinds.add((step.fact.head.node, row.kind))
        return tuple(broken(played))

    def _reach(self, world: World, parent: tuple[int, int], depth: int) -> int:
        """Return the index of a world, and queue the world if it is new and no law is broken in it."""
        parts = self._canon.of(world)
        index = self._index.setdefault(parts.key, len(self._parents))
        if index < len(self._parents):
            return index
        world = parts.whole
        self._parents.append(parent)
        self._edges.append([])
        self._at_end.append(is_end(world))
        if laws := self._judged(world, at_end=self._at_end[index]):
            self._at_end[index] = False
            self._break(laws, self._path(index), world)
            return index
        if self._at_end[index]:
            self._ends[tuple(record.state.status.value for record in world.runs)] += 1
        self._pending[index] = world
        heapq.heappush(self._queue, (self._faults - world.faults, depth, index))
        return index

    def _judged(self, world: World, *, at_end: bool) -> list[Broken]:
        laws: list[Broken] = []
        if at_end:
            laws += self._known.answer("ends", (*world.runs, world.books), lambda: tuple(broken_at_end(world)))
        for judge in (self._always, self._judge if at_end else None):
            if judge is not None and (own := judge(world)) is not None:
                laws.append(own)
        return laws

    def _break(self, laws: Sequence[Broken], path: Path, world: World) -> None:
        faults = self._faults - world.faults
        for law, message in laws:
            violation = Violation(law, message, path, faults)
            known = self._violations.get(law.name)
            if known is None or violation.rank < known.rank:
                self._violations[law.name] = violation

    def _path(self, index: int) -> Path:
        path: list[int] = []
        while index > 0:
            index, choice = self._parents[index]
            path.append(choice)
        return tuple(reversed(path))

    # ---- random stories

    def _sample(self) -> None:
        """Play one random story from a state that was not explored."""
        _, _, index = self._queue[self._random.below(len(self._queue))]
        world, path = self._pending[index], list(self._path(index))
        self._sampled += 1
        while len(path) < _LONGEST_STORY:
            moves = self._player.expand(world)
            if not moves:
                if not is_end(world):
                    self._break([Broken(ENDS, _stuck(world))], tuple(path), world)
                return
            choice = self._random.below(len(moves))
            played = moves[choice]
            path.append(choice)
            world = played.world
            laws = self._checked(played) or self._judged(world, at_end=is_end(world))
            if laws:
                self._break(laws, tuple(path), world)
                return

    # ---- counting

    def _count(self) -> int:
        """Return the number of stories, and report a story that never ends."""
        incoming = [0] * len(self._edges)
        for targets in self._edges:
            for target in targets:
                incoming[target] += 1
        paths = [0] * len(self._edges)
        paths[0] = 1
        ready = [0] if not incoming[0] else []
        scenarios = counted = 0
        while ready:
            index = ready.pop()
            counted += 1
            scenarios += paths[index] * self._at_end[index]
            for target in self._edges[index]:
                paths[target] += paths[index]
                incoming[target] -= 1
                if not incoming[target]:
                    ready.append(target)
        if counted < len(self._edges):
            self._report_cycle(incoming)
        return scenarios

    def _report_cycle(self, incoming: list[int]) -> None:
        left = {index for index, count in enumerate(incoming) if count}
        before = {target: index for index in left for target in self._edges[index] if target in left}
        index, seen = next(iter(left)), set[int]()
        while index not in seen:
            seen.add(index)
            index = before[index]
        path = self._path(index)
        message = "the run comes back to the same state again and again, and never ends"
        self._violations[ENDS.name] = Violation(ENDS, message, path, 0)


def _stuck(world: World) -> str:
    for record in world.runs:
        if not record.state.closed:
            waits = "; ".join(f"{node} waits: {reason}" for node, reason in record.postponed.items())
            return f"the run is {record.state.status} and nothing can happen any more{': ' + waits if waits else ''}"
    return "a call is under way and nothing can happen any more"
