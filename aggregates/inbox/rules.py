"""Rules of the Inbox: the states of an idempotency key, and the answer when a key comes again. Pure.

`inbox.sql` keeps the records in the participant's own database. A key is in one of four states:

| recorded | a call under the key | its undo |
|---|---|---|
| nothing | is carried out, or refused | leaves a tombstone: cancelled |
| done | gets the recorded result | reverses the operation: cancelled |
| refused | gets the recorded reason | has nothing to reverse |
| cancelled | gets that answer, and is never carried out | has nothing to reverse |

A key never leaves the states refused and cancelled, and returns to nothing only when its retention ends.
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
"""Longest key in bytes of UTF-8. An index of PostgreSQL takes somewhat more; keys of sagas need about half."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of the operation under a key; it is the same for every call under the key.

    Attributes:
        outcome: `done`: it took effect, and the effect stands. `refused`: the participant refused it. `cancelled`: it
            has no effect and never will, because it was undone, before or after it arrived, or its key was closed.
        result: Its result as JSON, if it took effect, even if it was undone later. `None` otherwise.
        reason: The reason of a refusal; `None` otherwise.
        operation: Name of the operation; `None` if it has never arrived.
        cancelled_by: Key of the undo that cancelled it; `None` if there was none.
        repeated: Whether this call only found the record of an earlier one.
    """

    outcome: Outcome
    result: Any = None
    reason: str | None = None
    operation: str | None = None
    cancelled_by: str | None = None
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """One key's record: a row of the table.

    Attributes:
        key: The key.
        outcome: As in `Answer`; `open` within the transaction that runs the operation, and in no other.
        operation: Name of the operation; `None` for a tombstone.
        content: Canonical JSON of the request; `None` for a tombstone.
        result: Canonical JSON of the result; `None` when there is none.
        reason: The reason of a refusal.
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
        """Return the recorded answer.

        Raises:
            InputError: The transaction of the operation was committed before its result was recorded, or the operation
                called itself.
        """
        if self.outcome == "open":
            raise InputError(
                f"key {shorten(self.key)} has no result: its operation committed on its own, or calls itself; "
                f"let the caller of Inbox.do commit, and delete this row by hand once its effect is known"
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
    """Return the answer to a call under a key that has a record.

    Args:
        recorded: The key's record.
        operation: Name of the operation in this call.
        content: Canonical JSON of this call's request.

    Raises:
        KeyConflictError: The first call had another operation or content; the message shows the difference.
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
                f"key {shorten(recorded.key)} was used for another operation ({'; '.join(found)}); use a new key"
            )
    return recorded.answer(repeated=True)


def check_key(key: str) -> None:
    """Check that a key can be stored.

    Raises:
        InputError: The key is empty, longer than 2,000 bytes, or not text that a database can store.
    """
    if not key or "\0" in key:
        raise InputError(f"idempotency key {shorten(key)} is empty or has a NUL character; use text without NUL")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InputError(f"idempotency key {shorten(key)} has a lone surrogate; use valid Unicode text") from None
    if size > MAX_KEY_BYTES:
        raise InputError(
            f"idempotency key {shorten(key)} has {size} bytes, the limit is {MAX_KEY_BYTES}; use a hash of the key"
        )


def content_text(value: object, what: str) -> str:
    """Return a value that is to be recorded as canonical JSON.

    Raises:
        InputError: The value is not JSON; the message begins with `what` and names the place.
    """
    return json_bytes(cast("JsonValue", value), what).decode()
