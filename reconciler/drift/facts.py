"""The facts of reconciliation: what the stream `reconciliation/<rule>` consists of.

A look is one run of one rule. Its facts carry its number, and `RuleLooked` or `DriftUnobservable` ends it. A drift's id
is `<key>.<look>`: the key tells it from other drifts, the look is the one that found it, so the same difference found
again after it was gone is another drift. An id is the same for everybody who looks at the stream.
"""

from pydantic import BaseModel, ConfigDict, JsonValue

from amends.reconciler.drift.drift import DriftKind
from amends.reconciler.drift.rule import Mode

__all__ = [
    "CorrectionBegun",
    "CorrectionFailed",
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
    "RuleLooked",
]


class ReconciliationFact(BaseModel):
    """What every fact of reconciliation carries.

    Attributes:
        look: Number of the look that it belongs to, from 1; for what people decide, of the last one before.
        as_of_ms: Time of the look or decision, in milliseconds since the epoch.
        actor: Who looked or decided.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    look: int
    as_of_ms: int
    actor: str


class DriftFact(ReconciliationFact):
    """A fact about one drift.

    Attributes:
        drift: Its id.
    """

    drift: str


class DriftDetected(DriftFact):
    """A look found a difference that was not known.

    Attributes:
        subject: What differs.
        kind: How.
        expected: What the journal says, as JSON.
        actual: What was found, as JSON.
        evidence: Where and how it was found.
        correction: What would put it right, in words; `None` when people have to find out.
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
        correction: What would be done.
    """

    correction: str


class DriftApproved(DriftFact):
    """Somebody wants the drift corrected.

    Attributes:
        reason: Why; `None` when none was given.
    """

    reason: str | None


class CorrectionBegun(DriftFact):
    """A correction outside of our store's transaction is about to be made: durable before it.

    Attributes:
        correction: What is done.
    """

    correction: str


class CorrectionFailed(DriftFact):
    """A correction was not made.

    Attributes:
        error: Why.
    """

    error: str


class DriftCorrected(DriftFact):
    """The drift was corrected; committed together with what the correction wrote to our store.

    Attributes:
        correction: What was done.
        changed: Ids of the facts and streams that it wrote, as `<run>:<position>` or `<stream>:<position>`.
    """

    correction: str
    changed: tuple[str, ...]


class DriftCleared(DriftFact):
    """A look does not find the drift any more."""


class DriftIgnored(ReconciliationFact):
    """Somebody wants a drift or everything about a subject left alone.

    Attributes:
        what: The drift's id, or the subject.
        reason: Why.
        until_ms: Until when, in milliseconds since the epoch.
    """

    what: str
    reason: str
    until_ms: int


class IgnoreRemoved(ReconciliationFact):
    """What was ignored counts again.

    Attributes:
        what: The drift's id, or the subject.
    """

    what: str


class DriftUnobservable(ReconciliationFact):
    """Nobody could look: what was known of drift before stays as it is.

    Attributes:
        reason: Why.
    """

    reason: str


class RuleLooked(ReconciliationFact):
    """A look was made; this is all that it saw.

    Attributes:
        mode: How far the rule might go.
        seen: Ids of every drift that was found, new ones included.
        held: Why drifts that have a correction were not corrected, by their ids.
        stopped: Why nothing at all was corrected, though it was due; `None` otherwise.
        count: How many subjects were looked at; `None` when the rule does not say.
        log_position: Notification id up to which the rule has read.
        sweep: Where the rule's sweep of everything stands; empty at its beginning.
    """

    mode: Mode
    seen: tuple[str, ...]
    held: dict[str, str]
    stopped: str | None
    count: int | None
    log_position: int
    sweep: str = ""
