"""The decisions about drift: pure, and the only place where the code makes them.

Theory of operation: a scan is compared with the state of its rule. New drift is detected, drift that the scan no longer
finds is cleared, and each drift that has a correction is either *due* or *held* for a recorded reason; `hold_reason`
decides which. Before a correction, `hold_reason` is asked again, with the state at the head of the stream and in the
transaction that records the correction. So two reconcilers make one correction, and so does a reconciler that is killed
and started again.

The guards, in the order of the checks:

1. An ignored drift stays uncorrected.
2. A drift is corrected once. If it is still there afterwards, people have to find the cause.
3. A drift that another reconciler is correcting stays with that one.
4. A rule acts as far as its mode allows; a person's approval replaces the mode, the breaker and the budget.
5. In a maintenance window nothing is corrected, approved or not.
6. A drift is corrected after two scans, far enough apart, saw it, or while the observed version is still current.
7. Nothing in flight is touched.
8. A subject that was corrected often in a short time is not corrected: something makes it drift (oscillation breaker).
9. After each failed correction the subject waits longer, and when its budget is spent it is not corrected any more.
10. When more is due than the rule's caps allow, the rule or the world is wrong: nothing is corrected.

Times may come from clocks that disagree: no wait lasts longer than it would have by either clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from amends.aggregates.errors import InputError, NotFoundError, RefusedError
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import CLAIMED
from amends.aggregates.text import shorten
from amends.reconciler.drift.drift import Command, Drift, Intervene, corrected_run, described
from amends.reconciler.drift.facts import (
    DriftApproved,
    DriftCleared,
    DriftDetected,
    DriftIgnored,
    DriftProposed,
    DriftUnobservable,
    IgnoreRemoved,
    ReconciliationFact,
    RuleScanned,
)
from amends.reconciler.drift.rule import Mode, Policy, Rule
from amends.reconciler.drift.rule_state import Ignore, OpenDrift, RuleState

__all__ = [
    "WAITS",
    "ScanResult",
    "Verdict",
    "approve",
    "decide",
    "hold_reason",
    "ignore",
    "ignored",
    "live_claim",
    "stop_ignoring",
]

_TWICE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanResult:
    """The result of one run of a rule, a scan.

    Attributes:
        drifts: Drift that the rule found.
        count: The number of subjects scanned; `None` when the rule does not report it.
        log_position: Notification id up to which the rule has read.
        sweep: Position of the rule's sweep of everything.
        in_flight: Runs that must not be touched, with the reason.
        maintenance: Why nothing may be corrected now; `None` when corrections are allowed.
        unobservable: Why the rule could not scan; `None` when it could.
    """

    drifts: tuple[Drift, ...] = ()
    count: int | None = None
    log_position: int = 0
    sweep: str = ""
    in_flight: Mapping[str, str] = field(default_factory=dict)
    maintenance: str | None = None
    unobservable: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The consequences of a scan.

    Attributes:
        facts: Facts to write, in order.
        rule_state: The state of the rule after those facts.
        seen: The drifts that were found, by their ids.
        due: Ids of the drifts to correct.
        held: Why the other drifts that have a correction are not corrected.
        stopped: Why nothing at all is corrected although it was due; `None` otherwise.
    """

    facts: tuple[ReconciliationFact, ...]
    rule_state: RuleState
    seen: Mapping[str, Drift]
    due: tuple[str, ...]
    held: Mapping[str, str]
    stopped: str | None


def decide(rule_state: RuleState, rule: Rule, scan: ScanResult, now_ms: int, *, actor: str) -> Verdict:
    """Return the consequences of a scan.

    Args:
        rule_state: The state of the rule before the scan.
        rule: The rule that scanned.
        scan: The scan.
        now_ms: Time of the scan, in milliseconds since the epoch.
        actor: Name under which the scan is recorded.
    """
    number = rule_state.scans + 1
    if scan.unobservable is not None:
        fact = DriftUnobservable(scan=number, as_of_ms=now_ms, actor=actor, reason=scan.unobservable)
        return Verdict((fact,), rule_state.apply(fact), {}, (), {}, None)
    known = {name.rpartition(".")[0]: name for name in rule_state.drifts}
    seen: dict[str, Drift] = {}
    facts: list[ReconciliationFact] = []
    for drift in scan.drifts:
        key = drift.key(rule.name)
        name = known.get(key, f"{key}.{number}")
        if name not in rule_state.drifts and name not in seen:
            facts.append(_detected(name, drift, number, now_ms, actor))
        seen[name] = drift
    gone = [name for name in rule_state.drifts if name not in seen]
    facts += [DriftCleared(scan=number, as_of_ms=now_ms, actor=actor, drift=name) for name in gone]
    scanned = RuleScanned(
        scan=number,
        as_of_ms=now_ms,
        actor=actor,
        mode=rule.policy.mode,
        seen=tuple(seen),
        held={},
        stopped=None,
        count=scan.count,
        log_position=scan.log_position,
        sweep=scan.sweep,
    )
    with_scan = _fold(rule_state, (*facts, scanned))
    reasons = {
        name: hold_reason(
            with_scan, name, drift, rule.policy, now_ms, in_flight=scan.in_flight, maintenance=scan.maintenance
        )
        for name, drift in seen.items()
        if drift.correction is not None
    }
    due = [name for name, reason in reasons.items() if reason is None]
    stopped = _over_cap([name for name in due if with_scan.drifts[name].approved_by is None], rule.policy, scan.count)
    if stopped is not None:
        due = [name for name in due if with_scan.drifts[name].approved_by is not None]
    held = {name: reason or stopped or "" for name, reason in reasons.items() if name not in due}
    facts += _proposals(with_scan, rule.policy, seen, reasons, scanned)
    facts.append(scanned.model_copy(update={"held": held, "stopped": stopped}))
    return Verdict(tuple(facts), _fold(rule_state, tuple(facts)), seen, tuple(due), held, stopped)


def _fold(rule_state: RuleState, facts: tuple[ReconciliationFact, ...]) -> RuleState:
    for fact in facts:
        rule_state = rule_state.apply(fact)
    return rule_state


def _detected(name: str, drift: Drift, scan: int, now_ms: int, actor: str) -> DriftDetected:
    return DriftDetected(
        scan=scan,
        as_of_ms=now_ms,
        actor=actor,
        drift=name,
        subject=drift.subject,
        kind=drift.kind,
        expected=drift.expected,
        actual=drift.actual,
        evidence=drift.evidence,
        correction=None if drift.correction is None else described(drift.correction),
    )


def _proposals(
    rule_state: RuleState,
    policy: Policy,
    seen: Mapping[str, Drift],
    reasons: Mapping[str, str | None],
    scanned: RuleScanned,
) -> list[ReconciliationFact]:
    """Propose corrections that a person may approve, once for each drift."""
    if policy.mode is not Mode.PROPOSE:
        return []
    return [
        DriftProposed(
            scan=scanned.scan,
            as_of_ms=scanned.as_of_ms,
            actor=scanned.actor,
            drift=name,
            correction=described(drift.correction),
        )
        for name, drift in seen.items()
        if drift.correction is not None and reasons[name] == WAITS and not rule_state.drifts[name].proposed
    ]


WAITS = "waits for approval"
"""The reason to hold a drift until somebody approves it."""


def _over_cap(due: list[str], policy: Policy, count: int | None) -> str | None:
    if len(due) > policy.cap:
        return f"{len(due)} corrections are due, more than the cap of {policy.cap}; nothing is corrected"
    if not due or policy.share is None:
        return None
    if count is None:
        return "the rule has a share but does not report the number of scanned subjects; nothing is corrected"
    if len(due) > policy.share * count:
        return f"{len(due)} of {count} are due, more than the share of {policy.share:g}; nothing is corrected"
    return None


def hold_reason(
    rule_state: RuleState,
    name: str,
    drift: Drift,
    policy: Policy,
    now_ms: int,
    *,
    in_flight: Mapping[str, str],
    maintenance: str | None,
) -> str | None:
    """Return why a drift must not be corrected now; `None` when it is due.

    Args:
        rule_state: The state of the rule, with the scan that saw the drift.
        name: The drift's id.
        drift: The drift as the scan saw it; it has a correction.
        policy: How far the rule may go.
        now_ms: The time, in milliseconds since the epoch.
        in_flight: Runs that must not be touched, with the reason.
        maintenance: Why nothing may be corrected now; `None` when corrections are allowed.
    """
    known = rule_state.drifts.get(name)
    if known is None:
        return "is gone"
    ignoring = ignored(rule_state, name, drift.subject, now_ms)
    if ignoring is not None:
        return f"ignored by {ignoring.actor}: {ignoring.reason}"
    if known.corrected_ms is not None:
        return "was corrected but is still there; find the cause"
    if known.started_ms is not None and abs(now_ms - known.started_ms) < policy.lease_ms:
        return "is being corrected"
    approved = known.approved_by is not None
    if not approved and policy.mode is not Mode.APPLY:
        return "the rule only observes" if policy.mode is Mode.OBSERVE else WAITS
    if maintenance is not None:
        return maintenance
    if not _seen_enough(known, drift, policy, now_ms):
        return f"waits for a second scan that finds it, at least {policy.confirm_after_ms / 1000:g} s after the first"
    run_id = corrected_run(drift.correction)
    if run_id is not None and run_id in in_flight:
        return in_flight[run_id]
    return None if approved else _restrained(rule_state, drift.subject, policy, now_ms)


def _seen_enough(known: OpenDrift, drift: Drift, policy: Policy, now_ms: int) -> bool:
    if drift.version is not None and _compares_versions(drift):
        return True
    far_apart = now_ms - known.first_ms >= policy.confirm_after_ms
    return known.sightings >= _TWICE and (far_apart or known.approved_by is not None)


def _compares_versions(drift: Drift) -> bool:
    match drift.correction:
        case Intervene():
            return True
        case Command(aggregate=aggregate):
            return aggregate is not None
        case _:
            return False


def _restrained(rule_state: RuleState, subject: str, policy: Policy, now_ms: int) -> str | None:
    """Apply the breaker and the budget; return why they hold the drift back, or `None`."""
    past = rule_state.subjects.get(subject)
    if past is None:
        return None
    flips = sum(abs(now_ms - each) < policy.flips_within_ms for each in past.corrected_ms)
    if flips >= policy.flips:
        return f"was corrected {flips} times in a short time and drifts again; find the cause, then approve"
    if past.failed_ms is None:
        return None
    if past.failures >= policy.attempts:
        return f"the correction failed {past.failures} times: {past.error}; find the cause, then approve"
    wait_ms = policy.backoff_ms * 2 ** (past.failures - 1)
    if abs(now_ms - past.failed_ms) < wait_ms:
        return f"the correction failed: {past.error}; the next attempt follows after {wait_ms / 1000:g} s"
    return None


def ignored(rule_state: RuleState, name: str, subject: str, now_ms: int) -> Ignore | None:
    """Return the decision to ignore a drift, by its id or its subject; `None` when there is none or it expired."""
    for what in (name, subject):
        found = rule_state.ignores.get(what)
        if found is not None and now_ms < found.until_ms:
            return found
    return None


def live_claim(record: RunRecord, now_ms: int) -> str | None:
    """Return why a run must not be touched now, because a call is under way; `None` when no call is."""
    for name, node in record.state.nodes.items():
        if node.status in CLAIMED and node.due_ms is not None and now_ms < node.due_ms:
            return f"a call of {name}"
    return None


# ---- decisions of people


def approve(rule_state: RuleState, drift: str, now_ms: int, *, actor: str, reason: str | None = None) -> DriftApproved:
    """Return the fact that somebody approves the correction of a drift.

    Raises:
        NotFoundError: No such drift is open.
        RefusedError: The drift has no known correction, or it was corrected already.
    """
    known = rule_state.drifts.get(drift)
    if known is None:
        raise NotFoundError(f"no open drift has the id {drift!r}; `amends drift` lists them")
    if known.found.correction is None:
        raise RefusedError(
            f"drift {drift} of {known.found.subject!r} has no correction; resolve the difference by hand"
        )
    if known.corrected_ms is not None:
        raise RefusedError(f"drift {drift} of {known.found.subject!r} was corrected already; scan again: amends drift")
    return DriftApproved(scan=rule_state.scans, as_of_ms=now_ms, actor=actor, drift=drift, reason=reason)


def ignore(rule_state: RuleState, what: str, now_ms: int, *, actor: str, reason: str, until_ms: int) -> DriftIgnored:
    """Return the fact that somebody wants a drift or a subject ignored for a time.

    Raises:
        InputError: The id or the reason is empty, or `until_ms` is not in the future.
    """
    if not what.strip() or not reason.strip():
        raise InputError("to ignore drift, pass its id or subject and a reason (both are recorded)")
    if until_ms <= now_ms:
        raise InputError(f"ignoring {shorten(what)} would end in the past; pass a future time")
    return DriftIgnored(
        scan=rule_state.scans, as_of_ms=now_ms, actor=actor, what=what, reason=reason, until_ms=until_ms
    )


def stop_ignoring(rule_state: RuleState, what: str, now_ms: int, *, actor: str) -> IgnoreRemoved:
    """Return the fact that a drift or subject is no longer ignored.

    Raises:
        NotFoundError: It is not ignored.
    """
    if what not in rule_state.ignores:
        raise NotFoundError(f"{shorten(what)} is not ignored; see: amends ignore list")
    return IgnoreRemoved(scan=rule_state.scans, as_of_ms=now_ms, actor=actor, what=what)
