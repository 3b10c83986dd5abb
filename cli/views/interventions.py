"""Views of an operator's decision: the preview before it is written, and the line after. Pure."""

from dataclasses import dataclass

from pydantic import JsonValue

from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.run.facts import Fact, NodeFact, RetryRequested
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import CLOSED, REFUSED, NodeStatus, RunState, RunStatus
from amends.cli.views.fact_words import words
from amends.cli.views.facts import Next, fact_json, on_decision
from amends.cli.views.table import Cell
from amends.cli.views.times import duration
from amends.sagas.engine.interventions import Preview

__all__ = ["Driven", "plan_fields", "preview_json", "what_next", "written"]


@dataclass(frozen=True, slots=True)
class Driven:
    """The driver of a run after a decision was written to it.

    Attributes:
        woken: Whether Temporal was asked to wake the run.
        why_not: Why nothing drives the run now, with the remedy; `None` if Temporal does, or need not.
    """

    woken: bool
    why_not: str | None = None


def plan_fields(preview: Preview, now_ms: int) -> list[tuple[str, Cell | None]]:
    """Return the consequences of a decision as named values.

    Args:
        preview: The decision, tried on the run.
        now_ms: The present time, in milliseconds since the epoch.
    """
    before, after = preview.before.state, preview.after.state
    lines: list[tuple[str, Cell | None]] = [("now", f"{before.status} at position {before.position}")]
    if preview.fact is None:
        return [*lines, ("to write", "nothing: the run is being undone, or was undone, already")]
    lines.append(("to write", written(preview.fact, before)))
    if after.status is not before.status:
        lines.append(("then", after.status.value))
    steps = [on_decision(after, decision) for decision in preview.next]
    lines += [("next" if at == 0 else "", _next_line(step, now_ms)) for at, step in enumerate(steps)]
    if preview.undo or after.status is RunStatus.CANCELLING:
        flying = [name for name, at in after.nodes.items() if at.status is NodeStatus.STARTED]
        if flying:
            lines.append(
                (
                    "in flight",
                    f"{', '.join(flying)}: Amends waits for the answer, and undoes the step if it may have acted",
                )
            )
    if preview.undo:
        lines.append(("to undo", ", then ".join(" and ".join(group) for group in preview.undo)))
    if preview.remaining:
        lines.append(("still to run", ", ".join(preview.remaining)))
    return lines


def _next_line(step: Next, now_ms: int) -> str:
    about = f"{step.node}: {step.what}" if step.node else step.what
    return about if step.due_ms is None else f"{about} in {duration(max(0, step.due_ms - now_ms))}"


def written(fact: Fact, before: RunState) -> str:
    """Return a decision's fact in words: its kind and node, its actor, the reason and the evidence.

    Args:
        fact: The fact.
        before: The run as it is without the fact.
    """
    text: str = fact.kind
    if isinstance(fact, NodeFact):
        text += f" for {fact.node}"
    if isinstance(fact, RetryRequested):
        text += f" ({_retried(fact, before.node(fact.node).status)})"
    found = words(fact)
    if found.decided is not None:
        text += f", {found.decided}"
    return text if found.result is None else f"{text}; result: {found.result}"


def _retried(fact: RetryRequested, status: NodeStatus) -> str:
    if status in REFUSED:
        return "under a new key"
    return "with a new budget" if fact.attempt == 0 else f"after {fact.attempt} attempts"


def preview_json(preview: Preview) -> dict[str, JsonValue]:
    """Return the consequences of a decision as JSON; times are in milliseconds since the epoch."""
    return {
        "position": preview.before.state.position,
        "status": preview.before.state.status.value,
        "fact": None if preview.fact is None else fact_json(preview.fact),
        "then": preview.after.state.status.value,
        "next": [on_decision(preview.after.state, decision)._asdict() for decision in preview.next],
        "undo": [list(group) for group in preview.undo],
        "remaining": list(preview.remaining),
    }


def what_next(record: RunRecord, driven: Driven) -> str:
    """Return the state of a run after a decision, its driver, and the command that shows more.

    Args:
        record: The run.
        driven: The driver; irrelevant for a closed run.
    """
    run_id, status = record.run_id, record.state.status
    head = f"{status}: run {run_id} of {record.started.saga}"
    if status is RunStatus.NEEDS_ATTENTION:
        return f"{head}; open steps: {', '.join(record.current)}; see: amends show {run_id}"
    if status in CLOSED:
        return f"{head}; its facts: amends history {run_id}"
    if record.driver != TEMPORAL_DRIVER:
        return (
            f"{head}: driver {record.driver} acts on the decision when it next resumes the run; "
            f"to let Temporal drive the run: amends recover --take-over {run_id}"
        )
    if driven.why_not is not None:
        return f"{head}: the run continues when a worker starts: {driven.why_not}; see: amends show {run_id}"
    return f"{head}: Temporal continues the run; see: amends history {run_id} --watch"
