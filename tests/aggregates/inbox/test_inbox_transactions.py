"""An Inbox works inside its caller's transaction, or refuses the transaction."""

import pytest
from aggregate_parts import inbox_fixtures
from aggregate_parts.inbox_service import PRICE, Service, engine_at
from sqlalchemy import create_engine, select
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from amends import Answer, InputError, Rejected

url, service = inbox_fixtures.url, inbox_fixtures.service


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
    assert service.standing() == ["k"]
    await engine.dispose()
    service.engine.dispose()


def test_a_connection_that_commits_by_itself_is_refused(service: Service) -> None:
    """An autocommit connection is refused, as key and effect would be recorded apart; no row remains."""
    with (
        service.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(InputError, match="commits each statement on its own"),
    ):
        service.inbox.do(connection, "k", "charge", PRICE, lambda: service._take_effect(connection, "k", None))
    assert (service.standing(), service.remembered()) == ([], 0)


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
    assert service.standing() == ["k"]


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
    assert strict.standing() == ["k"]
    strict.engine.dispose()


def test_what_is_rolled_back_was_never_recorded(service: Service) -> None:
    """The Inbox never commits: the caller's rollback includes the record, refusals and tombstones too."""
    with service.engine.connect() as connection:
        service.inbox.do(connection, "k", "charge", PRICE, lambda: service._take_effect(connection, "k", None))
        service.inbox.undo(connection, "u", "late", lambda _: None)
        service.inbox.settle(connection, "asked")
        connection.rollback()
    assert (service.standing(), service.remembered()) == ([], 0)


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
