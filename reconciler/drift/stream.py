"""The stream of a rule's reconciliation: an aggregate, so that its facts commit together with the correction.

Each rule has one stream, `reconciliation/<rule>`, since caps, scans and numbers of drifts belong to the rule. All
reconcilers of a rule take turns there.
"""

from eventsourcing.domain import event

from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.journal import StepWork
from amends.reconciler.drift.facts import (
    CorrectionFailed,
    CorrectionStarted,
    DriftApproved,
    DriftCleared,
    DriftCorrected,
    DriftDetected,
    DriftIgnored,
    DriftProposed,
    DriftUnobservable,
    IgnoreRemoved,
    ReconciliationFact,
    RuleScanned,
)
from amends.reconciler.drift.rule_state import RuleState

__all__ = ["RECONCILIATION_FACTS", "Reconciliation", "reconciliation_of"]

RECONCILIATION_FACTS: dict[str, type[ReconciliationFact]] = {
    cls.__name__: cls
    for cls in (
        DriftDetected,
        DriftProposed,
        DriftApproved,
        CorrectionStarted,
        DriftCorrected,
        CorrectionFailed,
        DriftCleared,
        DriftUnobservable,
        RuleScanned,
        DriftIgnored,
        IgnoreRemoved,
    )
}
"""Every kind of fact of a reconciliation, by its name."""


class Reconciliation(Aggregate):
    """The drift of one rule; its id is the rule's name."""

    CATEGORY = "reconciliation"
    # Raise it whenever `RuleState` folds differently: snapshots know only the code of this class.
    FOLD = 2

    @event("ReconciliationOpened")
    def __init__(self, id: str, rule_state: RuleState) -> None:  # noqa: A002, ARG002 - the signature of aggregates
        # The event carries the empty value so that snapshots know its type.
        self.rule_state = rule_state

    def record(self, fact: ReconciliationFact) -> None:
        """Record a fact.

        Each kind is an event of its own, `reconciliation.<kind>` in the journal, whose only field is the fact.
        """
        self.trigger_event(getattr(type(self), type(fact).__name__), fact=fact)

    @event("DriftDetected")
    def _drift_detected(self, fact: DriftDetected) -> None:
        self.rule_state = self.rule_state.apply(fact)

    @event("DriftProposed")
    def _drift_proposed(self, fact: DriftProposed) -> None:
        self.rule_state = self.rule_state.apply(fact)

    @event("DriftApproved")
    def _drift_approved(self, fact: DriftApproved) -> None:
        self.rule_state = self.rule_state.apply(fact)

    @event("CorrectionStarted")
    def _correction_begun(self, fact: CorrectionStarted) -> None:
        self.rule_state = self.rule_state.apply(fact)

    @event("DriftCorrected")
    def _drift_corrected(self, fact: DriftCorrected) -> None:
        self.rule_state = self.rule_state.apply(fact)

    @event("CorrectionFailed")
    def _correction_failed(self, fact: CorrectionFailed) -> None:
        self.rule_state = self.rule_state.apply(fact)

    @event("DriftCleared")
    def _drift_cleared(self, fact: DriftCleared) -> None:
        self.rule_state = self.rule_state.apply(fact)

    @event("DriftUnobservable")
    def _drift_unobservable(self, fact: DriftUnobservable) -> None:
        self.rule_state = self.rule_state.apply(fact)

    @event("RuleScanned")
    def _rule_scanned(self, fact: RuleScanned) -> None:
        self.rule_state = self.rule_state.apply(fact)

    @event("DriftIgnored")
    def _drift_ignored(self, fact: DriftIgnored) -> None:
        self.rule_state = self.rule_state.apply(fact)

    @event("IgnoreRemoved")
    def _ignore_removed(self, fact: IgnoreRemoved) -> None:
        self.rule_state = self.rule_state.apply(fact)


def reconciliation_of(uow: StepWork, rule: str) -> Reconciliation:
    """Load a rule's reconciliation, or create its stream."""
    return uow.find(Reconciliation, rule) or uow.add(Reconciliation(id=rule, rule_state=RuleState()))
