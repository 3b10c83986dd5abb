"""What a participant remembers of an idempotency key, and what follows from it when the key comes again.

The rules are here, without I/O; `inbox.sql` keeps the records in the participant's own database. A key is in one of
four states:

| recorded | a call under the key | its undo |
|---|---|---|
| nothing | is done, or refused | leaves a tombstone: cancelled |
| done | gets the recorded result | takes it back: cancelled |
| refused | gets the recorded reason | has nothing to take back |
| cancelled | is told so, and is never done | has nothing to take back |

No arrow leads out of refused and cancelled, and none back to nothing but the end of the retention.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import JsonValue

from amends.aggregates.errors import InputError, KeyConflictError
from amends.aggregates.text import shorten
from amends.aggregates.values.strict_json import difference, json_bytes

__all__ = ["Answer", "Outcome", "Recorded", "answer_again", "check_key", "content_text"]

Outcome = Literal["done", "refused", "cancelled"]

MAX_KEY_BYTES = 2_000
"""Longest key in bytes of UTF-8: what an index of PostgreSQL holds, with room; keys of sagas take about half of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the operation under a key; the same for every call under it.

    Attributes:
        outcome: `done`: it took effect, and that stands. `refused`: the participant said no. `cancelled`: it has no
            effect and never will, because it was undone, before or after it arrived, or because its key was closed.
        result: What was returned when it was done, as JSON; kept when it was undone later. `None` otherwise.
        reason: Why it was refused; `None` otherwise.
        operation: Name of the operation; `None` when it has never arrived.
        cancelled_by: Key of the undo that cancelled it; `None` when there was none.
        repeated: Whether this call only found what was recorded before it.
    """

    outcome: Outcome
    result: Any = None
    reason: str | None = None
    operation: str | None = None
    cancelled_by: str | None = None
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """One key's record, as a row of the table holds it.

    Attributes:
        key: The key.
        outcome: As in `Answer`; `open` within the transaction that does the operation, and in no other.
        operation: Name of the operation; `None` for a tombstone.
        content: Canonical JSON of what was asked; `None` for a tombstone.
        result: Canonical JSON of the result; `None` when there is none.
        reason: Why it was refused.
        cancelled_by: Key of the undo.
    """

    key: str
    outcome: Outcome | Literal["open"]
    operation: str | None
    content: str | None
    result: str | None
    reason: str | None
    cancelled_by: str | None

    def answer(self, *, repeated: bool) -> Answer:
        """Give the answer that is recorded.

        Raises:
            InputError: The transaction that does the operation was committed before its result was recorded, or the
                operation was called from within itself.
        """
        if self.outcome == "open":
            raise InputError(
                f"key {shorten(self.key)} has no result: its operation committed by itself, or calls itself; leave the "
                f"commit to the caller of Inbox.do, and delete this row by hand once its effect is known"
            )
        return Answer(
            self.outcome,
            None if self.result is None else json.loads(self.result),
            self.reason,
            self.operation,
            self.cancelled_by,
            repeated,
        )


def answer_again(recorded: Recorded, operation: str, content: str) -> Answer:
    """Answer a call under a key that has a record.

    Args:
        recorded: The key's record.
        operation: What is asked for now.
        content: Canonical JSON of it.

    Raises:
        KeyConflictError: Another operation or content was asked for the first time; the message shows the difference.
        InputError: As for `Recorded.answer`.
    """
    if recorded.operation is not None and recorded.content is not None:
        found = []
        if recorded.operation != operation:
            found.append(f"operation: first call {shorten(recorded.operation)}, now {shorten(operation)}")
        if recorded.content != content:
            found += difference(json.loads(recorded.content), json.loads(content), first="first call")
        if found:
            raise KeyConflictError(
                f"key {shorten(recorded.key)} was used for something else ({'; '.join(found)}); "
                f"a new operation needs a new key"
            )
    return recorded.answer(repeated=True)


def check_key(key: str) -> None:
    """Refuse a key that cannot be kept.

    Raises:
        InputError: It is empty, longer than 2,000 bytes, or not text that a database can store.
    """
    if not key or "\0" in key:
        raise InputError(f"idempotency key {shorten(key)}: give text that is not empty and has no NUL")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InputError(f"idempotency key {shorten(key)} has a lone surrogate, which is not text") from None
    if size > MAX_KEY_BYTES:
        raise InputError(f"idempotency key {shorten(key)} has {size} bytes, at most {MAX_KEY_BYTES}; use a hash of it")


def content_text(value: object, what: str) -> str:
    """Write what is to be recorded as canonical JSON.

    Raises:
        InputError: It is not JSON; the message begins with `what` and names the place.
    """
    return json_bytes(cast("JsonValue", value), what).decode()
