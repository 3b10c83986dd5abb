"""Drift: one difference between what the journal expects and what is observed, and what would put it right.

Values only. Which drift is acted on, and when, is decided in `decide.py`; who performs a correction is in
`correcting_asyncio.py`.
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
    "CouldNotLook",
    "Drift",
    "DriftKind",
    "Intervene",
    "Rebuild",
    "Rouse",
    "corrected_run",
    "described",
]

_MAX_SUBJECT_CHARS = 300
_KEY_CHARS = 12
_LIMITS = Limits(max_bytes=20_000)


class DriftKind(StrEnum):
    """How record and world differ.

    - `MISSING`: what is expected is not there.
    - `UNEXPECTED`: what is there is not expected.
    - `DIFFERENT`: it is there, and other than expected.
    - `DUPLICATE`: it is there more than once.
    """

    MISSING = "missing"
    UNEXPECTED = "unexpected"
    DIFFERENT = "different"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a correction is made; what a command gets beside its unit of work.

    Attributes:
        rule: Name of the rule that found the drift.
        drift: Id of the drift, for the command's own events: with it they lead back to what caused them.
        fact: Id of the fact that says so, `reconciliation/<rule>:<position>`.
    """

    rule: str
    drift: str
    fact: str


@dataclass(frozen=True, slots=True)
class Command:
    """A correction that changes our store: a named function that is run in a unit of work.

    It commits together with the fact that it was made, so it takes effect once, whatever fails or runs at the same
    time. The function does no I/O of its own, as in a `@transaction`; what it raises undoes what it did.

    Attributes:
        function: Called with the input, a `Cause` and the unit of work.
        input: Whatever the rule found out; it is not stored.
        aggregate: The aggregate that is changed, as class and id: with it the drift's `version` is compared.
    """

    function: Callable[..., object]
    input: object = None
    aggregate: tuple[type[Aggregate], str] | None = None

    def __post_init__(self) -> None:
        name = getattr(self.function, "__qualname__", "")
        if not name or "<" in name:
            raise DefinitionError(
                f"a correction's command is {name or shorten(self.function)}; name a function of a module, "
                f"since the journal says what was done"
            )


@dataclass(frozen=True, slots=True)
class Intervene:
    """A correction of a run: what an operator would decide about it.

    Attributes:
        run_id: The run.
        intervention: The decision; its actor is replaced by the rule's name.
        more: Decisions about other nodes of the run that are taken in the same transaction, in this order.
    """

    run_id: str
    intervention: Intervention
    more: tuple[Intervention, ...] = ()

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """All of its decisions."""
        return (self.intervention, *self.more)


@dataclass(frozen=True, slots=True)
class Rouse:
    """A correction: have Temporal look at the run, starting its workflow where none runs.

    Attributes:
        run_id: The run.
    """

    run_id: str


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A correction: make the read model again from the journal.

    Attributes:
        runs: The runs whose rows are made again; empty for all of them.
    """

    runs: tuple[str, ...] = ()


Correction: TypeAlias = Command | Intervene | Rouse | Rebuild
"""What puts a drift right."""


def described(correction: Correction) -> str:
    """Say in a few words what a correction does."""
    match correction:
        case Command(function, _, None):
            return f"call {function.__qualname__}"
        case Command(function, _, (cls, id_)):
            return f"call {function.__qualname__} on {cls.stream_of(id_)}"
        case Intervene(run_id) as wish:
            decided = [f"{each.verb} {each.node}" if each.node else each.verb for each in wish.interventions]
            return f"{', '.join(decided)} of run {run_id}"
        case Rouse(run_id):
            return f"have Temporal drive run {run_id}"
        case Rebuild(runs) if runs:
            return f"rebuild the rows of run {', '.join(runs)}"
    return "rebuild the read model"


def corrected_run(correction: Correction | None) -> str | None:
    """Name the run that a correction decides about; `None` when it decides about none."""
    return correction.run_id if isinstance(correction, Intervene) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One difference between record and world.

    Attributes:
        subject: What differs, such as `StockItem/sku-1` or a run's id; the same one in every look.
        kind: How.
        expected: What the journal says, as JSON.
        actual: What was found, as JSON.
        evidence: Where and how it was found, for people; not part of the drift's identity.
        version: Position of the run or aggregate that the correction changes, as it was when it was compared. While it
            is the same, one look is enough; `None` where the world has no versions, and then two looks are needed.
        correction: What would put it right; `None` when people have to find out.

    Raises:
        InputError: The subject is no printable text of 1 to 300 characters, the kind or the correction is none, or a
            value is not JSON of at most 20 kB.
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
                f"drift subject {shorten(subject)} is no printable text of 1 to {_MAX_SUBJECT_CHARS} characters; "
                f"name what differs, the same way each time"
            )
        if self.kind not in set(DriftKind):
            raise InputError(
                f"drift of {shorten(subject)}: kind {shorten(self.kind)} is none of {', '.join(DriftKind)}"
            )
        # Given as its text it is the same kind.
        object.__setattr__(self, "kind", DriftKind(self.kind))
        if not isinstance(self.correction, Correction | None):
            raise InputError(
                f"drift of {shorten(subject)}: correction {shorten(self.correction)} is no correction; write "
                f"Command(function, input), Intervene(run, intervention), or None"
            )
        for value in (self.expected, self.actual):
            what = f"drift of {shorten(subject)}"
            refuse_unreadable(json_bytes(value, what), what=what, limits=_LIMITS)
        object.__setattr__(self, "evidence", clean_text(self.evidence))

    def key(self, rule: str) -> str:
        """Make what tells this drift from every other one of a rule: the same in every look and every process."""
        parts: list[JsonValue] = [rule, self.subject, self.kind.value, self.expected, self.actual]
        return digest(parts)[:_KEY_CHARS]


class CouldNotLook(Exception):  # noqa: N818 - an answer of a rule, not a fault of the program
    """A rule could not find out: its source did not answer, or with nothing where something must be.

    Raised by a rule, or yielded like a drift. That nobody could look is never taken for "no drift": nothing is called
    cleared by it, and nothing is corrected.

    Args:
        reason: Why, in words that an operator understands.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
