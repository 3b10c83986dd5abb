"""Damage for tests: rows that are changed without the journal, with or without a matching checksum."""

from collections.abc import Callable, Mapping

from sqlalchemy import Engine, select, text, update

from amends.aggregates.sql.engine import writing
from amends.aggregates.sql.schema import snapshots, stored_events
from amends.aggregates.values.checksum import event_checksum, snapshot_checksum

__all__ = ["DAMAGE", "change", "flip_state", "seal"]


def change(engine: Engine, sql: str, **parameters: object) -> None:
    """Change rows without the journal."""
    with writing(engine) as connection:
        assert connection.execute(text(sql), parameters).rowcount > 0


def seal(engine: Engine) -> None:
    """Write the matching checksum of every event and snapshot, as a faulty program would."""
    with writing(engine) as connection:
        for table, checksum in ((stored_events, event_checksum), (snapshots, snapshot_checksum)):
            rows = connection.execute(
                select(table.c.originator_id, table.c.originator_version, table.c.topic, table.c.state)
            ).all()
            for row in rows:
                here = (table.c.originator_id == row[0]) & (table.c.originator_version == row[1])
                connection.execute(update(table).where(here).values(checksum=checksum(*row)))


def flip_state(engine: Engine, stream: str, position: int) -> None:
    """Flip one bit within a text of an event's payload, so that the payload is still valid JSON."""
    here = (stored_events.c.originator_id == stream) & (stored_events.c.originator_version == position)
    with writing(engine) as connection:
        state = bytes(connection.execute(select(stored_events.c.state).where(here)).scalar_one())
        at = state.index(b'"actor":"') + len(b'"actor":"')
        flipped = state[:at] + bytes([state[at] ^ 1]) + state[at + 1 :]
        connection.execute(update(stored_events).where(here).values(state=flipped))


def _forged(sql: str, **parameters: object) -> Callable[[Engine], None]:
    def damage(engine: Engine) -> None:
        here = "originator_id = 'run/bad' AND originator_version = 2"
        change(engine, f"UPDATE stored_events SET {sql} WHERE {here}", **parameters)  # noqa: S608 - from the table below
        seal(engine)

    return damage


def _lost(position: int) -> Callable[[Engine], None]:
    sql = "DELETE FROM stored_events WHERE originator_id = 'run/bad' AND originator_version = :position"
    return lambda engine: change(engine, sql, position=position)


_COMPLETED = (
    "topic = 'amends.SagaCompleted', state = (SELECT state FROM stored_events WHERE topic = 'amends.SagaCompleted')"
)

DAMAGE: Mapping[str, tuple[Callable[[Engine], None], int, str]] = {
    "a middle fact is missing": (_lost(2), 2, "the event is missing"),
    "the first fact is missing": (_lost(1), 1, "the event is missing"),
    "a fact does not follow": (_forged(_COMPLETED), 2, "SagaCompleted"),
    "a payload is no JSON": (_forged("state = :raw", raw=b'{"node": '), 2, "cannot be read"),
    "a payload lacks its fields": (_forged("state = :raw", raw=b"{}"), 2, "cannot be read"),
    "a topic is unknown": (_forged("topic = 'os:system'"), 2, "is unknown to this program"),
    "a byte is flipped": (lambda engine: flip_state(engine, "run/bad", 2), 2, "its checksum does not match"),
    "the plan is missing": (
        lambda engine: change(engine, "DELETE FROM plans WHERE saga = 'bad'"),
        1,
        "is not in the store",
    ),
    "the plan is changed": (
        lambda engine: change(engine, "UPDATE plans SET plan = replace(plan, 'Order', 'Other') WHERE saga = 'bad'"),
        1,
        "its checksum does not match",
    ),
}
"""Ways to damage the run `bad`, which alone has its plan: the change, the named position, words of the problem."""
