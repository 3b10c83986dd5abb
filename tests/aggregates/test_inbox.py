"""The Inbox on both databases: once per key, in any order and after any crash, for as long as was stated."""

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import bounds
import pytest
from bounds import HANG_S
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from property_parts import try_out
from sqlalchemy import BigInteger, Column, Engine, Integer, MetaData, Table, Text, create_engine, delete, func, select
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from amends import Answer, Inbox, InputError, KeyConflictError, Rejected

DAY = timedelta(days=1)
PRICE = {"amount": "9.90"}


class Service:
    """A participant: each effect is a row in `effects`; its clock stands still until a test advances it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.now_s = 0.0
        metadata = MetaData()
        self.inbox = Inbox(metadata, retention=DAY, clock=lambda: self.now_s)
        serial = BigInteger().with_variant(Integer(), "sqlite")
        self.effects = Table(
            "effects", metadata, Column("id", serial, primary_key=True), Column("key", Text(), nullable=False)
        )
        metadata.create_all(engine)

    def do(
        self, key: str, content: object = PRICE, *, operation: str = "charge", raises: Exception | None = None
    ) -> Answer:
        """Act, then perhaps raise, in one transaction of its own."""
        with self.engine.begin() as connection:
            return self.inbox.do(
                connection, key, operation, content, lambda: self._take_effect(connection, key, raises)
            )

    def _take_effect(self, connection: Connection, key: str, raises: Exception | None) -> object:
        connection.execute(self.effects.insert().values(key=key))
        if raises is not None:
            raise raises
        return {"charged": key}

    def undo(self, key: str, of: str, *, raises: Exception | None = None) -> Answer:
        """Remove the effect."""

        def take_back(done: dict[str, str]) -> object:
            removed = connection.execute(delete(self.effects).where(self.effects.c.key == done["charged"])).rowcount
            assert removed == 1, f"the effect of {of} was taken back {removed} times"
            if raises is not None:
                raise raises
            return {"refunded": done["charged"]}

        with self.engine.begin() as connection:
            return self.inbox.undo(connection, key, of, take_back)

    def settle(self, key: str) -> Answer:
        """Settle the key for good."""
        with self.engine.begin() as connection:
            return self.inbox.settle(connection, key)

    def find(self, key: str) -> Answer | None:
        """Find the key's outcome."""
        with self.engine.begin() as connection:
            return self.inbox.find(connection, key)

    def purge(self, limit: int = 1000) -> int:
        """Purge old keys."""
        with self.engine.begin() as connection:
            return self.inbox.purge(connection, limit=limit)

    def rule_state(self) -> list[str]:
        """Return the keys of the existing effects."""
        with self.engine.begin() as connection:
            return sorted(connection.scalars(select(self.effects.c.key)))

    def remembered(self) -> int:
        """Return the number of remembered keys."""
        with self.engine.begin() as connection:
            return connection.scalar(select(func.count()).select_from(self.inbox.table)) or 0


def engine_at(url: str) -> Engine:
    """Create an engine as a service would, patient enough for a slow machine."""
    return create_engine(url, connect_args={"timeout": 30} if url.startswith("sqlite") else {})


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return one database of each kind for all tests, as creating one is slow; it is not one of the store's."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('inbox') / 'service.db'}"
    server: str = request.getfixturevalue("postgres_server")
    return server.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture
def service(url: str) -> Iterator[Service]:
    """Return a participant with empty tables, once on each database."""
    service = Service(engine_at(url))
    yield service
    service.inbox.table.metadata.drop_all(service.engine)
    service.engine.dispose()


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Start the calls at the same moment, each in a separate thread, and wait for all answers."""
    barrier = threading.Barrier(len(calls))

    def call(function: Callable[[], Any]) -> object:
        barrier.wait()
        return function()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(call, calls))


# --- once ---


def test_the_same_call_again_gets_the_recorded_result(service: Service) -> None:
    """Every repetition of a call, in any notation of its numbers, gets the first result and changes nothing."""
    first = service.do("k", {"a": 1, "b": "x"})
    assert first == Answer("done", {"charged": "k"}, operation="charge")
    again = service.do("k", {"b": "x", "a": 1.0})
    assert again == Answer("done", {"charged": "k"}, operation="charge", repeated=True)
    assert service.find("k") == again
    assert service.settle("k") == again
    assert service.rule_state() == ["k"]


@pytest.mark.parametrize(
    ("operation", "content", "difference"),
    [
        ("charge", {"amount": "9.91"}, r"\(amount: first call '9.90', now '9.91'\)"),
        ("charge", {**PRICE, "tip": 1}, r"\(tip: first call absent, now 1\)"),
        ("refund", PRICE, r"\(operation: first call 'charge', now 'refund'\)"),
    ],
)
def test_another_call_under_a_used_key_is_a_conflict(
    service: Service, operation: str, content: object, difference: str
) -> None:
    """A key belongs to one operation and content; the error shows the difference, also after a refusal and an undo."""
    service.do("done")
    service.do("refused", raises=Rejected("no"))
    service.do("undone")
    service.undo("undo", "undone")
    for key in ("done", "refused", "undone"):
        with pytest.raises(KeyConflictError, match=rf"key '{key}' was used for another operation {difference}"):
            service.do(key, content, operation=operation)
    assert service.rule_state() == ["done"]


def test_a_no_stays_a_no(service: Service) -> None:
    """A refusal undoes the earlier writes, is recorded, and is repeated though the answer would be yes now."""
    refusal = service.do("k", raises=Rejected("card\0 declined"))
    assert refusal == Answer("refused", reason="card\N{REPLACEMENT CHARACTER} declined", operation="charge")
    assert service.do("k").outcome == "refused"
    assert service.do("k").reason == refusal.reason
    assert service.rule_state() == []


def test_any_other_failure_leaves_the_key_free(service: Service) -> None:
    """A bug or a lost connection is no answer: nothing is recorded, not even when the caller commits all the same."""
    with pytest.raises(OSError, match="disk"):
        service.do("k", raises=OSError("disk"))
    with service.engine.begin() as connection, pytest.raises(OSError, match="disk"):
        service.inbox.do(
            connection, "k", "charge", PRICE, lambda: service._take_effect(connection, "k", OSError("disk"))
        )
    with service.engine.begin() as connection, pytest.raises(InputError, match="result of charge under key 'k': <ob"):
        service.inbox.do(connection, "k", "charge", PRICE, object)
    assert (service.rule_state(), service.remembered()) == ([], 0)
    assert not service.do("k").repeated


def test_a_crash_between_effect_and_commit_leaves_neither(
    url: str, service: Service, request: pytest.FixtureRequest
) -> None:
    """After kill -9 in the middle of the transaction the same call is the first one."""
    crash = (
        "import os, signal, sys; sys.path[:0] = sys.argv[1:3]; from test_inbox import Service, engine_at\n"
        "service = Service(engine_at(sys.argv[3])); connection = service.engine.connect()\n"
        "service.inbox.do(connection, 'k', 'charge', {'amount': '9.90'}, "
        "lambda: service._take_effect(connection, 'k', None))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    folders = (request.path.parent, Path(bounds.__file__).parent)
    program = [sys.executable, "-P", "-c", crash, *map(str, folders), url]
    done = subprocess.run(program, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (service.rule_state(), service.remembered()) == ([], 0)
    assert not service.do("k").repeated


# --- undo ---


def test_undo_after_do_takes_back_once(service: Service) -> None:
    """The undo gets the recorded result; its repetition and another undo change nothing; the do answers cancelled."""
    service.do("k")
    assert service.undo("u", "k") == Answer("done", {"refunded": "k"}, operation="undo")
    assert service.undo("u", "k") == Answer("done", {"refunded": "k"}, operation="undo", repeated=True)
    assert service.undo("u2", "k") == Answer("done", operation="undo")
    late = service.do("k")
    assert late == Answer("cancelled", {"charged": "k"}, operation="charge", cancelled_by="u", repeated=True)
    assert service.rule_state() == []


def test_undo_before_do_refuses_the_late_do(service: Service) -> None:
    """A tombstone holds for good, for any content of the late call, and the undo's answer stays the same."""
    assert service.undo("u", "k") == Answer("done", operation="undo")
    for content in (PRICE, {"amount": "1"}):
        assert service.do("k", content) == Answer("cancelled", cancelled_by="u", repeated=True)
    assert service.undo("u", "k").repeated
    assert service.rule_state() == []


def test_a_refused_do_and_a_refused_undo(service: Service) -> None:
    """Undoing a refusal succeeds without an effect; a refused undo leaves the effect, for every later undo to try."""
    service.do("no", raises=Rejected("no"))
    assert service.undo("u1", "no") == Answer("done", operation="undo")
    assert service.do("no").outcome == "refused"
    service.do("k")
    assert service.undo("u2", "k", raises=Rejected("spent")) == Answer("refused", reason="spent", operation="undo")
    assert service.undo("u2", "k").outcome == "refused"
    assert (service.do("k").outcome, service.rule_state()) == ("done", ["k"])
    assert service.undo("u3", "k").result == {"refunded": "k"}


def test_an_undo_that_fails_leaves_everything_as_it_was(service: Service) -> None:
    """An exception in the undo records nothing, neither under its key nor under that of the do."""
    service.do("k")
    with pytest.raises(OSError, match="disk"):
        service.undo("u", "k", raises=OSError("disk"))
    assert (service.do("k").outcome, service.find("u"), service.rule_state()) == ("done", None, ["k"])
    assert service.undo("u", "k").result == {"refunded": "k"}


def test_an_undo_has_a_key_of_its_own(service: Service) -> None:
    """The key of an undo is bound to the key it undoes, and cannot be the same."""
    service.undo("u", "k")
    with pytest.raises(KeyConflictError, match="of: first call 'k', now 'other'"):
        service.undo("u", "other")
    with pytest.raises(InputError, match="key 'k' cannot undo itself"):
        service.undo("k", "k")
    assert service.find("other") is None


# --- the probe's race ---


def test_a_settled_no_stays_true(service: Service) -> None:
    """After a probe settled a key without an effect, no effect can happen under it."""
    assert service.find("k") is None
    assert service.settle("k") == Answer("cancelled")
    assert service.do("k") == Answer("cancelled", repeated=True)
    assert service.undo("u", "k") == Answer("done", operation="undo")
    assert service.rule_state() == []


def test_settling_waits_for_a_call_that_is_being_done(service: Service) -> None:
    """During the operation a find returns nothing, and a settle waits for the result instead of a premature refusal."""
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> Answer:
        with service.engine.begin() as connection:

            def work() -> object:
                inside.set()
                assert go_on.wait(HANG_S)
                return service._take_effect(connection, "k", None)

            return service.inbox.do(connection, "k", "charge", PRICE, work)

    with ThreadPoolExecutor(2) as threads:
        doing: Future[Answer] = threads.submit(slow)
        assert inside.wait(HANG_S)
        assert service.find("k") is None
        settling = threads.submit(service.settle, "k")
        # Whether it waits already or has not begun: it must not answer before the operation has ended.
        with pytest.raises(TimeoutError):
            settling.result(0.05)
        go_on.set()
        assert doing.result().outcome == settling.result().outcome == "done"
    assert service.rule_state() == ["k"]


def test_two_calls_at_once_are_one(service: Service) -> None:
    """Of many simultaneous calls under one key one acts, and the others get its result."""
    answers = together(*[lambda: service.do("k")] * 6)
    assert Counter(answer.repeated for answer in answers) == {False: 1, True: 5}
    assert {answer.outcome for answer in answers} == {"done"}
    assert [answer.result for answer in answers] == [{"charged": "k"}] * 6
    assert service.rule_state() == ["k"]


@pytest.mark.parametrize("number", range(4))
def test_do_undo_and_settle_at_once_agree(service: Service, number: int) -> None:
    """In every order the end is the same: after the undo no effect exists, and every answer fits one order."""
    keys = [f"{number}/{index}" for index in range(5)]
    for key in keys:
        done, undone, settled, undone2 = together(
            partial(service.do, key),
            partial(service.undo, f"{key}/u", key),
            partial(service.settle, key),
            partial(service.undo, f"{key}/u2", key),
        )
        took_back = [answer for answer in (undone, undone2) if answer.result is not None]
        assert len(took_back) == (done.outcome == "done")
        assert settled.outcome in (("done", "cancelled") if done.outcome == "done" else ("cancelled",))
        assert service.do(key).outcome == "cancelled"
    assert service.rule_state() == []


# --- the window ---


def test_a_key_is_remembered_for_the_retention_and_forgotten_after_it(service: Service) -> None:
    """Nothing younger than the retention is purged, an undo makes its key young again, and batches are limited."""
    for key in ("a", "b", "c", "undone"):
        service.do(key)
    service.now_s = DAY.total_seconds()
    assert service.purge() == 0
    service.undo("u", "undone")
    service.now_s += 1
    assert [service.purge(limit=2) for _ in range(3)] == [2, 1, 0]
    assert service.remembered() == 2
    assert service.do("undone").outcome == "cancelled"
    assert not service.do("a").repeated
    service.now_s += DAY.total_seconds() + 1
    assert service.purge() == 3
    assert service.rule_state() == ["a", "a", "b", "c"]


def test_calls_and_purges_at_once_do_not_disturb_each_other(service: Service) -> None:
    """A key that is purged while it is called again is simply new."""
    for number in range(10):
        service.do("old")
        service.now_s += DAY.total_seconds() + 1
        answer, _ = together(lambda: service.do("old"), service.purge)
        assert answer.outcome == "done"
        assert len(service.rule_state()) <= number + 2


def test_a_window_shorter_than_the_retention_is_refused(service: Service) -> None:
    """The retention that callers rely on cannot be shortened, nor left without a length."""
    with service.engine.begin() as connection:
        with pytest.raises(InputError, match="callers may rely on the retention of 1 day"):
            service.inbox.purge(connection, older_than=timedelta(hours=23))
        with pytest.raises(InputError, match="limit=0"):
            service.inbox.purge(connection, limit=0)
    with pytest.raises(InputError, match="give a timedelta longer than"):
        Inbox(MetaData(), retention=timedelta(0))


# --- whose transaction ---


class Base(DeclarativeBase):
    """Classes of a service that uses the ORM."""


class Charge(Base):
    """A row."""

    __tablename__ = "charges"
    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[str]


def test_a_session_works_like_a_connection(service: Service) -> None:
    """Pending changes of the ORM are part of the operation: flushed with a result, dropped with a refusal."""
    inbox, engine = service.inbox, service.engine
    Base.metadata.create_all(engine)

    def charge(amount: str) -> Answer:
        def work() -> object:
            session.add(Charge(amount=amount))
            if amount == "too much":
                raise Rejected(amount)
            return {"charged": amount}

        with Session(engine) as session, session.begin():
            return inbox.do(session, amount, "charge", {"amount": amount}, work)

    for _ in range(2):
        assert charge("5").outcome == "done"
        assert charge("too much").outcome == "refused"
    with Session(engine) as session:
        assert session.scalars(select(Charge.amount)).all() == ["5"]
    Base.metadata.drop_all(engine)


async def test_an_async_engine_uses_run_sync(postgres_url: str) -> None:
    """The Inbox needs no async twin: SQLAlchemy runs it within the async transaction."""
    service = Service(engine_at(postgres_url))
    engine = create_async_engine(postgres_url)
    for repeated in (False, True):
        async with engine.begin() as connection:
            answer = await connection.run_sync(
                lambda sync: service.inbox.do(sync, "k", "charge", PRICE, lambda: service._take_effect(sync, "k", None))
            )
        assert (answer.outcome, answer.repeated) == ("done", repeated)
    assert service.rule_state() == ["k"]
    await engine.dispose()
    service.engine.dispose()


def test_a_connection_that_commits_by_itself_is_refused(service: Service) -> None:
    """An autocommit connection is refused, as key and effect would be recorded apart; no row remains."""
    with (
        service.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(InputError, match="commits each statement on its own"),
    ):
        service.inbox.do(connection, "k", "charge", PRICE, lambda: service._take_effect(connection, "k", None))
    assert (service.rule_state(), service.remembered()) == ([], 0)


def test_an_operation_that_commits_by_itself_blocks_its_key(service: Service) -> None:
    """An operation that commits may have happened or not: its key stays unusable and the error names the reason."""

    def work() -> object:
        service._take_effect(connection, "k", None)
        connection.commit()
        raise OSError("too late")

    with service.engine.connect() as connection:
        with pytest.raises(OSError, match="too late"):
            service.inbox.do(connection, "k", "charge", PRICE, work)
        connection.commit()
    for ask in (service.do, service.find, service.settle):
        with pytest.raises(InputError, match="key 'k' has no result: its operation committed on its own"):
            ask("k")
    assert service.rule_state() == ["k"]


def test_a_stricter_isolation_level_fails_instead_of_doing_it_again(postgres_url: str) -> None:
    """A transaction whose snapshot is older than the recorded result must begin again, and then finds it."""
    strict = Service(create_engine(postgres_url, isolation_level="REPEATABLE READ"))
    with strict.engine.begin() as connection:
        connection.execute(select(strict.effects))
        strict.do("k")
        with pytest.raises(OperationalError, match="could not serialize access"):
            strict.inbox.settle(connection, "k")
        connection.rollback()
    assert strict.do("k").repeated
    assert strict.rule_state() == ["k"]
    strict.engine.dispose()


def test_what_is_rolled_back_was_never_recorded(service: Service) -> None:
    """The Inbox never commits: the caller's rollback includes the record, refusals and tombstones too."""
    with service.engine.connect() as connection:
        service.inbox.do(connection, "k", "charge", PRICE, lambda: service._take_effect(connection, "k", None))
        service.inbox.undo(connection, "u", "late", lambda _: None)
        service.inbox.settle(connection, "asked")
        connection.rollback()
    assert (service.rule_state(), service.remembered()) == ([], 0)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "idempotency key '' is empty"),
        ("a\0b", "idempotency key 'a.*b' is empty or has a NUL character"),
        ("\ud800", "has a lone surrogate"),
        ("é" * 1001, "has 2002 bytes, the limit is 2000"),
    ],
)
def test_a_key_that_cannot_be_kept_is_refused(service: Service, key: str, message: str) -> None:
    """Each kind of wrong key gives one clear line; the longest allowed key works on both databases."""
    for ask in (service.do, service.find, service.settle, lambda key: service.undo(key, "k")):
        with pytest.raises(InputError, match=message):
            ask(key)
    assert service.do("é" * 1000).outcome == "done"


def test_content_that_is_not_json_is_refused(service: Service) -> None:
    """Content that could not be compared later is refused."""
    with pytest.raises(InputError, match="content of charge under key 'k': amount: nan is not JSON"):
        service.do("k", {"amount": float("nan")})


def test_another_database_is_refused_by_name(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Inbox refuses every other dialect by name."""
    with service.engine.begin() as connection:
        monkeypatch.setattr(connection, "dialect", mysql.dialect())
        with pytest.raises(InputError, match="Inbox on mysql: not supported"):
            service.inbox.settle(connection, "k")


# --- against a model ---


class InboxMachine(RuleBasedStateMachine):
    """Compares any sequence of calls, undos, probes, waits and purges with a dictionary."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service
        with service.engine.begin() as connection:
            connection.execute(delete(service.effects))
            connection.execute(delete(service.inbox.table))
        # By key: outcome, content, time of its last change.
        self.model: dict[str, tuple[str, object, float]] = {}
        self.effects: list[str] = []

    keys = st.sampled_from(["a", "b", "c"])
    undo_keys = st.sampled_from(["u", "v"])
    errors = st.sampled_from([None, None, Rejected("no"), OSError("disk")])

    @rule(key=keys, content=st.sampled_from([1, 2]), error=errors)
    def do(self, key: str, content: int, error: Exception | None) -> None:
        """Call the operation."""
        known = self.model.get(key)
        try:
            answer = self.service.do(key, content, raises=error)
        except KeyConflictError:
            assert known is not None
            assert known[1] not in (None, content)
            return
        except OSError:
            assert known is None
            return
        if known is None:
            self.model[key] = ("refused" if error else "done", content, self.service.now_s)
            self.effects += [] if error else [key]
        assert answer.outcome == self.model[key][0]
        assert answer.repeated is (known is not None)

    @rule(key=undo_keys, of=keys, error=errors)
    def undo(self, key: str, of: str, error: Exception | None) -> None:
        """Undo one operation."""
        known, target = self.model.get(key), self.model.get(of)
        works = known is None and target is not None and target[0] == "done"
        # After a purge a key may stand for several effects; undoing one of them is outside of this model.
        if works and self.effects.count(of) != 1:
            return
        try:
            answer = self.service.undo(key, of, raises=error)
        except KeyConflictError:
            assert known is not None
            assert known[1] != of
            return
        except OSError:
            assert works
            return
        now = self.service.now_s
        if known is None:
            self.model[key] = ("refused" if works and error else "done", of, now)
            if target is None:
                self.model[of] = ("cancelled", None, now)
            elif works and not error:
                self.model[of] = ("cancelled", target[1], now)
                self.effects.remove(of)
        assert answer.outcome == self.model[key][0]
        assert answer.repeated is (known is not None)

    @rule(key=keys)
    def settle(self, key: str) -> None:
        """Settle a key for good."""
        known = self.model.setdefault(key, ("cancelled", None, self.service.now_s))
        assert self.service.settle(key).outcome == known[0]

    @rule(hours=st.sampled_from([1, 25]))
    def wait(self, hours: int) -> None:
        """Let time pass."""
        self.service.now_s += hours * 3600

    @rule()
    def purge(self) -> None:
        """Purge old keys."""
        self.service.purge()
        oldest = self.service.now_s - DAY.total_seconds()
        self.model = {key: known for key, known in self.model.items() if known[2] >= oldest}

    @invariant()
    def agrees(self) -> None:
        """Check that the existing effects, and the finding under every key, are the model's."""
        assert self.service.rule_state() == sorted(self.effects)
        for key in ("a", "b", "c", "u", "v"):
            found, known = self.service.find(key), self.model.get(key)
            assert (found and found.outcome) == (known and known[0])


def test_any_sequence_of_calls_agrees_with_a_model(service: Service) -> None:
    """Calls, refusals, failures, undos, probes, waits and purges in any order have the results of a dictionary."""
    few = settings(max_examples=try_out(8), stateful_step_count=20, deadline=None)
    run_state_machine_as_test(cast("type[InboxMachine]", lambda: InboxMachine(service)), settings=few)
