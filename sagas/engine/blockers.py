"""Find the open runs that cannot continue with the loaded code, and why; every command gets its answer here.

`blockers` asks `arguments_of` about every call that a run may still come to make, so it cannot disagree with the
driver, which asks the same function before each call. It adds the nodes whose last call was postponed. Pure.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pydantic import JsonValue

from amends.aggregates.errors import CannotContinueError
from amends.aggregates.run.plan import PlanNode
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import SETTLED_WELL, Direction, NodeStatus, RunState, RunStatus
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.arguments import arguments_of
from amends.sagas.engine.decide import RunCompensation, RunProbe, RunStep, decide

__all__ = ["Blocker", "blockers", "grouped"]

_UNDO_OVER = frozenset({NodeStatus.UNDONE, NodeStatus.UNDO_SKIPPED})
_FAR_MS = 2**62


class Blocker(NamedTuple):
    """One reason why a run cannot continue with the loaded code.

    Attributes:
        run_id: The run.
        saga: Its saga.
        node: The node at which it waits.
        kind: The kind of thing that is missing or does not fit, a word of `BlockerKind`.
        why: The cause, without any value of the user's.
        remedy: The change that lets the run go on.
        now: Whether the run waits for it already; otherwise it will wait when it comes to the node.
    """

    run_id: str
    saga: str
    node: str
    kind: str
    why: str
    remedy: str
    now: bool

    @property
    def text(self) -> str:
        """The run, the node, the cause and the remedy in one line."""
        waits = "waits" if self.now else "will wait"
        return f"run {self.run_id!r} {waits} at step {self.node!r}: {self.why}; {self.remedy}"

    def to_json(self) -> dict[str, JsonValue]:
        """Return the blocker as JSON."""
        return {"node": self.node, "kind": self.kind, "why": self.why, "remedy": self.remedy, "now": self.now}


def blockers(registry: Registry | None, record: RunRecord) -> tuple[Blocker, ...]:
    """Return the reasons why a run cannot continue with the loaded code; those that it waits for already come first.

    Args:
        registry: The loaded code; `None` if no code is loaded, so that only postponed calls are known.
        record: The run.
    """
    state = record.state
    if state.closed:
        return ()
    found: dict[tuple[str, str], Blocker] = {}
    for name, reason in record.postponed.items():
        found[name, reason] = Blocker(record.run_id, record.started.saga, name, "postponed", *_halves(reason), now=True)
    if registry is not None:
        due = set(_due(state))
        for node, direction in _needs(state):
            try:
                arguments_of(registry, record, node, direction)
            except CannotContinueError as error:
                blocker = Blocker(
                    record.run_id,
                    record.started.saga,
                    node.name,
                    error.kind,
                    error.why,
                    error.remedy,
                    now=(node.name, direction) in due,
                )
                known = found.get((node.name, error.why))
                if known is None or (blocker.now and not known.now):
                    found[node.name, error.why] = blocker
    return tuple(sorted(found.values(), key=lambda each: not each.now))


def grouped(all_blockers: Iterable[Blocker]) -> tuple[str, ...]:
    """Return one line for each saga, node and reason: the number of runs, an example, and the remedy."""
    groups: dict[tuple[str, str, str, str], list[Blocker]] = {}
    for each in all_blockers:
        groups.setdefault((each.saga, each.node, each.why, each.remedy), []).append(each)
    return tuple(_group(*key, members) for key, members in groups.items())


def _group(saga: str, node: str, why: str, remedy: str, members: list[Blocker]) -> str:
    runs = list(dict.fromkeys(each.run_id for each in members))
    waiting = len({each.run_id for each in members if each.now})
    count = f"{len(runs)} open {'run' if len(runs) == 1 else 'runs'} of saga {saga!r}"
    verb = "cannot continue" if waiting else "will not be able to continue"
    return f"{count} (such as {runs[0]!r}) {verb} at step {node!r}: {why}; {remedy}"


def _halves(reason: str) -> tuple[str, str]:
    why, _, remedy = reason.rpartition("; ")
    return (why, remedy) if why else (reason, "deploy code that can continue it")


def _due(state: RunState) -> Iterator[tuple[str, Direction]]:
    """Return the calls that are next, no matter when they are due."""
    for work in decide(state, _FAR_MS):
        if isinstance(work, RunStep | RunProbe | RunCompensation):
            yield work.node, work.direction


def _needs(state: RunState) -> Iterator[tuple[PlanNode, Direction]]:
    """Return the calls that the run may still make, without those of other queues, whose workers have other code."""
    turning = state.backward or state.status is RunStatus.CANCELLING
    undoable = turning or not state.plan.forward_only(state.cursor)
    for name, node in state.plan.nodes.items():
        if node.queue is not None and not node.local:
            continue
        status = state.node(name).status
        ahead = not turning and status not in SETTLED_WELL
        if ahead:
            yield node, Direction.DO
        if ahead and node.probe:
            yield node, Direction.PROBE
        begun = ahead or status is not NodeStatus.PENDING
        if node.undo is not None and undoable and status not in _UNDO_OVER and begun:
            yield node, Direction.UNDO
