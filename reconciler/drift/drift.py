"""Drift: one difference between the record and the world, and the correction for it.

Values only. `decide.py` decides which drift is corrected, and when; `runtime/reconciler.py` makes the corrections.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from pydantic import JsonValue

from amends.aggregates.errors import DefinitionError, InputError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.text import one_line, shorten
from amends.aggregates.values.strict_json import Limits, clean_text, digest, json_bytes, refuse_unreadable
from amends.sagas.engine.interventions import Intervention

__all__ = [
    "Cause",
    "Command",
    "Correction",
    "Drift",
    "DriftKind",
    "Intervene",
    "Rebuild",
    "ScanFailed",
    "Wake",
    "corrected_run",
    "described",
]

_MAX_SUBJECT_CHARS = 300
_KEY_CHARS = 12
_LIMITS = Limits(max_bytes=20_000)


class DriftKind(StrEnum):
    """The way in which record and world differ.

    - `MISSING`: an expected thing is not there.
    - `UNEXPECTED`: an unexpected thing is there.
    - `DIFFERENT`: it is there, and differs from the expectation.
    - `DUPLICATE`: it is there more than once.
    """

    MISSING = "missing"
    UNEXPECTED = "unexpected"
    DIFFERENT = "different"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Cause:
    """The cause of a correction, which a command receives next to its unit of work.

    Attributes:
        rule: Name of the rule that found the drift.
        drift: Id of the drift. A command can store it in its own events, which then lead back to their cause.
        fact: Id of the fact that records the drift, `reconciliation/<rule>:<position>`.
    """

    rule: str
    drift: str
    fact: str


@dataclass(frozen=True, slots=True)
class Command:
    """A correction that changes our store: a named function that runs in a unit of work.

    It commits together with the fact of the correction, so it takes effect once, whichever failures or concurrent
    reconcilers occur. As in a `@transaction`, the function does no I/O of its own, and an error rolls its writes back.

    Attributes:
        function: Called with the input, a `Cause` and the unit of work.
        input: Any value that the rule found out; it is not stored.
        aggregate: Class and id of the aggregate that is changed; if given, the drift's `version` is compared.
    """

    function: Callable[..., object]
    input: object = None
    aggregate: tuple[type[Aggregate], str] | None = None

    def __post_init__(self) -> None:
        name = getattr(self.function, "__qualname__", "")
        if not name or "<" in name:
            raise DefinitionError(
                f"a correction's command is {name or shorten(self.function)}; use a named function of a module, "
                "because the journal records its name"
            )


@dataclass(frozen=True, slots=True)
class Intervene:
    """A correction of a run, by a decision that an operator could make.

    Attributes:
        run_id: The run.
        intervention: The decision; the rule's name replaces its actor.
        more: Decisions about other nodes of the run, in the same transaction and in this order.
    """

    run_id: str
    intervention: Intervention
    more: tuple[Intervention, ...] = ()

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """All decisions of the correction."""
        return (self.intervention, *self.more)


@dataclass(frozen=True, slots=True)
class Wake:
    """A correction that wakes the run: Temporal reads the journal, and starts the workflow where none runs.

    Attributes:
        run_id: The run.
    """

    run_id: str


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A correction that rebuilds the read model from the journal.

    Attributes:
        runs: The runs whose rows are rebuilt; empty for all of them.
    """

    runs: tuple[str, ...] = ()


Correction: TypeAlias = Command | Intervene | Wake | Rebuild
"""The correction for a drift."""


def described(correction: Correction) -> str:
    """Return a correction in a few words."""
    match correction:
        case Command(function, _, None):
            return f"call {function.__qualname__}"
        case Command(function, _, (cls, id_)):
            return f"call {function.__qualname__} on {cls.stream_of(id_)}"
        case Intervene(run_id) as wish:
            decided = [f"{each.kind} {each.node}" if each.node else each.kind for each in wish.interventions]
            return f"{', '.join(decided)} of run {run_id}"
        case Wake(run_id):
            return f"have Temporal drive run {run_id}"
        case Rebuild(runs) if runs:
            return f"rebuild the rows of run {', '.join(runs)}"
    return "rebuild the read model"


def corrected_run(correction: Correction | None) -> str | None:
    """Return the id of the run that a correction decides about; `None` when it decides about none."""
    return correction.run_id if isinstance(correction, Intervene) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One difference between record and world.

    Attributes:
        subject: The thing that differs, such as `StockItem/sku-1` or a run's id; the same in every scan.
        kind: The way in which it differs.
        expected: The expectation of the journal, as JSON.
        actual: The finding, as JSON.
        evidence: Where and how it was found, for people; not part of the drift's identity.
        version: Position of the run or aggregate that the correction changes, at the time of the comparison. While the
            position stays the same, one scan is enough. `None` when the world has no versions; then two scans are
            needed.
        correction: The correction; `None` when people have to find one.

    Raises:
        InputError: The subject is not printable text of 1 to 300 characters, the kind or the correction is invalid, or
            a value is not JSON of at most 20 kB.
    """

    subject: str
    kind: DriftKind
    expected: JsonValue = None
    actual: JsonValue = None
    evidence: str = ""
    version: int | None = None
    correction: Correction | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        subject = self.subject
        if not 0 < len(subject) <= _MAX_SUBJECT_CHARS or one_line(subject) != subject:
            raise InputError(
                f"drift subject {shorten(subject)} is not printable text of 1 to {_MAX_SUBJECT_CHARS} characters; "
                f"use a stable name of the thing that differs"
            )
        if self.kind not in set(DriftKind):
            raise InputError(
                f"drift of {shorten(subject)}: kind {shorten(self.kind)} is not one of {', '.join(DriftKind)}"
            )
        # A kind that was passed as text becomes the enum's member.
        object.__setattr__(self, "kind", DriftKind(self.kind))
        if not isinstance(self.correction, Correction | None):
            raise InputError(
                f"drift of {shorten(subject)}: correction {shorten(self.correction)} is not a correction; write "
                f"Command(function, input), Intervene(run, intervention), or None"
            )
        for value in (self.expected, self.actual):
            what = f"drift of {shorten(subject)}"
            refuse_unreadable(json_bytes(value, what), what=what, limits=_LIMITS)
        object.__setattr__(self, "evidence", clean_text(self.evidence))

    def key(self, rule: str) -> str:
        """Return the key that separates this drift from all others of a rule: the same in every scan and process."""
        parts: list[JsonValue] = [rule, self.subject, self.kind.value, self.expected, self.actual]
        return digest(parts)[:_KEY_CHARS]


class ScanFailed(Exception):  # noqa: N818 - an answer of a rule, not a fault of the program
    """A rule could not scan: its source did not answer, or returned nothing where something must be.

    A rule raises it, or yields it like a drift. It never counts as "no drift": nothing is cleared or corrected after
    it.

    Args:
        reason: Why, in words that an operator understands.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
