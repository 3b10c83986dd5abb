"""Apply each operation once per idempotency key, and keep its answer on disk.

The books are a small database. In one transaction `amends.Inbox` looks the key up, the participant decides, and the
entry is written; so a crash leaves both key and entry, or neither. A committed entry becomes state, and is then copied
to the log, a readable file; if a crash cut off a copy, the next start completes it. Only then
does the caller hear of it. The participant's state is a fold over the entries, live and after a restart alike. The
rules for a key:

- the same call again gets the first entry again, a refusal included; nothing is written;
- another call under the same key is a conflict;
- `void` reverses an applied operation once, whatever the number of voids; voiding a key that was never seen leaves a
  tombstone, and the operation that arrives too late is refused.

HTTP is not here (`service`), nor the meaning of the operations (`payment`, `shipping`, the bank).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, create_engine, select

from amends import Answer, Inbox, KeyConflictError, Rejected
from services.line_log import LineLog, LineLogError

__all__ = ["VOID", "Call", "Effect", "Entry", "KeyConflict", "Ledger", "Outcome", "Participant", "Refused", "Voided"]

VOID = "void"
"""Name of the operation that every participant has."""

Effect = dict[str, str]
"""A change, as flat text; the participant folds it by its `type`."""


class Refused(Rejected):
    """The participant refuses, and nothing changed; the reason is remembered under the key."""


class KeyConflict(Exception):  # noqa: N818 - an answer
    """The key was used before, for something else; nothing changed."""


class Voided(Exception):  # noqa: N818 - an answer
    """The key was voided before its operation arrived; nothing changed, and nothing will."""


class Outcome(StrEnum):
    """The outcome of a call; only `APPLIED` changed anything."""

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
        outcome: Its outcome.
        request: The call's body, normalised, with defaults filled in.
        effect: The change; present when the outcome is `applied`.
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
        sequence: Place that the entry will have; unique, so an id may contain it.
        request: The body, an instance of the operation's model.
    """

    op: str
    key: str
    sequence: int
    request: BaseModel


class Participant(Protocol):
    """A business: decides the change of a call, and folds changes into its state. It does no I/O."""

    @property
    def name(self) -> str:
        """The name of the service in messages."""

    @property
    def view(self) -> str:
        """Path at which the state is shown, without slash."""

    @property
    def operations(self) -> Mapping[str, type[BaseModel]]:
        """The model of the body by name of the operation, `void` excepted."""

    def decide(self, call: Call) -> Effect:
        """Return the change that the call makes, without making it.

        Raises:
            Refused: It changes nothing.
        """

    def reverse(self, done: Entry) -> Effect:
        """Return the change that undoes an applied entry, in the present state.

        Raises:
            Refused: It cannot be undone (any more).
        """

    def evolve(self, key: str, effect: Effect) -> None:
        """Fold a change into the state; it was decided before, so this cannot fail."""

    def snapshot(self) -> Mapping[str, JsonValue]:
        """The state as JSON."""


BOOKS = MetaData()
ENTRIES = Table(
    "entries", BOOKS, Column("sequence", Integer(), primary_key=True), Column("entry", Text(), nullable=False)
)
# Nothing is ever purged here: these books are small. A service that grows calls `INBOX.purge` regularly.
INBOX = Inbox(BOOKS, retention=timedelta(days=90))


class Ledger:
    """Keeps a participant's entries, and puts its state back together from them.

    Args:
        log: Where entries can be read; the database `books.db` is next to it. One process at a time.
        participant: The business, in its initial state.

    Attributes:
        entries: All of them, oldest first.

    Raises:
        LineLogError: The log holds something that no ledger wrote, or that the books do not have.
    """

    def __init__(self, log: LineLog, participant: Participant) -> None:
        self._log = log
        self._participant = participant
        self._by_key: dict[str, Entry] = {}
        self._voided_by: dict[str, str] = {}
        self.entries: list[Entry] = []
        path = log.path.with_name("books.db")
        path.touch(mode=0o600)
        self._books = create_engine(f"sqlite:///{path}")
        with self._books.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        BOOKS.create_all(self._books)
        with self._books.connect() as connection:
            booked = list(connection.scalars(select(ENTRIES.c.entry).order_by(ENTRIES.c.sequence)))
        _check_copy(log, booked)
        for line in booked:
            self._fold(Entry.model_validate_json(line))
        for line in booked[len(log.lines) :]:
            log.append(line)

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
        fields: dict[str, JsonValue] = request.model_dump(mode="json")
        with self._writing(op, key, fields) as (connection, new):

            def apply() -> None:
                new(Outcome.APPLIED, effect=self._participant.decide(Call(op, key, self._next, request)))

            answer = INBOX.do(connection, key, op, fields, apply)
            if answer.outcome == "refused" and not answer.repeated:
                new(Outcome.REFUSED, reason=answer.reason)
        return self._entry(op, key, answer)

    def void(self, key: str, of: str) -> Entry:
        """Undo the operation of another key, or keep it from ever being applied.

        Args:
            key: Idempotency key of this call.
            of: Key of the operation to undo.

        Returns:
            The entry: `applied` with the reverse effect; `tombstone` when `of` was never seen; `unneeded` when there is
            nothing (left) to undo; `refused` when it cannot be undone.

        Raises:
            KeyConflict: The key belongs to another call.
            Voided: The key was itself voided before it was seen.
        """
        if key == of:
            raise KeyConflict(f"key {key!r} cannot void itself: give the void a key of its own")
        with self._writing(VOID, key, {"key": of}) as (connection, new):

            def reverse(_result: object) -> str:
                done = self._by_key[of]
                if done.op == VOID:
                    raise Refused(f"key {of!r} is itself a void, which cannot be undone")
                new(Outcome.APPLIED, effect=self._participant.reverse(done))
                return "reversed"

            seen = of in self._by_key or of in self._voided_by
            answer = INBOX.undo(connection, key, of, reverse, operation=VOID)
            if answer.outcome == "refused" and not answer.repeated:
                new(Outcome.REFUSED, reason=answer.reason)
            elif answer == Answer("done", operation=VOID):
                new(Outcome.UNNEEDED if seen else Outcome.TOMBSTONE)
        return self._entry(VOID, key, answer)

    def find(self, key: str) -> Entry | None:
        """The entry that the first call under the key made; None when there was none."""
        return self._by_key.get(key)

    def voided_by(self, key: str) -> str | None:
        """Key of the void that undid this key or keeps it from being done; None when there is none."""
        return self._voided_by.get(key)

    @property
    def _next(self) -> int:
        return len(self.entries) + 1

    @contextmanager
    def _writing(
        self, op: str, key: str, fields: dict[str, JsonValue]
    ) -> Iterator[tuple[Connection, Callable[..., None]]]:
        """Open the books for one call; a committed entry becomes state, and is in the log then."""
        entered: list[Entry] = []

        def new(outcome: Outcome, *, effect: Effect | None = None, reason: str | None = None) -> None:
            entry = Entry(
                sequence=self._next, key=key, op=op, outcome=outcome, request=fields, effect=effect, reason=reason
            )
            connection.execute(ENTRIES.insert().values(sequence=entry.sequence, entry=_line(entry)))
            entered.append(entry)

        try:
            with self._books.begin() as connection:
                yield connection, new
        except KeyConflictError as error:
            raise KeyConflict(str(error)) from error
        for entry in entered:
            self._fold(entry)
            self._log.append(_line(entry))

    def _entry(self, op: str, key: str, answer: Answer) -> Entry:
        """The entry of a key that was answered; an operation that was voided later keeps its entry."""
        if answer.operation is None:
            raise Voided(f"{op} under key {key!r} was voided by {answer.cancelled_by!r} before it arrived")
        return self._by_key[key]

    def _fold(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._by_key[entry.key] = entry
        if entry.effect is not None:
            self._participant.evolve(entry.key, entry.effect)
        if entry.op == VOID and entry.outcome in (Outcome.APPLIED, Outcome.TOMBSTONE):
            self._voided_by[str(entry.request["key"])] = entry.key


def _line(entry: Entry) -> str:
    return entry.model_dump_json(exclude_none=True)


def _check_copy(log: LineLog, booked: list[str]) -> None:
    """Refuse a log that is not the beginning of the books."""
    for number, line in enumerate(log.lines, start=1):
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError as error:
            raise LineLogError(f"{log.path} line {number} is not a ledger entry: {line[:80]!r}") from error
        if entry.sequence != number:
            raise LineLogError(f"{log.path} line {number} has sequence {entry.sequence}: a line is missing")
        if number > len(booked) or line != booked[number - 1]:
            raise LineLogError(
                f"{log.path} line {number} is not in the books: keep the log and books.db together, or remove both"
            )
