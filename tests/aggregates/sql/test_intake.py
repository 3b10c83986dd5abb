"""The tables of the pipelines: positions, memory of ids, held messages, numbers and batch rows, seen by units."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from journal_parts import Counter, accept, id_of, open_prepared, step
from sqlalchemy import text

from amends.aggregates.errors import DamagedRunError, JournalError, UnreachableError
from amends.aggregates.intake import BatchRow, Counts, HeldKind, HeldMessage, Intake, Position, Token
from amends.aggregates.journal import Tx
from amends.aggregates.sql.journal import SqlJournal
from amends.aggregates.sql.schema import commit_marks

T = TypeVar("T")

START = Position(
    first=5, next=5, cursor="", incarnation="topic-1", epoch=0, token=Token(1, 1), highest=5, reached_ms=10, batch=2
)


class Lost:
    """Loses the reply of the next commit, when a test asks for it.

    Attributes:
        armed: Whether the next reply is lost.
    """

    def __init__(self) -> None:
        self.armed = False

    def __call__(self, when: str, _: int) -> None:
        """Raise after the commit."""
        if when == "after" and self.armed:
            self.armed = False
            raise ConnectionError("the reply was lost")


@pytest.fixture
def lost() -> Lost:
    """Return the journal's commit seam."""
    return Lost()


@pytest.fixture
def journal(store_url: str, lost: Lost) -> Iterator[SqlJournal]:
    """Yield a journal on an empty store."""
    journal = open_prepared(store_url, on_commit=lost)
    yield journal
    journal.close_blocking()


def held(position: int, kind: HeldKind = HeldKind.FAILED, key: str = "k", **fields: Any) -> HeldMessage:  # noqa: ANN401
    """Return a held message."""
    given = {"id": f"m{position}", "reason": "no", "value": b"\x00\xff", **fields}
    return HeldMessage(partition="p", position=position, kind=kind, key=key, **given)


def batch_row(number: int, **fields: Any) -> BatchRow:  # noqa: ANN401 - those of the row
    """Return a batch row."""
    return BatchRow(**{"number": number, "token": Token(3, 4), "epoch": 1, "first": 5, "next": 6, "holes": 1, **fields})


def on_intake(journal: SqlJournal, act: Callable[[Intake], T]) -> T:
    """Run a unit that uses the tables."""
    return journal.commit_blocking(lambda tx: act(tx.intake))


def test_a_position_begins_once(journal: SqlJournal) -> None:
    """The first row of a partition stays, and readers see it; other partitions are independent."""
    assert on_intake(journal, lambda intake: intake.begin("orders", "0", START))
    assert not on_intake(journal, lambda intake: intake.begin("orders", "0", replace(START, next=9)))
    assert on_intake(journal, lambda intake: intake.begin("orders", "1", replace(START, next=7)))
    assert journal.intake.position("orders", "0") == START
    assert journal.intake.position("orders", "2") is None
    assert {name: each.next for name, each in journal.intake.positions("orders").items()} == {"0": 5, "1": 7}


def test_a_position_moves_only_from_the_expected_one(journal: SqlJournal) -> None:
    """A move compares the whole position, token included, and a unit sees its own move."""
    further = replace(START, next=8, cursor="c")

    def unit(intake: Intake) -> tuple[bool, bool, Position | None]:
        intake.begin("orders", "0", START)
        moved = intake.move("orders", "0", expected=START, to=further)
        return moved, intake.move("orders", "0", expected=START, to=START), intake.position("orders", "0")

    assert on_intake(journal, unit) == (True, False, further)
    other = replace(further, token=Token(2, 1))
    assert not on_intake(journal, lambda intake: intake.move("orders", "0", expected=other, to=START))
    assert not on_intake(journal, lambda intake: intake.move("orders", "9", expected=further, to=START))
    assert journal.intake.position("orders", "0") == further


@pytest.mark.parametrize(
    ("token", "taken"), [((1, 1), False), ((1, 2), True), ((2, 0), True), ((0, 9), False), ((1, 0), False)]
)
def test_only_a_greater_token_claims(journal: SqlJournal, token: tuple[int, int], *, taken: bool) -> None:
    """Tokens are compared by slice, then by attempt; a claim changes nothing else."""
    on_intake(journal, lambda intake: intake.begin("orders", "0", START))
    claimed = on_intake(journal, lambda intake: intake.claim("orders", "0", Token(*token)))
    expected = replace(START, token=Token(*token)) if taken else None
    assert claimed == expected
    assert journal.intake.position("orders", "0") == (expected or START)
    assert on_intake(journal, lambda intake: intake.claim("orders", "1", Token(9, 9))) is None


def test_a_changed_position_is_refused(journal: SqlJournal) -> None:
    """A position that something else than the journal has changed ends in an error instead of a wrong range."""
    on_intake(journal, lambda intake: intake.begin("orders", "0", START))
    with journal.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE pipeline_positions SET next_position = 900")
    with pytest.raises(JournalError, match="position of partition '0' was changed"):
        journal.intake.position("orders", "0")
    with pytest.raises(JournalError, match="was changed"):
        on_intake(journal, lambda intake: intake.move("orders", "0", expected=START, to=START))


def test_ids_are_known_by_pipeline_and_bucket(journal: SqlJournal) -> None:
    """The pipeline knows an id with its digest from its bucket on, and no other pipeline knows it."""
    on_intake(journal, lambda intake: intake.remember("orders", 3, [id_of(n) for n in range(50)]))
    on_intake(journal, lambda intake: intake.remember("orders", 4, [id_of(n) for n in range(50, 60)]))
    asked = [id_of(n).id_hash for n in (1, 49, 55, 70)]
    for view in (journal.intake.known, lambda *a, **k: on_intake(journal, lambda intake: intake.known(*a, **k))):
        assert view("orders", asked, oldest_bucket=0) == dict(id_of(n) for n in (1, 49, 55))
        assert view("orders", asked, oldest_bucket=4) == dict([id_of(55)])
        assert view("counts", asked, oldest_bucket=0) == {}
        assert view("orders", [], oldest_bucket=0) == {}
    assert [tuple(each) for each in journal.intake.buckets("orders")] == [(3, 50, 0), (4, 10, 0)]


def test_forgetting_drops_whole_buckets(journal: SqlJournal) -> None:
    """Buckets before the number are gone and counted; the others stay."""
    for bucket in range(3):
        ids = [id_of(bucket * 10 + n) for n in range(4)]
        on_intake(journal, lambda intake, bucket=bucket, ids=ids: intake.remember("orders", bucket, ids))  # type: ignore[misc]
    assert on_intake(journal, lambda intake: intake.forget_before("orders", 2)) == 8
    asked = [id_of(n).id_hash for n in range(30)]
    assert set(journal.intake.known("orders", asked, oldest_bucket=0)) == {id_of(20 + n).id_hash for n in range(4)}
    assert (journal.intake.horizon("orders"), journal.intake.horizon("counts")) == (2, 0)
    on_intake(journal, lambda intake: intake.forget_before("orders", 1))
    assert journal.intake.horizon("orders") == 2


def test_held_messages_come_back_whole(journal: SqlJournal) -> None:
    """Every field survives, bytes that are not text included, in the order of partition and position."""
    odd = held(7, key="é\u2028", headers=(("a", b"\x00"), ("a", b"2"), ("\udcff", b"")), source_ms=-1, attempts=3)
    empty = held(2, HeldKind.UNDECODABLE, key="", id="", value=None)
    on_intake(journal, lambda intake: intake.hold("orders", [odd, empty]))
    found = journal.intake.held("orders")
    assert [replace(each, held_at_ms=0) for each in found] == [empty, odd]
    assert all(each.held_at_ms > 0 for each in found)
    assert journal.intake.held("counts") == []
    assert [each.position for each in journal.intake.held("orders", kinds=frozenset({HeldKind.FAILED}))] == [7]
    assert [each.position for each in journal.intake.held("orders", key="é\u2028")] == [7]
    assert journal.intake.held("orders", limit=1)[0].position == 2
    assert journal.intake.held("orders", partition="q") == []


def test_a_text_that_no_database_can_hold_stops_no_batch(journal: SqlJournal) -> None:
    """NUL and lone surrogates in a held message's texts are replaced."""
    on_intake(journal, lambda intake: intake.hold("orders", [held(1, key="a\0", id="\ud800", reason="x\0")]))
    assert journal.intake.held("orders")[0].key == "a\ufffd"


def test_keys_with_a_held_message_are_found(journal: SqlJournal) -> None:
    """A key comes with the kind of its first held message, until the unit lets the last one go."""
    messages = [held(2, HeldKind.FOLLOWER, key="a"), held(1, key="a"), held(3, HeldKind.UNDECODABLE, key="b")]

    def unit(intake: Intake) -> list[Mapping[str, HeldKind]]:
        intake.hold("orders", messages)
        first = intake.held_keys("orders", ["a", "b", "c"])
        intake.let_go("orders", "p", [1])
        second = intake.held_keys("orders", ["a", "b", "c"])
        intake.let_go("orders", "p", [2])
        return [first, second, intake.held_keys("orders", ["a", "c"])]

    other = {"b": HeldKind.UNDECODABLE}
    assert on_intake(journal, unit) == [{"a": HeldKind.FAILED, **other}, {"a": HeldKind.FOLLOWER, **other}, {}]
    assert journal.intake.held_counts("orders") == {HeldKind.UNDECODABLE: 1}


def test_holding_again_replaces(journal: SqlJournal) -> None:
    """A second hold of the same position counts its attempts, and keeps the time since which it is held."""
    on_intake(journal, lambda intake: intake.hold("orders", [held(1)]))
    first = journal.intake.held("orders")[0]
    on_intake(journal, lambda intake: intake.hold("orders", [replace(first, attempts=2)]))
    assert journal.intake.held("orders") == [replace(first, attempts=2)]


def test_numbers_are_kept_by_key(journal: SqlJournal) -> None:
    """The last number of each key is replaced, and a key without one is absent."""
    on_intake(journal, lambda intake: intake.set_numbers("orders", {"a": 1, "b": 2**60}))
    on_intake(journal, lambda intake: intake.set_numbers("orders", {"a": 4}))
    numbers = on_intake(journal, lambda intake: intake.last_numbers("orders", ["a", "b", "c"]))
    assert numbers == {"a": 4, "b": 2**60}
    assert on_intake(journal, lambda intake: intake.last_numbers("counts", ["a"])) == {}


def test_a_batch_row_names_the_events_of_its_unit(journal: SqlJournal) -> None:
    """Its ids are those of the unit's own events in the notification log; a unit without events has none."""
    journal.commit_blocking(accept("before"))

    def unit(tx: Tx) -> list[BatchRow]:
        accept("a")(tx)
        with tx.unit_of_work() as work:
            work.add(Counter(id="c"))
        counts = Counts(applied=2, skipped=1)
        tx.intake.add_batch("orders", "0", batch_row(1, next=9, counts=counts, mode="observed"))
        return list(tx.intake.batches("orders", "0"))

    seen = journal.commit_blocking(unit)
    on_intake(journal, lambda intake: intake.add_batch("orders", "0", batch_row(2, first=9)))
    log = journal.notifications_blocking()
    stored = journal.intake.batches("orders", "0")
    assert [each.counts for each in seen] == [Counts(applied=2, skipped=1)]
    assert (stored[0].first_event, stored[0].last_event) == (log[1].id, log[2].id)
    assert (stored[1].first_event, stored[1].last_event) == (0, 0)
    assert all(each.recorded_at_ms > 0 for each in stored)
    assert [each.first for each in journal.intake.batches("orders", "0", after=1)] == [9]
    assert stored[0] == replace(seen[0], first_event=log[1].id, last_event=log[2].id)
    assert journal.intake.totals("orders") == {"0": Counts(applied=2, skipped=1)}


def test_a_unit_that_raises_leaves_nothing(journal: SqlJournal) -> None:
    """Position, ids, held messages, numbers and batch row of a failed unit are gone; its neighbours see none."""

    def unit(tx: Tx) -> None:
        write_all(tx, 1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        journal.commit_blocking(unit)
    intake = journal.intake
    assert intake.positions("orders") == {}
    assert intake.known("orders", [id_of(1).id_hash], oldest_bucket=0) == {}
    assert intake.buckets("orders") == []
    assert intake.held("orders") == []
    assert intake.batches("orders", "1") == []


def write_all(tx: Tx, number: int) -> None:
    """Write to each table of the pipelines."""
    assert tx.intake.begin("orders", str(number), START)
    tx.intake.remember("orders", 1, [id_of(number)])
    tx.intake.hold("orders", [held(number)])
    tx.intake.set_numbers("orders", {"k": number})
    tx.intake.add_batch("orders", str(number), batch_row(1))


def test_a_lost_reply_of_a_commit_without_events_is_found(journal: SqlJournal, lost: Lost) -> None:
    """After the commit took place and its reply was lost, the unit does not run again, and its answer arrives."""
    runs = 0

    def unit(tx: Tx) -> str:
        nonlocal runs
        runs += 1
        write_all(tx, 7)
        return "written"

    lost.armed = True
    assert journal.commit_blocking(unit) == "written"
    assert runs == 1
    assert len(journal.intake.batches("orders", "7")) == 1


def test_a_lost_reply_of_a_claim_is_found(journal: SqlJournal, lost: Lost) -> None:
    """A claim is no loss to itself: an owner whose reply was lost still has the partition."""
    on_intake(journal, lambda intake: intake.begin("orders", "0", START))
    lost.armed = True
    claimed = on_intake(journal, lambda intake: intake.claim("orders", "0", Token(2, 1)))
    assert claimed == replace(START, token=Token(2, 1))


def test_a_lost_reply_of_a_message_alone_is_found(journal: SqlJournal, lost: Lost) -> None:
    """A step that only sends, or only runs its own SQL, takes effect once, even if a relay has deleted its message."""
    with journal.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE own (n INTEGER)")
    lost.armed = True
    journal.commit_blocking(step(lambda uow: uow.send("stock", key="k", value=1)))
    lost.armed = True
    journal.commit_blocking(step(lambda uow: uow.execute(text("INSERT INTO own VALUES (1)"))))
    with journal.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM own").scalar() == 1
    assert journal.outbox_size_blocking() == 1


def test_a_commit_that_failed_leaves_no_mark(store_url: str) -> None:
    """A commit that did not take place runs again, and counts once."""
    failures = [UnreachableError("away")]

    def fail(when: str, _: int) -> None:
        if when == "before" and failures:
            raise failures.pop()

    journal = open_prepared(store_url, on_commit=fail)
    journal.commit_blocking(lambda tx: write_all(tx, 3))
    assert journal.intake.totals("orders") == {"3": Counts()}
    journal.close_blocking()


def test_a_commit_with_events_leaves_no_mark(journal: SqlJournal) -> None:
    """Events are evidence enough: a mark would cost each commit a statement."""
    journal.commit_blocking(step(lambda uow: uow.add(Counter(id="c"))))

    def unit(tx: Tx) -> None:
        accept("a")(tx)
        write_all(tx, 1)

    journal.commit_blocking(unit)
    journal.commit_blocking(lambda tx: tx.record("a"))
    with journal.engine.connect() as connection:
        assert connection.execute(commit_marks.select()).all() == []


def test_first_facts_are_read_and_missing_runs_are_accepted_without_reading(journal: SqlJournal) -> None:
    """The answer has the runs of the store, of memory and of this unit, and the others can begin."""
    journal.commit_blocking(accept("stored"))
    journal.close_blocking()
    again = open_prepared(str(journal.engine.url.render_as_string(hide_password=False)))

    def unit(tx: Tx) -> tuple[set[str], int]:
        accept("staged")(tx)
        facts = tx.first_facts(["stored", "staged", "new", "new"])
        accept("new")(tx)
        return set(facts), facts["stored"].position

    assert again.commit_blocking(unit) == ({"stored", "staged"}, 1)
    assert again.record_blocking("new") is not None
    again.close_blocking()


def test_a_run_whose_first_fact_is_damaged_is_an_error_of_its_own(journal: SqlJournal) -> None:
    """The other runs have their first facts, and `accept` of the damaged one raises."""
    for name in ("good", "bad"):
        journal.commit_blocking(accept(name))
    url = journal.engine.url.render_as_string(hide_password=False)
    with journal.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE stored_events SET topic = 'x' WHERE originator_id = 'run/bad'")
    journal.close_blocking()
    again = open_prepared(url)

    def unit(tx: Tx) -> set[str]:
        found = set(tx.first_facts(["good", "bad"]))
        with pytest.raises(DamagedRunError):
            accept("bad")(tx)
        return found

    assert again.commit_blocking(unit) == {"good"}
    again.close_blocking()
