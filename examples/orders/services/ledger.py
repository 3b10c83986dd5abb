"""Applies each operation once per idempotency key, and remembers on disk what it answered.

The participant's state is a fold over the ledger's entries, live and after a restart alike. An entry is on disk before
anybody hears of it, and becomes state only then. The rules for a key:

- the same call again gets the first entry again, a refusal included; nothing is written;
- another call under the same key is a conflict;
- `void` reverses an applied operation once, whatever the number of voids; voiding a key that was never seen leaves a
  tombstone, and the operation that arrives too late is refused.

HTTP is not here (`service`), nor what the operations mean (`payment`, `shipping`, the bank).
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from services.line_log import LineLog, LineLogError

__all__ = ["VOID", "Call", "Effect", "Entry", "KeyConflict", "Ledger", "Outcome", "Participant", "Refused", "Voided"]

VOID = "void"
"""Name of the operation that every participant has."""

Effect = dict[str, str]
"""What changed, as flat text; `type` says how the participant folds it."""


class Refused(Exception):  # noqa: N818 - a business answer, not a fault of the program
    """The participant says no, and nothing changed.

    Args:
        reason: Why, in words for the caller's operator; remembered under the key.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class KeyConflict(Exception):  # noqa: N818 - an answer
    """The key was used before, for something else; nothing changed."""


class Voided(Exception):  # noqa: N818 - an answer
    """The key was voided before its operation arrived; nothing changed, and nothing will."""


class Outcome(StrEnum):
    """What became of a call; only `APPLIED` changed anything."""

    APPLIED = "applied"
    REFUSED = "refused"
    TOMBSTONE = "tombstone"
    UNNEEDED = "unneeded"


class Entry(BaseModel):
    """One line of the ledger, and the answer to every call under its key.

    Attributes:
        sequence: Place in the ledger, from 1, without gaps.
        key: Idempotency key.
        op: Operation that was asked for.
        outcome: What became of it.
        request: The call's body, normalised, with defaults filled in.
        effect: What changed; present when the outcome is `applied`.
        reason: Present when the outcome is `refused`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: int
    key: str
    op: str
    outcome: Outcome
    request: dict[str, JsonValue]
    effect: Effect | None = None
    reason: str | None = None


class Call(NamedTuple):
    """One operation that is seen for the first time.

    Attributes:
        op: One of the participant's operations.
        key: Idempotency key.
        sequence: Place that the entry will have; unique, so ids may be made of it.
        request: The body, an instance of the operation's model.
    """

    op: str
    key: str
    sequence: int
    request: BaseModel


class Participant(Protocol):
    """A business: decides what a call changes, and folds changes into its state. It does no I/O."""

    @property
    def name(self) -> str:
        """What the service calls itself in messages."""

    @property
    def view(self) -> str:
        """Path at which the state is shown, without slash."""

    @property
    def operations(self) -> Mapping[str, type[BaseModel]]:
        """The model of the body by name of the operation, `void` excepted."""

    def decide(self, call: Call) -> Effect:
        """Say what the call changes, without changing it.

        Raises:
            Refused: It changes nothing.
        """

    def reverse(self, done: Entry) -> Effect:
        """Say what undoes an applied entry, in the present state.

        Raises:
            Refused: It cannot be undone (any more).
        """

    def evolve(self, key: str, effect: Effect) -> None:
        """Fold a change into the state; it was decided before, so this cannot fail."""

    def snapshot(self) -> Mapping[str, JsonValue]:
        """The state as JSON."""


class Ledger:
    """Puts a participant's entries on disk, and its state back together from them.

    Args:
        log: Where the entries are kept; its lines are folded at once.
        participant: The business, in its initial state.

    Attributes:
        entries: All of them, oldest first.

    Raises:
        LineLogError: The file holds something that no ledger wrote.
    """

    def __init__(self, log: LineLog, participant: Participant) -> None:
        self._log = log
        self._participant = participant
        self._by_key: dict[str, Entry] = {}
        self._voided_by: dict[str, str] = {}
        self.entries: list[Entry] = []
        for number, line in enumerate(log.lines, start=1):
            try:
                entry = Entry.model_validate_json(line)
            except ValidationError as error:
                raise LineLogError(f"{log.path} line {number} is not a ledger entry: {line[:80]!r}") from error
            if entry.sequence != number:
                raise LineLogError(f"{log.path} line {number} has sequence {entry.sequence}: a line is missing")
            self._fold(entry)

    def perform(self, op: str, key: str, request: BaseModel) -> Entry:
        """Apply the operation, unless its key says that it was dealt with.

        Args:
            op: One of the participant's operations.
            key: Idempotency key.
            request: The body, an instance of the operation's model.

        Returns:
            The entry that the first call under the key made: applied or refused.

        Raises:
            KeyConflict: The key belongs to another call.
            Voided: The key was voided before it was seen.
        """

        def decide(sequence: int) -> Entry:
            effect = self._participant.decide(Call(op, key, sequence, request))
            return Entry(sequence=sequence, key=key, op=op, outcome=Outcome.APPLIED, request=fields, effect=effect)

        fields: dict[str, JsonValue] = request.model_dump(mode="json")
        return self._once(op, key, fields, decide)

    def void(self, key: str, of: str) -> Entry:
        """Undo what was done under another key, or see to it that it is never done.

        Args:
            key: Idempotency key of this call.
            of: Key of the operation to undo.

        Returns:
            The entry: `applied` with the reverse effect; `tombstone` when `of` was never seen; `unneeded` when there is
            nothing (left) to undo; `refused` when it cannot be undone.

        Raises:
            KeyConflict: The key belongs to another call.
        """

        def decide(sequence: int) -> Entry:
            outcome, effect = self._undo(of)
            return Entry(sequence=sequence, key=key, op=VOID, outcome=outcome, request=fields, effect=effect)

        if key == of:
            raise KeyConflict(f"key {key!r} cannot void itself: give the void a key of its own")
        fields: dict[str, JsonValue] = {"key": of}
        return self._once(VOID, key, fields, decide)

    def find(self, key: str) -> Entry | None:
        """The entry that the first call under the key made; None when there was none."""
        return self._by_key.get(key)

    def voided_by(self, key: str) -> str | None:
        """Key of the void that undid this key or keeps it from being done; None when there is none."""
        return self._voided_by.get(key)

    def _once(self, op: str, key: str, fields: dict[str, JsonValue], decide: Callable[[int], Entry]) -> Entry:
        first = self._by_key.get(key)
        if first is not None:
            if (first.op, first.request) != (op, fields):
                raise KeyConflict(
                    f"key {key!r} was first used for {first.op} {first.request}, now for {op} {fields}: "
                    "use a new key for a new operation"
                )
            return first
        if key in self._voided_by:
            raise Voided(f"{op} under key {key!r} was voided by {self._voided_by[key]!r} before it arrived")
        sequence = len(self.entries) + 1
        try:
            entry = decide(sequence)
        except Refused as no:
            entry = Entry(sequence=sequence, key=key, op=op, outcome=Outcome.REFUSED, request=fields, reason=no.reason)
        self._log.append(entry.model_dump_json(exclude_none=True))
        self._fold(entry)
        return entry

    def _undo(self, of: str) -> tuple[Outcome, Effect | None]:
        done = self._by_key.get(of)
        if of in self._voided_by or (done is not None and done.outcome is Outcome.REFUSED):
            return Outcome.UNNEEDED, None
        if done is None:
            return Outcome.TOMBSTONE, None
        if done.op == VOID:
            raise Refused(f"key {of!r} is itself a void, which cannot be undone")
        return Outcome.APPLIED, self._participant.reverse(done)

    def _fold(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._by_key[entry.key] = entry
        if entry.effect is not None:
            self._participant.evolve(entry.key, entry.effect)
        if entry.op == VOID and entry.outcome in (Outcome.APPLIED, Outcome.TOMBSTONE):
            self._voided_by[str(entry.request["key"])] = entry.key
