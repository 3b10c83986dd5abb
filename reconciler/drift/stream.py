"""The stream of a rule's reconciliation: an aggregate, so that its facts commit together with the correction.

Each rule has one stream, `reconciliation/<rule>`, since caps, scans and numbers of drifts belong to the rule. All
reconcilers of a rule take turns there.
"""

from eventsourcing.domain import event

from amends.aggregates.events.fact_stream import FactStream
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


class Reconciliation(FactStream, facts=RECONCILIATION_FACTS.values(), folds="rule_state"):
    """The drift of one rule; its id is the rule's name."""

    CATEGORY = "reconciliation"
    # Raise it whenever `RuleState` folds differently: snapshots know only the code of this class.
    FOLD = 2

    @event("ReconciliationOpened")
    def __init__(self, id: str, rule_state: RuleState) -> None:  # noqa: A002, ARG002 - the signature of aggregates
        # The event carries the empty value so that snapshots know its type.
        self.rule_state = rule_state


def reconciliation_of(uow: StepWork, rule: str) -> Reconciliation:
    """Load a rule's reconciliation, or create its stream."""
    return uow.find(Reconciliation, rule) or uow.add(Reconciliation(id=rule, rule_state=RuleState()))
