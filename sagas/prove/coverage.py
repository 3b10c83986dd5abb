"""Coverage of transitions: the rows of the node table that a search has used. Pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from amends.aggregates.run.state import NodeStatus
from amends.aggregates.run.transitions import NODE_TRANSITIONS, told_only
from amends.sagas.prove.memory import Appended

__all__ = ["Coverage", "Row", "row_of"]


class Row(NamedTuple):
    """A row of the node table.

    Attributes:
        status: The state of the node before the fact.
        kind: The kind of the fact.
    """

    status: NodeStatus
    kind: str

    def __str__(self) -> str:
        return f"{self.status} + {self.kind}"


_ROWS = frozenset(Row(status, kind) for status, kinds in NODE_TRANSITIONS.items() for kind in kinds)


class Coverage(NamedTuple):
    """The rows of the node table that a search has used.

    Attributes:
        used: The rows that it has used.
        kinds: The kinds of facts that each node has had, by name of the node.
    """

    used: frozenset[Row]
    kinds: Mapping[str, frozenset[str]] = MappingProxyType({})

    @property
    def total(self) -> int:
        """The number of rows of the table."""
        return len(_ROWS)

    @property
    def unused(self) -> tuple[Row, ...]:
        """The rows that no story has used, sorted."""
        return tuple(sorted(_ROWS - self.used, key=str))

    def __str__(self) -> str:
        return f"{len(self.used)} of {self.total} transitions of a step"


def row_of(step: Appended) -> Row | None:
    """Return the row that a fact has used; `None` for a fact that moves no node."""
    head = step.head
    if not head.node or told_only(step.before.state, head):
        return None
    return Row(step.before.state.node(head.node).status, head.kind)
