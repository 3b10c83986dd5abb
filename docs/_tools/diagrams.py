"""Draw the state diagrams of the documentation from the transition tables of the code.

`python docs/_tools/diagrams.py` writes the page, and the diagram of a run in the architecture; a test compares both
with the tables.
"""

# ruff: noqa: INP001 - a program, not a package

from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

from amends.aggregates.run.state import CLOSED, NodeStatus, RunStatus
from amends.aggregates.run.transitions import NODE_TRANSITIONS, REOPENING, RUN_TRANSITIONS, SPENT_WITHOUT_DUE, WHILE

__all__ = ["ARCHITECTURE", "PAGE", "architecture", "draw", "node_diagram", "run_diagram", "state_diagram"]

PAGE = Path(__file__).parents[1] / "reference" / "state-diagram.md"
ARCHITECTURE = Path(__file__).parents[1] / "architecture.md"

TEXT = """\
# States of a run and of its nodes

<!-- Drawn by docs/_tools/diagrams.py from the tables in aggregates/run/transitions.py; do not edit. -->

This page is for you if you want to know which fact may follow another. Both diagrams are drawn from the transition
tables of the code. An arrow is a kind of fact. Amends refuses every fact that has no arrow, from every writer. Some
facts also need evidence: `SagaCompleted` that every node has succeeded, `SagaFailed` that a node has failed, that the
pivot has not succeeded and that no effect may still act, `SagaCompensated` that every node which may have acted is
accounted for, `AttentionRequested` that the run can do nothing more without an operator, `CancelRequested` that the
pivot has not succeeded.

## A run

An operator's decision, or an effect that is observed late, opens a closed run again. The run continues in its former
direction.

```mermaid
{run}```

## One node of a run

*No more attempts* marks a failed attempt whose fact carries no due time. `StepFailed` means that the step took no
effect: its transaction was rolled back, its probe found nothing, or it is read-only. A step in doubt is undone like one
that succeeded.

```mermaid
{node}```
"""


def draw(initial: str, transitions: Mapping[str, Mapping[str, tuple[str, ...]]], *, ends: Collection[str] = ()) -> str:
    """Draw a table as a Mermaid state diagram.

    Args:
        initial: The status at the beginning.
        transitions: Status, then the status that follows, then the labels of the arrow between them.
        ends: Statuses that are an end, next to those that nothing follows.

    Returns:
        Lines of Mermaid, in the order of the table.
    """
    lines = ["stateDiagram-v2", f"    [*] --> {_id(initial)}"]
    lines += [f'    state "{status}" as {_id(status)}' for status in transitions if _id(status) != status]
    for status, row in transitions.items():
        lines += [f"    {_id(status)} --> {_id(after)}: {' / '.join(labels)}" for after, labels in row.items()]
    lines += [f"    {_id(status)} --> [*]" for status, row in transitions.items() if not row or status in ends]
    return "\n".join(lines) + "\n"


def run_diagram() -> str:
    """Draw the states of a run."""
    drawn = {status.value: _by_target(row, {}) for status, row in RUN_TRANSITIONS.items()}
    late = [kind for kind in WHILE if RunStatus.COMPENSATED in WHILE[kind]]
    forward = [kind for kind in WHILE if kind in REOPENING and not kind.startswith("Compensation")]
    backward = [kind for kind in WHILE if kind in REOPENING and kind != "StepSkipped"]
    drawn[RunStatus.CANCELLING][RunStatus.RUNNING] = ("StepSucceeded of the pivot",)
    drawn[RunStatus.COMPENSATED][RunStatus.COMPENSATING] = tuple(late)
    drawn[RunStatus.NEEDS_ATTENTION] |= {RunStatus.RUNNING: tuple(forward), RunStatus.COMPENSATING: tuple(backward)}
    return draw(RunStatus.RUNNING.value, drawn, ends=CLOSED)


def node_diagram() -> str:
    """Draw the states of one node."""
    spent = {waiting.value: spent.value for waiting, spent in SPENT_WITHOUT_DUE.items()}
    drawn = {status.value: _by_target(row, spent) for status, row in NODE_TRANSITIONS.items()}
    return draw(NodeStatus.PENDING.value, drawn)


def state_diagram() -> str:
    """Return the text of the page that shows both."""
    return TEXT.format(run=run_diagram(), node=node_diagram())


def _by_target(row: Mapping[str, str], spent: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Gather the arrows between the same two statuses; a failed attempt may also be the last."""
    arrows: defaultdict[str, list[str]] = defaultdict(list)
    for kind, after in row.items():
        arrows[str(after)].append(kind)
        if str(after) in spent and kind.endswith("AttemptFailed"):
            arrows[spent[str(after)]].append(f"{kind}, no more attempts")
    return {after: tuple(labels) for after, labels in arrows.items()}


def _id(status: str) -> str:
    return status.replace(" ", "_")


def architecture() -> str:
    """Return the text of the page about the architecture, with the current diagram of a run."""
    before, _, rest = ARCHITECTURE.read_text(encoding="utf-8").partition("```mermaid\nstateDiagram-v2\n")
    return f"{before}```mermaid\n{run_diagram()}```{rest.partition('```')[2]}"


if __name__ == "__main__":
    PAGE.write_text(state_diagram(), encoding="utf-8")
    ARCHITECTURE.write_text(architecture(), encoding="utf-8")
