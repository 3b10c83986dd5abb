"""The order in which the compensations of a run are executed. Pure.

Compensations run in the reverse order of the journal: the stage that was reached last comes first. Members of a
parallel stage are undone together unless the stage is `ordered`; then the member whose first fact is the latest comes
first. An exhausted or refused compensation does not stop the others (DESIGN: outcomes of a step).
"""

from amends.aggregates.run.plan import Stage
from amends.aggregates.run.state import RunState, open_undo

__all__ = ["next_undos", "undo_order"]


def next_undos(state: RunState) -> tuple[str, ...]:
    """Return the nodes whose compensation may run now.

    Args:
        state: A state that is compensating.

    Returns:
        Node names, the latest first; empty when no compensation remains.
    """
    if not 0 <= state.cursor < len(state.plan.stages):
        return ()
    stage = state.plan.stages[state.cursor]
    names = _latest_first(state, stage)
    return names[:1] if stage.ordered else names


def undo_order(state: RunState) -> tuple[tuple[str, ...], ...]:
    """Return the nodes that compensating this run would undo, in order; the nodes of an inner tuple run together."""
    last = min(state.cursor, len(state.plan.stages) - 1)
    groups: list[tuple[str, ...]] = []
    for stage in reversed(state.plan.stages[: last + 1]):
        names = _latest_first(state, stage)
        if stage.ordered:
            groups += [(name,) for name in names]
        elif names:
            groups.append(names)
    return tuple(groups)


def _latest_first(state: RunState, stage: Stage) -> tuple[str, ...]:
    names = [node.name for node in stage.nodes if open_undo(node, state.node(node.name))]
    return tuple(sorted(names, key=lambda name: state.node(name).first_position, reverse=True))
