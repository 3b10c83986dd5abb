"""A participant with an Inbox."""

from datetime import timedelta

from sqlalchemy import BigInteger, Column, Engine, Integer, MetaData, Table, Text, create_engine, delete, func, select
from sqlalchemy.engine import Connection

from amends import Answer, Inbox

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

    def standing(self) -> list[str]:
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
