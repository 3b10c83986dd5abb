"""The explanation of a run for an operator at night: its state, its open nodes, its doubts and the possible commands.

`explain` is pure: equal records, facts and times lead to equal words. The module holds no second list of the commands
that are possible in a state. It tries each command on the record with the code that will accept it
(`interventions.fact_of`), so it names none that would be refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, NamedTuple, cast

from pydantic import JsonValue

from amends.aggregates.errors import AmendsError
from amends.aggregates.run.facts import (
    AttentionRequested,
    CancelRequested,
    CompensationRejected,
    DriverTaken,
    Fact,
    LateEffectObserved,
    NodeFact,
    OperatorFact,
    SagaFailed,
    StepInDoubt,
)
from amends.aggregates.run.plan import StepKind
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import CLAIMED, NodeState, NodeStatus, RunState, RunStatus, undo_open_nodes
from amends.cli.views.fact_words import words
from amends.cli.views.facts import Next, next_steps, still_to_undo, trace_of
from amends.cli.views.times import ago, duration, moment
from amends.cli.views.wording import WORDS
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.blockers import Blocker
from amends.sagas.engine.interventions import Intervention, InterventionKind, fact_of, open_for_decision
from amends.sagas.engine.overdue import Overdue, Why, overdue_nodes

__all__ = ["Contact", "Explanation", "OpenNode", "explain", "sections"]

_N = NodeStatus

_MEANINGS = {
    RunStatus.RUNNING: "The run goes forward.",
    RunStatus.CANCELLING: "An operator cancelled the run. It starts no new step, and turns back when the calls in "
    "flight have settled.",
    RunStatus.COMPENSATING: "Amends undoes the steps that may have acted, the last one first.",
    RunStatus.COMPLETED: "Every step has succeeded or was skipped. Nothing is left to do.",
    RunStatus.COMPENSATED: "Every step that may have acted is undone, or stays because it is irreversible or an "
    "operator decided so. Nothing is left to do.",
    RunStatus.NEEDS_ATTENTION: "The run waits for an operator. Nothing more happens before a decision.",
}


class Contact(NamedTuple):
    """The owner of a step and the place of its instructions; `None` if the catalog has no entry."""

    owner: str | None
    runbook: str | None


@dataclass(frozen=True, slots=True)
class OpenNode:
    """A node that is not settled.

    Attributes:
        name: The node.
        status: Its status.
        next: The next action at it; `None` if an operator has to decide.
        overdue: In which way it has been open for too long; `None` if it has not.
        contact: The owner of its step; `None` if the code is not loaded.
    """

    name: str
    status: NodeStatus
    next: Next | None
    overdue: Overdue | None
    contact: Contact | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """All parts of the explanation.

    Attributes:
        record: The run.
        last: Its last fact.
        meaning: The meaning of its status.
        open: Nodes that are not settled, in the order of the plan.
        later: Nodes whose undo has to wait for others; each inner tuple together.
        run_next: The next action for the run itself; `None` if there is none.
        doubts: Nodes in doubt, each with the reason.
        decisions: Facts by which a person, or the program, decided the run's way.
        commands: Commands that are possible now: the command line and its effect.
        waits: Why the loaded code cannot continue the run.
        trace: The places and causes of the last failed attempt.
    """

    record: RunRecord
    last: Fact
    meaning: str
    open: tuple[OpenNode, ...]
    later: tuple[tuple[str, ...], ...]
    run_next: Next | None
    doubts: tuple[tuple[str, str], ...]
    decisions: tuple[Fact, ...]
    commands: tuple[tuple[str, str], ...]
    waits: tuple[Blocker, ...] = ()
    trace: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JsonValue]:
        """Return the explanation as JSON; times are in milliseconds since the epoch."""
        return {
            "run_id": self.record.run_id,
            "saga": self.record.started.saga,
            "status": self.record.state.status.value,
            "meaning": self.meaning,
            "last": _fact_json(self.last),
            "open": [_open_json(each) for each in self.open],
            "undone_later": [list(group) for group in self.later],
            "in_doubt": [{"node": node, "why": why} for node, why in self.doubts],
            "blockers": [each.to_json() for each in self.waits],
            "decided": [_fact_json(fact) for fact in self.decisions],
            "trace": list(self.trace),
            "commands": [{"command": line, "what": what} for line, what in self.commands],
        }


def explain(
    record: RunRecord,
    facts: Sequence[Fact],
    now_ms: int,
    contacts: Mapping[str, Contact] | None = None,
    *,
    waits: tuple[Blocker, ...] = (),
) -> Explanation:
    """Explain the state of a run.

    Args:
        record: The run.
        facts: All of its facts, at least one.
        now_ms: The present time, in milliseconds since the epoch.
        contacts: The owners and instructions, by step; `None` if the code is not loaded.
        waits: Why the loaded code cannot continue the run.
    """
    state = record.state
    steps = next_steps(state, now_ms)
    decided = {step.node: step for step in steps if step.node}
    overdue = {each.node: each for each in overdue_nodes(record, [fact.head for fact in facts], now_ms)}
    names = {*decided, *record.current, *_decidable(state)}
    return Explanation(
        record=record,
        last=facts[-1],
        meaning=_MEANINGS[state.status],
        open=tuple(
            OpenNode(
                name, state.node(name).status, decided.get(name), overdue.get(name), (contacts or {}).get(node.step)
            )
            for name, node in state.plan.nodes.items()
            if name in names
        ),
        later=tuple(group for group in still_to_undo(state) if not set(group) & set(decided)),
        run_next=next((step for step in steps if not step.node), None),
        doubts=tuple(_doubts(record, facts, now_ms)),
        decisions=tuple(fact for fact in facts if _decides(fact)),
        commands=tuple(_commands(record, overdue.values(), now_ms)),
        waits=waits,
        trace=trace_of(facts),
    )


def _decidable(state: RunState) -> tuple[str, ...]:
    """Return the nodes that an operator has to decide about, or may speed up."""
    if state.status is RunStatus.NEEDS_ATTENTION and state.backward:
        # An operator could also decide about effects that stay by declaration, but need not.
        return undo_open_nodes(state)
    return open_for_decision(state)


def _decides(fact: Fact) -> bool:
    # A participant that refuses an undo has decided as well.
    return isinstance(
        fact,
        OperatorFact
        | CancelRequested
        | CompensationRejected
        | DriverTaken
        | SagaFailed
        | AttentionRequested
        | LateEffectObserved,
    )


def _doubts(record: RunRecord, facts: Sequence[Fact], now_ms: int) -> list[tuple[str, str]]:
    """Return the nodes in doubt, each with the reason.

    A transaction without an outcome was rolled back, and a read-only effect changes nothing: neither is in doubt.
    """
    in_doubt = record.in_doubt
    # A node that was in doubt once may have been clarified since.
    reasons = {fact.node: fact.reason for fact in facts if isinstance(fact, StepInDoubt) and fact.node in in_doubt}
    found: list[tuple[str, str]] = []
    for name, node in record.state.plan.nodes.items():
        if (
            node.kind is StepKind.EFFECT
            and not node.read_only
            and (why := _doubt(record.state.node(name), reasons.get(name), now_ms))
        ):
            found.append((name, why))
    return found


def _doubt(at: NodeState, reason: str | None, now_ms: int) -> str | None:
    done = "no one knows whether the step took effect, and " if reason else ""
    match at.status:
        case _N.IN_DOUBT:
            return f"no one knows whether the step took effect: {reason or 'Amends gave up'}"
        case _N.STARTED if at.due_ms is not None and at.due_ms <= now_ms:
            return "the claim ended without an answer; the outcome is not known yet"
        case _N.STARTED:
            return "the call is in flight; the outcome is not known yet"
        case _N.WAITING | _N.SPENT | _N.PROBE_WAITING | _N.PROBE_SPENT:
            return "a call received no answer; the outcome is not known yet"
        case _N.UNDO_EXHAUSTED:
            return f"{done}the undo used up its attempts; no one knows whether the undo took effect"
        case _N.UNDO_REJECTED if reason:
            return f"{done}the participant refused the undo"
        case _N.UNDO_STARTED | _N.UNDO_WAITING | _N.UNDO_SPENT:
            return f"{done}the undo has started and is not confirmed"
        case _N.UNDONE if reason:
            return f"undone with unknown outcome: {reason}"
        case _N.UNDO_SKIPPED if reason:
            return f"kept with unknown outcome: {reason}"
        case _:
            return None


# ---- what can be done


class _AnyOutput:
    """A stand-in for a registry: whether a verb fits does not depend on the types of results."""

    def result_codec(self, step: str) -> "_AnyOutput":
        del step
        return self

    def load(self, value: Any) -> Any:  # noqa: ANN401 - as above
        return value

    def dump(self, value: Any) -> Any:  # noqa: ANN401 - as above
        return value


_REASON = '--reason "..."'
_EVIDENCE = '--evidence "..."'
_OUTPUT = "--output JSON"


def _commands(record: RunRecord, overdue: Iterable[Overdue], now_ms: int) -> list[tuple[str, str]]:
    run_id, state = record.run_id, record.state
    found: list[tuple[str, str]] = []
    for name in state.plan.nodes:
        if name in _decidable(state):
            found += [
                _command(record, verb, name)
                for verb in InterventionKind
                if verb is not InterventionKind.CANCEL and _fits(record, verb, name, now_ms)
            ]
        elif state.node(name).status in CLAIMED and state.status is not RunStatus.CANCELLING:
            line = f"amends retry {run_id} {name} {_REASON} --after-expiry"
            found.append((line, f"waits until the claim of {name} has ended, and retries if no answer came"))
    if (
        not state.backward
        and state.status is not RunStatus.CANCELLING
        and _fits(record, InterventionKind.CANCEL, None, now_ms)
    ):
        found.append((f"amends cancel {run_id} {_REASON}", "undoes the steps that may have acted"))
    if any(each.why is Why.IDLE for each in overdue):
        found.append((f"amends show {run_id}", "shows whether anything drives the run"))
    return found


def _fits(record: RunRecord, verb: InterventionKind, node: str | None, now_ms: int) -> bool:
    wish = Intervention(kind=verb, actor="you", reason="asked", evidence="asked", node=node)
    try:
        return fact_of(cast("Registry", _AnyOutput()), record, wish, now_ms, now_ms) is not None
    except AmendsError:
        return False


def _command(record: RunRecord, verb: InterventionKind, name: str) -> tuple[str, str]:
    state, where = record.state, f"{record.run_id} {name} {_REASON}"
    undoing = state.backward and state.node(name).status is not _N.IN_DOUBT
    match verb:
        case InterventionKind.RETRY if state.node(name).status is _N.PROBE_WAITING:
            return f"amends retry {where}", "asks the probe again, now"
        case InterventionKind.RETRY if undoing and state.node(name).status is _N.UNDO_REJECTED:
            return (
                f"amends retry {where}",
                "retries the undo now, under a new key, because the participant refused the old one",
            )
        case InterventionKind.RETRY:
            what = "undo" if undoing else "step"
            return f"amends retry {where}", f"retries the {what} now"
        case InterventionKind.SKIP if state.backward:
            return f"amends skip {where}", "keeps the effect of the step"
        case InterventionKind.SKIP:
            return f"amends skip {where} {_OUTPUT}", "continues as if the step had returned JSON"
        case InterventionKind.RESOLVE if undoing:
            return f"amends resolve {where} {_EVIDENCE}", "records that the step is undone, by any means"
        case InterventionKind.RESOLVE:
            return f"amends resolve {where} {_EVIDENCE} {_OUTPUT}", "records that the step took effect, with its result"
        case _:
            return f"amends resolve {where} {_EVIDENCE} --not-done", "records that the step took no effect"


# ---- as JSON


def _fact_json(fact: Fact) -> dict[str, JsonValue]:
    return {
        "position": fact.position,
        "fact": fact.kind,
        "node": fact.node if isinstance(fact, NodeFact | SagaFailed) else "",
        "as_of_ms": fact.as_of_ms,
        "actor": fact.actor,
        "reason": getattr(fact, "reason", None),
        "evidence": getattr(fact, "evidence", None),
    }


def _open_json(each: OpenNode) -> dict[str, JsonValue]:
    step, overdue, contact = each.next, each.overdue, each.contact
    return {
        "node": each.name,
        "status": each.status.value,
        "next": None if step is None else step.what,
        "due_ms": None if step is None else step.due_ms,
        "overdue_since_ms": None if overdue is None else overdue.since_ms,
        "overdue": None if overdue is None else overdue.why.value,
        "owner": None if contact is None else contact.owner,
        "runbook": None if contact is None else contact.runbook,
    }


# ---- in words


def sections(told: Explanation, now_ms: int, zone: tzinfo | None) -> list[tuple[str, list[str]]]:
    """Return an explanation as sentences under headings; text of users in them is raw and still has to be escaped.

    Args:
        told: The explanation.
        now_ms: The present time, in milliseconds since the epoch.
        zone: The time zone for times; `None` for the local one.
    """
    state = told.record.state
    found = [
        ("Status", [f"{state.status.value}. {told.meaning}"]),
        ("Last fact", [_fact_line(told.last, now_ms, zone)]),
        ("Open", [line for each in told.open for line in _open_lines(each, now_ms, zone)]),
        ("Waits for code", [each.text for each in told.waits]),
        ("In doubt", [f"{node}: {why}" for node, why in told.doubts]),
        ("Last error", list(told.trace)),
        ("Decisions", [_fact_line(fact, now_ms, zone) for fact in told.decisions]),
        ("Possible commands", [line for command, what in told.commands for line in (command, f"    {what}")]),
    ]
    if told.run_next is not None:
        found[2][1].append(f"the run: {told.run_next.what} now")
    if told.later:
        found[2][1].append(f"undone after that: {', then '.join(' and '.join(group) for group in told.later)}")
    return [(heading, lines) for heading, lines in found if lines]


def _fact_line(fact: Fact, now_ms: int, zone: tzinfo | None) -> str:
    node = fact.node if isinstance(fact, NodeFact | SagaFailed) else ""
    why = words(fact).why
    evidence = fact.evidence if isinstance(fact, OperatorFact) else None
    parts = [
        f"#{fact.position} {fact.kind}{f' of {node}' if node else ''} by {fact.actor}",
        _when(fact.as_of_ms, now_ms, zone),
    ]
    line = ", ".join(parts)
    line += f": {why}" if why else ""
    return line + (f" (evidence: {evidence})" if evidence else "")


def _when(ms: int, now_ms: int, zone: tzinfo | None) -> str:
    return f"{moment(ms, zone)}, {ago(ms, now_ms)}"


def _open_lines(each: OpenNode, now_ms: int, zone: tzinfo | None) -> list[str]:
    step = each.next
    if step is None:
        following = "a decision by an operator"
    elif step.due_ms is None:
        following = f"{step.what}, now"
    else:
        following = f"{step.what}, at {moment(step.due_ms, zone)}, in {duration(max(0, step.due_ms - now_ms))}"
    lines = [f"{each.name} is {each.status.value}; next: {following}"]
    if each.overdue is not None:
        lines.append(f"    it {WORDS[each.overdue.why]}; overdue since {_when(each.overdue.since_ms, now_ms, zone)}")
    if each.contact is not None and (each.contact.owner or each.contact.runbook):
        named = [("owner", each.contact.owner), ("runbook", each.contact.runbook)]
        lines.append("    " + ", ".join(f"{name}: {value}" for name, value in named if value))
    return lines
