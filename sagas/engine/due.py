"""Read which work of a run is due now, which can start, and when the next decision is due. Pure."""

from collections.abc import Iterator

from amends.aggregates.run.plan import StepKind
from amends.aggregates.run.record import RunRecord
from amends.sagas.engine.decide import Decision, RunProbe, WaitUntil, Work, decide

__all__ = ["effects_due", "next_due_ms", "transactions_due", "work_due"]


def effects_due(record: RunRecord, now_ms: int) -> tuple[Work, ...]:
    """Return the calls of effects, their compensations and probes that are due."""
    return tuple(work for work in _work(record, now_ms) if _kind(record, work) is StepKind.EFFECT)


def transactions_due(record: RunRecord, now_ms: int) -> tuple[Work, ...]:
    """Return the transactions and their compensations that are due."""
    return tuple(work for work in _work(record, now_ms) if _kind(record, work) is StepKind.TRANSACTION)


def work_due(record: RunRecord, now_ms: int, asked: frozenset[str], queued: frozenset[str] = frozenset()) -> bool:
    """Check whether there is work that can start and that no driver has started.

    Args:
        record: The run.
        now_ms: The driver's time.
        asked: Nodes whose probe is in flight.
        queued: Nodes whose call waits for a thread.
    """
    return any(
        work.node not in queued and not (isinstance(work, RunProbe) and work.node in asked)
        for work in _work(record, now_ms)
    )


def next_due_ms(decisions: tuple[Decision, ...]) -> int | None:
    """Return the time of the next decision if no fact arrives before; `None` for never."""
    return min((each.due_ms for each in decisions if isinstance(each, WaitUntil)), default=None)


def _work(record: RunRecord, now_ms: int) -> Iterator[Work]:
    return (each for each in decide(record.state, now_ms) if isinstance(each, Work))


def _kind(record: RunRecord, work: Work) -> StepKind:
    return record.state.plan.nodes[work.node].kind
