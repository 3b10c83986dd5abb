"""The Inbox: makes a participant idempotent, in the participant's own database and transaction.

A participant is a service that sagas call over a network. A call may come twice, after its undo, or after its caller
has given up; only the participant can tell, by the call's idempotency key. The Inbox is one table beside the service's
own tables. What a key stands for is recorded in the transaction that does it, so a crash leaves both or neither. It
needs SQLAlchemy and a database (SQLite or PostgreSQL), and knows nothing of sagas, Temporal or the journal.

How calls under one key wait for each other: the first statement of each inserts the key's row, and the unique index
lets one through. On PostgreSQL the others wait there until its transaction has ended, and then find its result, or do
the operation themselves if it was rolled back. At `REPEATABLE READ` and above they fail instead (a serialisation error)
and may be repeated. On SQLite there is one writer at a time anyway; the others wait as long as the engine's timeout
says, and then fail with "database is locked", having done nothing.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, Column, Index, MetaData, String, Table, Text, delete, exc, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from amends.aggregates.errors import InputError, Rejected
from amends.aggregates.inbox.rules import Answer, Outcome, Recorded, answer_again, check_key, content_text
from amends.aggregates.text import shorten
from amends.aggregates.values.strict_json import clean_text

__all__ = ["Inbox"]

MAX_PURGED = 10_000
"""Most keys that one purge forgets; each is a parameter of its statement, and SQLite takes 32,766 of them."""

_INSERT: dict[str, Callable[[Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


class Inbox:
    """One table that remembers what was done under which idempotency key, and what must not be done any more.

    Every method works in the transaction of the connection or session that it is given, and never commits: what it
    records is committed together with the service's own changes, and an answer holds only when that commit has
    succeeded, so commit first and reply then. A commit that fails leaves open what was stored; the same call again
    finds out. Call the Inbox before anything else in the transaction is read, since SQLite refuses to write after
    reading what somebody else has changed meanwhile. With an async engine use `await connection.run_sync(...)`.

    Keys are compared as they are: where callers choose their keys themselves, put the caller's name in front.

    Args:
        metadata: The service's own; the table is added to it and created like its others.
        retention: How long a key is remembered at least. A call that comes later is done again, and an undo that comes
            later undoes nothing, so it must be longer than the time from a caller's first call under a key to its last
            one or its undo; see `amends.longest_span`.
        table_name: Name of the table; one service may have several.
        schema: Schema of the table; `None` for the metadata's.
        clock: Gives the time in seconds since the epoch; what is recorded is dated by it.

    Attributes:
        table: The table, for the service's own migrations.
        retention: As given.

    Raises:
        InputError: The retention is not more than zero.

    Example:
        >>> from datetime import timedelta
        >>> from sqlalchemy import MetaData, create_engine
        >>> metadata = MetaData()
        >>> inbox = Inbox(metadata, retention=timedelta(days=90))
        >>> engine = create_engine("sqlite://")
        >>> metadata.create_all(engine)
        >>> def charge():
        ...     print("charging")
        ...     return {"payment": "p-1"}
        >>> for _ in range(2):
        ...     with engine.begin() as connection:
        ...         answer = inbox.do(connection, "order-7/charge/do/0", "charge", {"amount": "9.90"}, charge)
        ...     print(answer.outcome, answer.result)
        charging
        done {'payment': 'p-1'}
        done {'payment': 'p-1'}
    """

    def __init__(
        self,
        metadata: MetaData,
        *,
        retention: timedelta,
        table_name: str = "amends_inbox",
        schema: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if retention <= timedelta(0):
            raise InputError(f"Inbox(retention={retention}): give a timedelta longer than any caller's retries")
        self.retention = retention
        self._clock = clock
        self.table = Table(
            table_name,
            metadata,
            Column("key", Text(), primary_key=True),
            Column("outcome", String(10), nullable=False),
            Column("operation", Text(), nullable=True),
            Column("content", Text(), nullable=True),
            Column("result", Text(), nullable=True),
            Column("reason", Text(), nullable=True),
            Column("cancelled_by", Text(), nullable=True),
            Column("changed_ms", BigInteger(), nullable=False),
            Index(f"{table_name}_changed", "changed_ms"),
            schema=schema,
        )
        columns = self.table.c
        self._columns = (
            columns.key,
            columns.outcome,
            columns.operation,
            columns.content,
            columns.result,
            columns.reason,
            columns.cancelled_by,
        )

    def do(
        self, bind: Connection | Session, key: str, operation: str, content: object, work: Callable[[], object]
    ) -> Answer:
        """Do an operation once, however often it is asked for.

        Args:
            bind: Connection or session in the transaction that `work` writes to.
            key: The call's idempotency key.
            operation: Name of the operation, such as `charge`.
            content: What is asked for, as JSON data and as the caller sent it: defaults filled in here would make the
                same call another one after a deploy that adds a field.
            work: Does it, through `bind` alone, and gives the result as JSON. It neither commits nor rolls back. It
                may raise `Rejected` to say no: its changes are undone and the no is recorded. Any other exception
                undoes its changes, leaves the key free and is passed on.

        Returns:
            What became of it, now or the first time.

        Raises:
            KeyConflictError: The key belongs to another operation or content; nothing was done.
            InputError: Key, content or result cannot be recorded, or the connection commits every statement by itself.
        """
        check_key(key)
        asked = content_text(content, f"content of {operation} under key {shorten(key)}")
        connection = _connection_of(bind)
        found = self._claim(connection, key, "open", operation, asked)
        if found is not None:
            return answer_again(found, operation, asked)
        return self._first(bind, connection, key, operation, work)

    def undo(
        self,
        bind: Connection | Session,
        key: str,
        of: str,
        work: Callable[[Any], object],
        *,
        operation: str = "undo",
    ) -> Answer:
        """Take back what was done under another key, or see to it that it is never done.

        Args:
            bind: As for `do`.
            key: Idempotency key of the undo itself.
            of: Key of the operation that is undone; it answers `cancelled` from now on, also when it arrives later.
            work: Takes it back; called with the recorded result, and only when the operation was done and stands. It
                may raise `Rejected` when that is not possible any more: then the operation stands.
            operation: Name of the undo.

        Returns:
            What became of the undo: `done`, with the result of `work`, or with `None` when there was nothing to take
            back; `refused`; or `cancelled`, if it was undone itself.

        Raises:
            KeyConflictError: The key belongs to another operation or to the undo of another key.
            InputError: As for `do`; or both keys are the same.
        """
        check_key(key)
        check_key(of)
        if key == of:
            raise InputError(f"key {shorten(key)} cannot undo itself; give the undo a key of its own")
        asked = content_text({"of": of}, "content")
        connection = _connection_of(bind)
        found = self._claim(connection, key, "open", operation, asked)
        if found is not None:
            return answer_again(found, operation, asked)

        def take_back() -> object:
            target = self._claim(connection, of, "cancelled", None, None, cancelled_by=key)
            if target is None or target.answer(repeated=True).outcome != "done":
                return None
            result = work(target.answer(repeated=True).result)
            self._change(connection, of, outcome="cancelled", cancelled_by=key)
            return result

        return self._first(bind, connection, key, operation, take_back)

    def settle(self, bind: Connection | Session, key: str) -> Answer:
        """Tell what became of an operation, and if nothing did, close its key, so that nothing ever will.

        This is what a probe should ask. An operation that is on its way while it is looked for would take effect after
        the answer "it did not happen"; `settle` waits for one that is being done, and refuses one that arrives later.

        Args:
            bind: As for `do`; commit before you reply.
            key: Key of the operation.

        Returns:
            What became of it; `cancelled` when it had not arrived.

        Raises:
            InputError: The key cannot be one, or the connection commits every statement by itself.
        """
        check_key(key)
        found = self._claim(_connection_of(bind), key, "cancelled", None, None)
        return Answer("cancelled") if found is None else found.answer(repeated=True)

    def find(self, bind: Connection | Session, key: str) -> Answer | None:
        """Look a key up, without any promise for the future: `None` may be wrong as soon as it is returned.

        For people and monitoring; what compensates or retries by the answer should `settle` instead.
        """
        check_key(key)
        found = self._read(_connection_of(bind), key, lock=False)
        return None if found is None else found.answer(repeated=True)

    def purge(self, bind: Connection | Session, *, older_than: timedelta | None = None, limit: int = 1000) -> int:
        """Forget keys that have not changed for longer than the retention, oldest first.

        Call it regularly until it returns 0, each time in a transaction of its own, so that no lock is held for long.

        Args:
            bind: As for `do`.
            older_than: Age of what is forgotten; `None` for the retention, and not less than it.
            limit: Most keys to forget in one call, 1 to 10,000.

        Returns:
            How many keys were forgotten.

        Raises:
            InputError: `older_than` is shorter than the retention, or `limit` is out of range.
        """
        age = self.retention if older_than is None else older_than
        if age < self.retention:
            raise InputError(
                f"purge(older_than={age}): callers may rely on the retention of {self.retention}; give a longer age"
            )
        if not 1 <= limit <= MAX_PURGED:
            raise InputError(f"purge(limit={limit}): give 1 to {MAX_PURGED}")
        columns = self.table.c
        # Keys that are being undone right now are in use: whoever locked them changes their age.
        old = (
            select(columns.key)
            .where(columns.changed_ms < self._now_ms() - age // timedelta(milliseconds=1))
            .order_by(columns.changed_ms)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        connection = _connection_of(bind)
        keys = connection.scalars(old).all()
        if keys:
            connection.execute(delete(self.table).where(columns.key.in_(keys)))
        return len(keys)

    def _first(
        self,
        bind: Connection | Session,
        connection: Connection,
        key: str,
        operation: str,
        work: Callable[[], object],
    ) -> Answer:
        """Do what the key was claimed for, and record what became of it."""
        transaction = connection.get_transaction()
        try:
            try:
                with bind.begin_nested():
                    result = content_text(work(), f"result of {operation} under key {shorten(key)}")
            except Rejected as no:
                return self._record(connection, key, operation, outcome="refused", reason=clean_text(no.reason))
            return self._record(connection, key, operation, outcome="done", result=result)
        except BaseException:
            # Whoever catches this and commits all the same must find the key free. If `work` has committed by itself,
            # though, nobody knows what was done, and the open row stays to say so.
            if transaction is not None and transaction.is_active:
                with suppress(exc.SQLAlchemyError):
                    connection.execute(delete(self.table).where(self.table.c.key == key))
            raise

    def _record(
        self,
        connection: Connection,
        key: str,
        operation: str,
        *,
        outcome: Outcome,
        result: str | None = None,
        reason: str | None = None,
    ) -> Answer:
        self._change(connection, key, outcome=outcome, result=result, reason=reason)
        return Recorded(key, outcome, operation, None, result, reason, None).answer(repeated=False)

    def _claim(
        self,
        connection: Connection,
        key: str,
        outcome: str,
        operation: str | None,
        content: str | None,
        *,
        cancelled_by: str | None = None,
    ) -> Recorded | None:
        """Make the key's row and return `None`, or give the row that is there, locked until the transaction ends."""
        insert = _INSERT.get(connection.dialect.name)
        if insert is None:
            raise InputError(f"Inbox on {connection.dialect.name}: not supported; use SQLite or PostgreSQL")
        row = {
            "key": key,
            "outcome": outcome,
            "operation": operation,
            "content": content,
            "cancelled_by": cancelled_by,
            "changed_ms": self._now_ms(),
        }
        statement = insert(self.table).values(row).on_conflict_do_nothing(index_elements=["key"])
        # Without this SQLAlchemy does not say how many rows an insert has made on PostgreSQL.
        statement = statement.execution_options(preserve_rowcount=True)
        while True:
            if connection.execute(statement).rowcount == 1:
                self._refuse_autocommit(connection, key)
                return None
            found = self._read(connection, key, lock=True)
            if found is not None:
                return found
            # It was forgotten between the two statements.

    def _read(self, connection: Connection, key: str, *, lock: bool) -> Recorded | None:
        statement = select(*self._columns).where(self.table.c.key == key)
        row = connection.execute(statement.with_for_update() if lock else statement).one_or_none()
        return None if row is None else Recorded(*row)

    def _change(self, connection: Connection, key: str, **values: str | None) -> None:
        statement = update(self.table).where(self.table.c.key == key)
        connection.execute(statement.values(**values, changed_ms=self._now_ms()))

    def _refuse_autocommit(self, connection: Connection, key: str) -> None:
        driver = connection.connection.dbapi_connection
        # Newer versions of `sqlite3` have an `autocommit` too, which is -1 where a transaction is begun as needed.
        if getattr(driver, "autocommit", False) is True or not getattr(driver, "in_transaction", True):
            connection.execute(delete(self.table).where(self.table.c.key == key))
            raise InputError(
                "Inbox: the connection commits every statement by itself (AUTOCOMMIT), so a key and its effect would "
                "not be recorded together; give it one that begins transactions"
            )

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _connection_of(bind: Connection | Session) -> Connection:
    return bind.connection() if isinstance(bind, Session) else bind
