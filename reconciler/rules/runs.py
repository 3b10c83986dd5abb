"""Built-in rules over the runs that are open: a run waits for people, is overdue, or lacks its code.

They read only open runs, so their cost does not grow with the number of runs that have ended.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta

from pydantic import JsonValue

from amends.aggregates.journal import RunQuery
from amends.aggregates.run.plan import Plan, Role
from amends.aggregates.run.record import RunRecord, RunSummary
from amends.aggregates.run.state import OPEN, NodeStatus, RunState, RunStatus
from amends.reconciler.drift.drift import Drift, DriftKind, Intervene, ScanFailed, Wake
from amends.reconciler.drift.observation import Observation
from amends.reconciler.drift.rule import MOST_DRIFTS, Rule, drift_rule
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.blockers import blockers
from amends.sagas.engine.interventions import Intervention, InterventionKind
from amends.sagas.engine.overdue import IDLE_MS, Overdue, Why, overdue_nodes, threshold_ms

__all__ = ["ATTENDED_WITHIN", "run_rules"]

ATTENDED_WITHIN = timedelta(hours=1)
"""How long a run may wait for people, when no known correction would help, before the rule reports it as drift."""

_PAGE = 200
_MINUTE = timedelta(minutes=1)


def run_rules(
    registry: Registry | None, *, driver: str, attended_within: timedelta = ATTENDED_WITHIN
) -> tuple[Rule, ...]:
    """Create the rules about open runs.

    Args:
        registry: The code that is loaded in this process; `None` when none is.
        driver: The driver whose runs can be woken.
        attended_within: How long a run may wait for people before it is drift.
    """
    return (
        drift_rule("attention", every=_MINUTE, mode="propose")(_attention(attended_within)),
        # Waking a run does no harm, so the cap is the largest one.
        drift_rule("overdue", every=_MINUTE, mode="apply", cap=MOST_DRIFTS)(_overdue(driver)),
        drift_rule("unserved", every=10 * _MINUTE)(_unserved(registry)),
    )


# ---- runs that wait for people


def _attention(within: timedelta) -> Callable[[Observation], Iterator[Drift]]:
    def attention(observation: Observation) -> Iterator[Drift]:
        """No compensation is exhausted or refused, and no run waits for people for too long."""
        latest_ms = observation.now_ms - within // timedelta(milliseconds=1)
        waiting = RunQuery(statuses=frozenset({RunStatus.NEEDS_ATTENTION}), limit=_PAGE)
        for _, record in observation.records(waiting):
            observation.scanned(1)
            if record.state.status is not RunStatus.NEEDS_ATTENTION:
                continue
            drift = _waiting(record)
            refused = any(record.state.node(name).status is NodeStatus.UNDO_REJECTED for name in record.current)
            if drift.correction is not None or refused or record.state.updated_ms <= latest_ms:
                yield drift

    return attention


def _waiting(record: RunRecord) -> Drift:
    """Describe a waiting run; the correction is to retry, if a retry can settle anything that is open."""
    state, run_id = record.state, record.run_id
    waiting: dict[str, JsonValue] = {name: state.node(name).status.value for name in record.current}
    again = [
        Intervention(
            kind=InterventionKind.RETRY, actor="", reason=f"{_why_open(state, name)}, and it is still open", node=name
        )
        for name in record.current
        if _worth_retrying(state, name)
    ]
    return Drift(
        subject=run_id,
        kind=DriftKind.DIFFERENT,
        expected="nothing waits for an operator",
        # With the time, so that a run that waits once more is another drift, and needs another approval.
        actual={"open": waiting, "since_ms": state.updated_ms},
        evidence=f"last error: {record.error or 'none'}; see amends explain {run_id}",
        version=state.position,
        correction=Intervene(run_id, again[0], tuple(again[1:])) if again else None,
    )


def _why_open(state: RunState, name: str) -> str:
    match state.node(name).status:
        case NodeStatus.REJECTED:
            return "it was refused"
        case NodeStatus.FAILED:
            return "it failed"
        case _:
            return "its attempts were spent"


def _worth_retrying(state: RunState, name: str) -> bool:
    """Check whether a retry, with a new budget, is all that can be done about a node.

    An undo that the participant refused is for people: it is never retried automatically.
    """
    if state.backward:
        return state.node(name).status is NodeStatus.UNDO_EXHAUSTED
    # A step after the pivot is repeated until it succeeds; a pivot in doubt is for people to settle.
    return state.plan.nodes[name].role is Role.RETRIABLE


# ---- overdue runs


def _overdue(driver: str) -> Callable[[Observation], Iterator[Drift]]:
    def overdue(observation: Observation) -> Iterator[Drift]:
        """Nothing that is due is left undone, and no step or compensation is open for too long."""
        shortest: dict[str, int] = {}
        for row, record in observation.records(RunQuery(statuses=OPEN, limit=_PAGE)):
            observation.scanned(1)
            fingerprint = record.started.fingerprint
            if fingerprint not in shortest:
                shortest[fingerprint] = _shortest_ms(record.state.plan)
            # Nothing is overdue in a run that is younger than the shortest threshold of its plan.
            if observation.now_ms - row.started_ms < shortest[fingerprint]:
                continue
            facts = observation.facts(row.run_id)[: record.state.position]
            found = overdue_nodes(record, [fact.head for fact in facts], observation.now_ms)
            if found and record.state.status is not RunStatus.NEEDS_ATTENTION:
                yield _late(record, row, found, driver)

    return overdue


def _shortest_ms(plan: Plan) -> int:
    return min(
        min(IDLE_MS, threshold_ms(node, undoing=False), threshold_ms(node, undoing=True))
        for node in plan.nodes.values()
    )


def _late(record: RunRecord, row: RunSummary, found: tuple[Overdue, ...], driver: str) -> Drift:
    idle = any(each.why is Why.IDLE for each in found)
    return Drift(
        subject=record.run_id,
        kind=DriftKind.DIFFERENT,
        expected="nothing is overdue",
        actual={each.node or "the run": each.why.value for each in found},
        evidence=f"overdue since {min(each.since_ms for each in found)} ms; see amends explain {record.run_id}",
        # A driver that missed something is woken; a slow step is for people to see.
        correction=Wake(record.run_id) if idle and row.driver == driver else None,
    )


# ---- runs that lack their code


def _unserved(registry: Registry | None) -> Callable[[Observation], Iterator[Drift]]:
    def unserved(observation: Observation) -> Iterator[Drift]:
        """The code that is loaded here can continue every open run."""
        for row, record in observation.records(RunQuery(statuses=OPEN, limit=_PAGE)):
            observation.scanned(1)
            if registry is None:
                raise ScanFailed("no modules are configured, so the rule cannot tell which code runs need; set modules")
            if found := blockers(registry, record):
                yield Drift(
                    subject=row.run_id,
                    kind=DriftKind.MISSING,
                    expected="all code that the run may still need",
                    actual=[f"{each.kind} of {each.node}" for each in found],
                    evidence="; ".join(each.text for each in found),
                )

    return unserved
