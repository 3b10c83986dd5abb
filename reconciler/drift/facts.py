"""The facts of reconciliation: the contents of the stream `reconciliation/<rule>`.

A scan is one run of one rule. Its facts carry its number, and `RuleScanned` or `DriftUnobservable` ends it. A drift's
id is `<key>.<scan>`: the key separates it from other drifts, and `<scan>` is the number of the scan that found it. So
the same difference, found again after it was gone, is another drift. An id means the same to every reader of the
stream.
"""

from pydantic import BaseModel, ConfigDict, JsonValue

from amends.reconciler.drift.drift import DriftKind
from amends.reconciler.drift.rule import Mode

__all__ = [
    "CorrectionFailed",
    "CorrectionStarted",
    "DriftApproved",
    "DriftCleared",
    "DriftCorrected",
    "DriftDetected",
    "DriftFact",
    "DriftIgnored",
    "DriftProposed",
    "DriftUnobservable",
    "IgnoreRemoved",
    "ReconciliationFact",
    "RuleScanned",
]


class ReconciliationFact(BaseModel):
    """The fields of every fact of reconciliation.

    Attributes:
        scan: Number of the scan that it belongs to, from 1; for a decision of a person, of the last scan before it.
        as_of_ms: Time of the scan or decision, in milliseconds since the epoch.
        actor: Name of the person or program that scanned or decided.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scan: int
    as_of_ms: int
    actor: str


class DriftFact(ReconciliationFact):
    """A fact about one drift.

    Attributes:
        drift: Id of the drift.
    """

    drift: str


class DriftDetected(DriftFact):
    """A scan found a new difference.

    Attributes:
        subject: The thing that differs.
        kind: The way in which it differs.
        expected: The expectation of the journal, as JSON.
        actual: The finding, as JSON.
        evidence: Where and how it was found.
        correction: The correction, in words; `None` when people have to find one.
    """

    subject: str
    kind: DriftKind
    expected: JsonValue
    actual: JsonValue
    evidence: str
    correction: str | None


class DriftProposed(DriftFact):
    """The drift would be corrected if somebody approved.

    Attributes:
        correction: The correction, in words.
    """

    correction: str


class DriftApproved(DriftFact):
    """Somebody approves the correction of the drift.

    Attributes:
        reason: Reason of the approval; `None` when the person stated none.
    """

    reason: str | None


class CorrectionStarted(DriftFact):
    """A correction outside of our store's transaction is about to start; this fact is durable before it does.

    Attributes:
        correction: The correction, in words.
    """

    correction: str


class CorrectionFailed(DriftFact):
    """A correction failed.

    Attributes:
        error: Why the correction failed.
    """

    error: str


class DriftCorrected(DriftFact):
    """The drift was corrected; committed together with the writes of the correction to our store.

    Attributes:
        correction: The correction, in words.
        changed: Ids of the facts and streams that it wrote, as `<run>:<position>` or `<stream>:<position>`.
    """

    correction: str
    changed: tuple[str, ...]


class DriftCleared(DriftFact):
    """A scan does not find the drift any more."""


class DriftIgnored(ReconciliationFact):
    """Somebody wants a drift, or everything about a subject, ignored.

    Attributes:
        what: The drift's id, or the subject.
        reason: Reason that the person gave.
        until_ms: End of the time, in milliseconds since the epoch.
    """

    what: str
    reason: str
    until_ms: int


class IgnoreRemoved(ReconciliationFact):
    """A drift or subject is no longer ignored.

    Attributes:
        what: The drift's id, or the subject.
    """

    what: str


class DriftUnobservable(ReconciliationFact):
    """The rule could not scan; the drift known before stays open.

    Attributes:
        reason: Why the rule could not scan.
    """

    reason: str


class RuleScanned(ReconciliationFact):
    """A scan ended; this fact lists all that it saw.

    Attributes:
        mode: How far the rule could act.
        seen: Ids of every drift that was found, new ones included.
        held: Why drifts that have a correction were not corrected, by their ids.
        stopped: Why nothing at all was corrected although it was due; `None` otherwise.
        count: The number of subjects scanned; `None` when the rule does not report it.
        log_position: Notification id up to which the rule has read.
        sweep: Position of the rule's sweep of everything; empty at its beginning.
    """

    mode: Mode
    seen: tuple[str, ...]
    held: dict[str, str]
    stopped: str | None
    count: int | None
    log_position: int
    sweep: str = ""
