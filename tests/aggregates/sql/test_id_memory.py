"""The memory of ids against a dictionary: rows, sealed pages and forgotten buckets, on both databases."""

import itertools
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_parts import id_of, open_prepared

from amends.aggregates.errors import InputError, JournalError
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.id_pages import FULL
from amends.aggregates.intake import RememberedId
from amends.aggregates.journal import Tx
from amends.aggregates.sql.check import check
from amends.aggregates.sql.journal import SqlJournal

NAMES = itertools.count()
BUCKETS = 3


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SqlJournal]]:
    """Yield two processes' journals on one SQLite file."""
    url = f"sqlite:///{tmp_path_factory.mktemp('ids')}/store.db"
    journals = [open_prepared(url), open_prepared(url)]
    yield journals
    for each in journals:
        each.close_blocking()


@pytest.fixture
def journal(store_url: str) -> Iterator[SqlJournal]:
    """Yield a journal on an empty store."""
    journal = open_prepared(store_url)
    yield journal
    journal.close_blocking()


def ids_of(*numbers: int) -> list[RememberedId]:
    """Return the memory of messages."""
    return [id_of(number) for number in numbers]


class Failed(Exception):  # noqa: N818 - what happens
    """A unit fails after it has sealed."""


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("remember"), st.integers(0, BUCKETS - 1), st.integers(1, 40)),
        st.tuples(st.just("seal"), st.integers(0, BUCKETS), st.integers(1, 60)),
        st.tuples(st.just("seal and fail"), st.integers(0, BUCKETS), st.integers(1, 60)),
        st.tuples(st.just("forget"), st.integers(0, 1), st.just(0)),
    ),
    max_size=12,
)


class Model:
    """A dictionary of the ids, and the store's answers next to it.

    Args:
        journals: Journals of several processes on one store; the acts go round.
    """

    def __init__(self, journals: list[SqlJournal]) -> None:
        self.name = f"pipeline-{next(NAMES)}"
        self.journals = itertools.cycle(journals)
        self.ids: dict[int, dict[bytes, bytes]] = {}
        self.horizon = 0
        self.used = 0

    def act(self, what: str, bucket: int, count: int) -> None:
        """Do one act on the store and in the dictionary, then compare."""
        journal = next(self.journals)
        if what == "remember" and bucket >= self.horizon:
            new = ids_of(*range(self.used, self.used + count))
            self.used += count
            journal.commit_blocking(lambda tx: tx.intake.remember(self.name, bucket, new))
            self.ids.setdefault(bucket, {}).update(dict(new))
        elif what == "forget":
            gone = sum(len(self.ids.pop(each)) for each in list(self.ids) if each < bucket)
            assert journal.commit_blocking(lambda tx: tx.intake.forget_before(self.name, bucket)) == gone
            self.horizon = max(self.horizon, bucket)
        elif what == "seal":
            moved = journal.commit_blocking(lambda tx: tx.intake.seal_before(self.name, bucket, limit=count))
            assert moved <= count
        elif what == "seal and fail":
            with pytest.raises(Failed):
                journal.commit_blocking(lambda tx: self.seal_and_fail(tx, bucket, count))
        self.compare(journal)

    def seal_and_fail(self, tx: Tx, bucket: int, count: int) -> None:
        """Seal twice at the same time, of which the first is rolled back; find every id all the same, and fail."""
        with suppress(Failed), tx.unit_of_work():
            self.seal(tx, bucket, 1)
            raise Failed
        self.seal(tx, bucket, count)
        raise Failed

    def seal(self, tx: Tx, bucket: int, count: int) -> None:
        """Seal, and find every id."""
        tx.intake.seal_before(self.name, bucket, limit=count)
        assert tx.intake.known(self.name, self.asked, oldest_bucket=0) == self.expected(0)

    @property
    def asked(self) -> list[bytes]:
        """All ids that the store may know, and some that it does not."""
        return [id_of(number).id_hash for number in range(self.used + 5)]

    def expected(self, oldest: int) -> dict[bytes, bytes]:
        """Return the ids from a bucket on."""
        return {key: value for bucket, ids in self.ids.items() if bucket >= oldest for key, value in ids.items()}

    def compare(self, journal: SqlJournal) -> None:
        """Compare the answers of readers and units with the dictionary."""
        for oldest in range(BUCKETS):
            assert journal.intake.known(self.name, self.asked, oldest_bucket=oldest) == self.expected(oldest)
        known = journal.commit_blocking(lambda tx: dict(tx.intake.known(self.name, self.asked, oldest_bucket=0)))
        assert known == self.expected(0)
        found = journal.intake.buckets(self.name)
        sizes = {each.number: each.open_ids + each.sealed_ids for each in found}
        assert sizes == {bucket: len(ids) for bucket, ids in self.ids.items()}


@given(ACTS)
@settings(max_examples=40)
def test_two_processes_know_what_a_dictionary_knows(two: list[SqlJournal], acts: list[tuple[str, int, int]]) -> None:
    """After any acts in turn, failed ones included, each id is known with its digest in its bucket, and no other."""
    model = Model(two)
    for act in acts:
        model.act(*act)


def test_sealing_goes_on_part_by_part(journal: SqlJournal) -> None:
    """A bucket of several pages is sealed in parts, takes late ids, and is sealed again, on both databases."""
    model = Model([journal])
    model.act("remember", 0, 3 * FULL)
    for _ in range(4):
        model.act("seal", 1, FULL - 7)
    model.act("remember", 0, 300)
    model.act("remember", 1, 10)
    for _ in range(3):
        model.act("seal", 2, FULL)
    assert [tuple(each) for each in journal.intake.buckets(model.name)] == [(0, 0, 3 * FULL + 300), (1, 0, 10)]
    model.act("seal and fail", 2, 10)
    model.act("forget", 1, 0)


def test_a_full_page_is_not_written_again(journal: SqlJournal) -> None:
    """Sealing part by part writes each page once, and the check finds nothing wrong with them."""
    model = Model([journal])
    model.act("remember", 0, 4 * FULL)
    for number in range(1, 5):
        model.act("seal", 1, FULL)
        with journal.engine.connect() as connection:
            versions = (
                connection.exec_driver_sql("SELECT version FROM pipeline_id_pages ORDER BY lower").scalars().all()
            )
        assert sorted(set(versions)) == versions
        assert len(versions) == number
    assert list(check(journal.engine, EventCodec())) == []


def test_a_forgotten_bucket_takes_no_ids(journal: SqlJournal) -> None:
    """An id that is older than the memory is refused instead of counted as new later."""
    journal.commit_blocking(lambda tx: tx.intake.forget_before("orders", 4))
    with pytest.raises(InputError, match="has forgotten the ids of bucket 3; its oldest one is 4"):
        journal.commit_blocking(lambda tx: tx.intake.remember("orders", 3, ids_of(1)))


def test_a_changed_page_is_an_error(journal: SqlJournal) -> None:
    """A page that something else has changed never makes a message new."""
    journal.commit_blocking(lambda tx: tx.intake.remember("orders", 0, ids_of(*range(20))))
    journal.commit_blocking(lambda tx: tx.intake.seal_before("orders", 1))
    with journal.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE pipeline_id_pages SET version = version - 1")
    with pytest.raises(JournalError, match="a page of the memory of ids, bucket 0, was changed"):
        journal.intake.known("orders", [id_of(3).id_hash], oldest_bucket=0)
    with pytest.raises(JournalError, match="was changed"):
        journal.commit_blocking(lambda tx: tx.intake.known("orders", [id_of(3).id_hash], oldest_bucket=0))
