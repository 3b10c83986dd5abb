"""Two chained stores are exactly once from end to end, whatever is killed; judged by the ids of the first source."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from consumers.chained_stores import TOPIC, effects_of, killed_relay, killed_taker, relay_all, send_on, take_all
from journal_parts import open_prepared
from pipeline_parts import Bench, counting, create_effects, message

from amends.aggregates.intake import Token
from amends.aggregates.sql.journal import SqlJournal
from amends.pipelines.definition.sources import JsonLinesSource, StoreSource

MESSAGES = 250
DUPLICATES = 20


@pytest.fixture
def first(store_url: str) -> Iterator[Bench]:
    """Yield the pipeline of the first store, which has handled its messages, some of which came twice."""
    journal = open_prepared(store_url)
    create_effects(journal)
    bench = Bench(journal, counting(send_on, notify_duplicates=True))
    # The duplicates come in later batches than their first messages, whose answers the outbox then sends again.
    for number in [*range(MESSAGES), *range(DUPLICATES)]:
        bench.source.put(message(number))
    bench.run()
    yield bench
    journal.close_blocking()


@pytest.fixture
def second(tmp_path: Path) -> Iterator[SqlJournal]:
    """Yield the second store."""
    journal = open_prepared(f"sqlite:///{tmp_path}/second.db")
    create_effects(journal)
    yield journal
    journal.close_blocking()


def check(first: Bench, second: SqlJournal) -> None:
    """Check that each message of the first source had one effect in both stores."""
    once = Counter(set(first.ids()))
    assert len(once) == MESSAGES
    assert Counter(effects_of(first.journal)) == once
    assert Counter(effects_of(second)) == once


def test_a_relay_that_is_killed_doubles_nothing_in_the_next_store(
    first: Bench, second: SqlJournal, store_url: str, tmp_path: Path
) -> None:
    """Lines come again after each kill and for each duplicate; the second store takes each message once."""
    folder, url = tmp_path / "out", f"sqlite:///{tmp_path}/second.db"
    source = JsonLinesSource("out/*.jsonl", envelope=True)
    for attempt in (1, 2):
        killed_relay(store_url, folder, Token(1, attempt))
        take_all(url, source, tmp_path, Token(1, attempt))
    relay_all(store_url, folder, Token(2, 1))
    take_all(url, source, tmp_path, Token(2, 1))
    ids = [json.loads(line)["id"] for line in (folder / f"{TOPIC}.jsonl").read_text().splitlines()]
    assert len(ids) == 3 * (MESSAGES + DUPLICATES)
    assert len(set(ids)) == MESSAGES
    check(first, second)


def test_a_pipeline_that_is_killed_doubles_nothing_from_another_store(
    first: Bench, second: SqlJournal, store_url: str, tmp_path: Path
) -> None:
    """It reads the outbox itself; the first store deletes what the second one has acknowledged."""
    source, url = StoreSource(store_url, TOPIC), f"sqlite:///{tmp_path}/second.db"
    for attempt in (1, 2):
        killed_taker(url, source, tmp_path, Token(1, attempt))
    assert 0 < len(effects_of(second)) < MESSAGES
    assert first.journal.outbox_size_blocking() == MESSAGES + DUPLICATES
    take_all(url, source, tmp_path, Token(2, 1))
    check(first, second)
    # Only those are left that are kept for duplicates.
    assert first.journal.outbox_topics_blocking() == {}
    assert first.journal.outbox_size_blocking() == MESSAGES
