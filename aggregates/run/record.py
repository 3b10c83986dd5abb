"""The record of a run: its state together with the user data that its facts carry.

Steps get their input and earlier results from the `RunRecord`, and the read model is derived from it. Like the state
inside it, it is folded from the facts; only the facts are the truth.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import JsonValue

from amends.aggregates.errors import InputError, JournalError
from amends.aggregates.run.fact import ClaimFact
from amends.aggregates.run.facts import (
    AttentionRequested,
    CancelRequested,
    CompensationAttemptFailed,
    CompensationRejected,
    CompensationStarted,
    DriverTaken,
    Fact,
    Head,
    LateEffectObserved,
    NodeFact,
    PostponedFact,
    ProbeAttemptFailed,
    SagaCompleted,
    SagaFailed,
    SagaStarted,
    StepAttemptFailed,
    StepFailed,
    StepInDoubt,
    StepRejected,
    StepResolved,
    StepRuledOut,
    StepSkipped,
    StepStarted,
    StepSucceeded,
)
from amends.aggregates.run.plan import Plan
from amends.aggregates.run.state import UNDO_STATUSES, NodeState, NodeStatus, RunState, RunStatus
from amends.aggregates.run.transitions import begin, evolve, told_only
from amends.aggregates.text import shorten

RECENT = 64
"""The number of heads that a record keeps; one step of a driver never adds as many."""

__all__ = ["RunRecord", "RunSummary", "fold_facts"]


class RunSummary(NamedTuple):
    """A run's row in the read model.

    Attributes:
        run_id: Id of the run.
        saga: Name of the saga.
        status: The state of the run.
        position: Position of its last fact.
        started_ms: The driver's time of acceptance, in milliseconds since the epoch.
        updated_ms: The driver's time of the last fact.
        current: Nodes that the run is at, joined by commas. Empty for a closed run; the open nodes for a run that needs
            attention.
        error: The reason why the run turned round and the last error after that, in one line; `None` when there was no
            error, or when the run has completed.
        keys: Declared business keys and their values.
        driver: The driver that advances the run.
        fingerprint: The plan that the run follows.
    """

    run_id: str
    saga: str
    status: RunStatus
    position: int
    started_ms: int
    updated_ms: int
    current: str
    error: str | None
    keys: Mapping[str, str]
    driver: str
    fingerprint: str

    def to_json(self) -> dict[str, JsonValue]:
        """Return the row as JSON, as `amends list --json` prints it: a key for each attribute."""
        return {**self._asdict(), "status": self.status.value, "keys": dict(self.keys)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "RunSummary":
        """Return the summary in a JSON object: that of a summary, of a `RunResult` or of `amends show --json`.

        Args:
            row: The object; further keys do not matter.

        Raises:
            InputError: A key is missing, or the status does not exist.
        """
        try:
            values = {name: row[name] for name in cls._fields}
            return cls(**{**values, "status": RunStatus(values["status"])})
        except KeyError as error:
            raise InputError(f"a run in JSON has no key {error}; pass an object of `amends list --json`") from None
        except ValueError:
            raise InputError(f"{shorten(row['status'])} is not a status; use {', '.join(RunStatus)}") from None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run's state and data at one position.

    Attributes:
        started: The fact that accepted the run.
        state: The fold of the heads.
        results: Results of the nodes that have one, as JSON, by node.
        latest: The last error or refusal in one line; `None` when there was none, or when the run has completed.
        turned: The reason why the run turned round, in one line; `None` unless it did.
        current: Nodes that an operator has to decide about; empty unless the run needs attention.
        recent: Heads of the last facts, at most `RECENT`, for readers that know the run up to some position.
        cancel: The actor and the reason of the request to undo the run, in one line; `None` without such a request.
        driver: The driver that advances the run now.
        epoch: Raised when another driver takes over.
        deliveries: By node, the driver's delivery that made the last claim on it; empty for a driver that does not
            deliver calls.
        postponed: Nodes whose last call the deployed code could not complete, with the cause and the remedy.
        errors: The last error or refusal of each node that had one, in one line.
    """

    started: SagaStarted
    state: RunState
    results: Mapping[str, JsonValue]
    latest: str | None = None
    turned: str | None = None
    current: tuple[str, ...] = ()
    recent: tuple[Head, ...] = ()
    cancel: str | None = None
    driver: str = ""
    epoch: int = 1
    deliveries: Mapping[str, str] = field(default_factory=dict)
    postponed: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, plan: Plan, fact: SagaStarted) -> "RunRecord":
        """Return the record of a run that was just accepted."""
        head = fact.head
        return cls(fact, begin(plan, head), {}, recent=(head,), driver=fact.driver, epoch=fact.epoch)

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.started.run_id

    @property
    def error(self) -> str | None:
        """The reason why the run turned round, and the last error after that, in one line.

        `None` for a run without errors, and for a run that has completed in spite of errors.
        """
        if self.turned is None or self.latest is None or self.latest.startswith(self.turned):
            return self.latest
        return f"{self.turned}; then {self.latest}"

    @property
    def in_doubt(self) -> tuple[str, ...]:
        """Nodes whose effect is unknown, in the order of the plan.

        A node counts while it is in doubt, and also if it was in doubt when it was undone or when an operator let it
        stay. Such an undone node has no result; every node that succeeded, was skipped or resolved, or acted late has
        one. Read-only nodes never count.
        """
        return tuple(
            name
            for name, node in self.state.plan.nodes.items()
            if not node.read_only and self._doubtful(name, self.state.node(name))
        )

    def _doubtful(self, name: str, at: NodeState) -> bool:
        undone_blindly = at.status in UNDO_STATUSES and name not in self.results
        return at.status is NodeStatus.IN_DOUBT or (undone_blindly and at.generation not in at.answers.refused)

    def apply(self, fact: Fact) -> "RunRecord":
        """Fold one more fact.

        Raises:
            TransitionError: The fact does not follow.
        """
        head = fact.head
        state = evolve(self.state, head)
        observed = told_only(self.state, head)
        results, current, cancel = self.results, self.current if state.closed else (), self.cancel
        driver, epoch, deliveries = self.driver, self.epoch, self.deliveries
        match fact:
            case LateEffectObserved() if observed:
                pass
            case StepSucceeded() | StepSkipped() | StepResolved() | LateEffectObserved():
                results = {**results, fact.node: fact.result}
            case ClaimFact():
                deliveries = {**deliveries, fact.node: fact.delivery}
            case CancelRequested():
                cancel = _cancelled(fact)
            case AttentionRequested():
                current = fact.nodes
            case DriverTaken():
                driver, epoch = fact.driver, fact.epoch
        line = _error_line(fact, self.errors.get(fact.node)) if isinstance(fact, NodeFact) else None
        latest, turned = self._errors(fact, line, observed=observed)
        return RunRecord(
            started=self.started,
            state=state,
            results=results,
            latest=latest,
            turned=turned,
            current=current,
            recent=(*self.recent[1 - RECENT :], head),
            cancel=cancel,
            driver=driver,
            epoch=epoch,
            deliveries=deliveries,
            postponed=_postponed(self.postponed, fact),
            errors={**self.errors, fact.node: line} if isinstance(fact, NodeFact) and line else self.errors,
        )

    def _errors(self, fact: Fact, line: str | None, *, observed: bool) -> tuple[str | None, str | None]:
        """Return the last error and the reason of the turn after one more fact, whose error is `line`."""
        match fact:
            case LateEffectObserved() if observed:
                return f"{fact.node}: took effect although it was skipped or redone", self.turned
            case NodeFact():
                return line or self.latest, self.turned
            case SagaFailed():
                # Not the last error, which may be that of another node of the same stage.
                own = self.errors.get(fact.node) or f"{fact.node}: {fact.reason}"
                why = self.cancel or (own if fact.node else self.latest or fact.reason)
                return why, why
            case SagaCompleted():
                return None, None
            case CancelRequested():
                return _cancelled(fact), self.turned
        return self.latest, self.turned

    def heads_after(self, position: int) -> tuple[Head, ...] | None:
        """Return the heads of all facts after a position; `None` when the record does not keep that many."""
        missing = self.state.position - position
        if missing > len(self.recent):
            return None
        return self.recent[len(self.recent) - missing :]

    @property
    def summary(self) -> RunSummary:
        """The run's row in the read model."""
        state = self.state
        return RunSummary(
            run_id=self.run_id,
            saga=self.started.saga,
            status=state.status,
            position=state.position,
            started_ms=state.started_ms,
            updated_ms=state.updated_ms,
            current=",".join(self.current or _at(state)),
            error=self.error,
            keys=self.started.keys,
            driver=self.driver,
            fingerprint=self.started.fingerprint,
        )


def fold_facts(plan: Plan, facts: Iterable[Fact]) -> RunRecord:
    """Fold a whole stream, from `SagaStarted` on.

    Args:
        plan: The plan that the first fact names.
        facts: All facts of the run, in order.

    Raises:
        JournalError: The stream is empty or does not begin with `SagaStarted`.
        TransitionError: A fact does not follow from those before it.
    """
    remaining = iter(facts)
    first = next(remaining, None)
    if not isinstance(first, SagaStarted):
        raise JournalError(f"a run's stream begins with SagaStarted, found {first.kind if first else 'nothing'}")
    record = RunRecord.begin(plan, first)
    for fact in remaining:
        record = record.apply(fact)
    return record


def _postponed(before: Mapping[str, str], fact: Fact) -> Mapping[str, str]:
    """Return the nodes that are postponed after a fact; the start of another attempt does not remove a node."""
    if isinstance(fact, PostponedFact):
        return {**before, fact.node: fact.reason}
    if not before or not isinstance(fact, NodeFact) or isinstance(fact, StepStarted | CompensationStarted):
        return before
    return {node: reason for node, reason in before.items() if node != fact.node}


def _at(state: RunState) -> tuple[str, ...]:
    if state.closed or not 0 <= state.cursor < len(state.plan.stages):
        return ()
    return tuple(node.name for node in state.plan.stages[state.cursor].nodes)


def _cancelled(fact: CancelRequested) -> str:
    return f"cancelled by {fact.actor}: {fact.reason}"


def _error_line(fact: NodeFact, before: str | None) -> str | None:
    match fact:
        case StepInDoubt() | StepFailed() if before is not None:
            # The reason for giving up comes second, because the error before it explains more.
            return f"{before}; {fact.reason}"
        case StepAttemptFailed() | ProbeAttemptFailed() | CompensationAttemptFailed():
            return f"{fact.node}: {fact.error_type}: {fact.error}"
        case PostponedFact():
            return f"{fact.node} waits: {fact.reason}"
        case StepRejected() | StepInDoubt() | StepFailed() | StepRuledOut():
            return f"{fact.node}: {fact.reason}"
        case CompensationRejected():
            return f"{fact.node}: its undo was refused: {fact.reason}"
        case _:
            return None
