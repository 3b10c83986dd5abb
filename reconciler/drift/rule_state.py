"""The state of a rule's drift: the fold of its stream.

The state holds only the open drift, and the times of corrections by subject, so it does not grow with the number of
scans. Pure: `apply` is all there is.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from amends.reconciler.drift.facts import (
    CorrectionFailed,
    CorrectionStarted,
    DriftApproved,
    DriftCleared,
    DriftCorrected,
    DriftDetected,
    DriftFact,
    DriftIgnored,
    DriftProposed,
    DriftUnobservable,
    IgnoreRemoved,
    ReconciliationFact,
    RuleScanned,
)

__all__ = ["Ignore", "OpenDrift", "RuleState", "SubjectPast"]

_REMEMBERED = 10
_FORGOTTEN_MS = 7 * 24 * 3_600_000


class OpenDrift(BaseModel):
    """A drift that was found and is not gone.

    Attributes:
        found: The fact that detected it.
        position: Position of that fact in the stream.
        sightings: The number of scans that saw it.
        first_ms: Time of the earliest of them.
        proposed: Whether it was proposed.
        approved_by: Name of the person that approved; `None` when nobody did.
        started_ms: When a correction began whose end is not known; `None` when there is none.
        corrected_ms: When it was corrected; `None` when it was not.
    """

    model_config = ConfigDict(frozen=True)

    found: DriftDetected
    position: int
    sightings: int = 0
    first_ms: int
    proposed: bool = False
    approved_by: str | None = None
    started_ms: int | None = None
    corrected_ms: int | None = None


class SubjectPast(BaseModel):
    """The past corrections of a subject.

    Attributes:
        corrected_ms: The times of the last few corrections.
        failures: The number of failed corrections since the last success.
        failed_ms: When the last one failed; `None` when none did.
        error: Why the last one failed.
    """

    model_config = ConfigDict(frozen=True)

    corrected_ms: tuple[int, ...] = ()
    failures: int = 0
    failed_ms: int | None = None
    error: str | None = None


class Ignore(BaseModel):
    """A decision to ignore a drift or a subject.

    Attributes:
        reason: Reason that the person gave.
        until_ms: End of the time, in milliseconds since the epoch.
        actor: Name of the person that decided.
    """

    model_config = ConfigDict(frozen=True)

    reason: str
    until_ms: int
    actor: str


class RuleState(BaseModel):
    """The state of a rule's drift.

    Attributes:
        position: The number of folded facts plus one, which is the position of the last one: event 1 opens the stream.
        scans: The number of scans that ended, those that could not scan included.
        last_ms: Time of the last scan that could scan; `None` when there was none.
        log_position: Notification id up to which the rule has read.
        sweep: Position of the rule's sweep of everything; empty at its beginning.
        unobservable: Why the rule could not scan last time; `None` when it could.
        drifts: Open drift, by the drift's id.
        subjects: Past corrections, by subject.
        ignores: Decisions to ignore, by the drift's id or the subject.
    """

    model_config = ConfigDict(frozen=True)

    position: int = 1
    scans: int = 0
    last_ms: int | None = None
    log_position: int = 0
    sweep: str = ""
    unobservable: str | None = None
    drifts: dict[str, OpenDrift] = {}
    subjects: dict[str, SubjectPast] = {}
    ignores: dict[str, Ignore] = {}

    def apply(self, fact: ReconciliationFact) -> "RuleState":
        """Fold one more fact; a fact about a drift that is not open changes nothing but the position."""
        changes: dict[str, Any] = {"position": self.position + 1}
        match fact:
            case DriftDetected():
                drift = OpenDrift(found=fact, position=self.position + 1, first_ms=fact.as_of_ms)
                changes["drifts"] = {**self.drifts, fact.drift: drift}
            case DriftCleared():
                changes["drifts"] = {name: each for name, each in self.drifts.items() if name != fact.drift}
            case DriftFact() if fact.drift in self.drifts:
                changes |= self._about(fact, self.drifts[fact.drift])
            case DriftIgnored():
                ignore = Ignore(reason=fact.reason, until_ms=fact.until_ms, actor=fact.actor)
                changes["ignores"] = {**self.ignores, fact.what: ignore}
            case IgnoreRemoved():
                changes["ignores"] = {what: each for what, each in self.ignores.items() if what != fact.what}
            case DriftUnobservable():
                changes |= {"scans": fact.scan, "unobservable": fact.reason}
            case RuleScanned():
                changes |= self._scanned(fact)
        return self.model_copy(update=changes)

    def _about(self, fact: DriftFact, drift: OpenDrift) -> dict[str, Any]:
        subject = drift.found.subject
        past = self.subjects.get(subject, SubjectPast())
        match fact:
            case DriftProposed():
                drift = drift.model_copy(update={"proposed": True})
            case DriftApproved():
                drift = drift.model_copy(update={"approved_by": fact.actor})
            case CorrectionStarted():
                drift = drift.model_copy(update={"started_ms": fact.as_of_ms})
            case DriftCorrected():
                drift = drift.model_copy(update={"started_ms": None, "corrected_ms": fact.as_of_ms})
                past = SubjectPast(corrected_ms=(*past.corrected_ms, fact.as_of_ms)[-_REMEMBERED:])
            case CorrectionFailed():
                # The approval ends with the failure: people are asked again when the budget is spent.
                drift = drift.model_copy(update={"started_ms": None, "approved_by": None})
                update = {"failures": past.failures + 1, "failed_ms": fact.as_of_ms, "error": fact.error}
                past = past.model_copy(update=update)
        changed: dict[str, Any] = {"drifts": {**self.drifts, fact.drift: drift}}
        if past != SubjectPast():
            changed["subjects"] = {**self.subjects, subject: past}
        return changed

    def _scanned(self, fact: RuleScanned) -> dict[str, Any]:
        drifts = dict(self.drifts)
        for name in fact.seen:
            if (each := drifts.get(name)) is not None:
                # The earliest time: a clock that is ahead must not make a drift seem young for a day.
                first_ms = min(each.first_ms, fact.as_of_ms)
                drifts[name] = each.model_copy(update={"sightings": each.sightings + 1, "first_ms": first_ms})
        open_subjects = {each.found.subject for each in drifts.values()}
        recent = {
            subject: past
            for subject, past in self.subjects.items()
            if subject in open_subjects
            or any(abs(fact.as_of_ms - each) < _FORGOTTEN_MS for each in (*past.corrected_ms, past.failed_ms or 0))
        }
        return {
            "scans": fact.scan,
            "last_ms": fact.as_of_ms,
            "log_position": max(self.log_position, fact.log_position),
            "sweep": fact.sweep,
            "unobservable": None,
            "drifts": drifts,
            "subjects": recent,
        }
