"""Held messages keep their order, and every decision about them keeps the account of the pipeline right."""

from collections.abc import Callable, Iterator

import pytest
from journal_parts import open_prepared
from pipeline_parts import NAME, Bench, Counted, counting, create_effects, message, record_effect, starting

from amends.aggregates.errors import InputError, NotFoundError
from amends.aggregates.intake import HeldKind
from amends.aggregates.journal import StepWork, Tx
from amends.aggregates.sql.journal import SqlJournal
from amends.pipelines.runtime import held_units
from amends.pipelines.runtime.held_units import Released


class Bug:
    """A handler that fails for some messages until it is repaired.

    Attributes:
        failing: The ids of those messages.
    """

    def __init__(self, *failing: str) -> None:
        self.failing = set(failing)

    def handler(self) -> Callable[[Counted, StepWork], None]:
        """Return the handler."""

        def handle(counted: Counted, uow: StepWork) -> None:
            record_effect(counted, uow)
            if counted.id in self.failing:
                raise LookupError(counted.id)

        return handle


@pytest.fixture
def journal(store_url: str) -> Iterator[SqlJournal]:
    """Yield a journal on an empty store that has the user's table."""
    journal = open_prepared(store_url)
    create_effects(journal)
    yield journal
    journal.close_blocking()


def retry(bench: Bench, key: str) -> Released:
    """Retry the held messages of a key."""
    return bench.journal.commit_blocking(
        lambda tx: held_units.retry(tx, bench.loop.intake, bench.loop.arrive, key=key, actor="ann", reason="fixed")
    )


def test_a_retry_applies_a_key_in_order(journal: SqlJournal) -> None:
    """After a repair the held messages of the key take effect in their order, and new ones follow."""
    bug = Bug("m-1")
    bench = Bench(journal, counting(bug.handler()))
    bench.source.put_all(message(number, keys=2) for number in range(6))
    bench.run()
    assert bench.effects() == ["m-0", "m-2", "m-4"]
    bug.failing.clear()
    assert retry(bench, "sku-1").applied == 3
    assert bench.effects()[3:] == ["m-1", "m-3", "m-5"]
    bench.source.put(message(7, keys=2))
    bench.run((2, 1))
    assert bench.effects()[-1] == "m-7"
    assert bench.compare().exact
    assert bench.audit().findings == ()


def test_a_retry_stops_at_the_message_that_fails_again(journal: SqlJournal) -> None:
    """The messages before it take effect; it and the later ones stay held, in order."""
    bug = Bug("m-1", "m-5")
    bench = Bench(journal, counting(bug.handler()))
    bench.source.put_all(message(number, keys=2) for number in range(8))
    bench.run()
    bug.failing.remove("m-1")
    result = retry(bench, "sku-1")
    assert (result.applied, [each.id for each in result.held]) == (2, ["m-5", "m-7"])
    kinds = [(each.kind, each.attempts) for each in journal.intake.held(NAME)]
    assert kinds == [(HeldKind.FAILED, 1), (HeldKind.FOLLOWER, 0)]
    assert bench.compare().exact
    assert bench.audit().findings == ()


def test_a_skipped_message_has_no_effect_even_when_it_comes_again(journal: SqlJournal) -> None:
    """The decision needs a reason, and holds for later messages with the same id."""
    bench = Bench(journal, counting(Bug("m-1").handler()))
    bench.source.put_all(message(number, keys=2) for number in range(4))
    bench.run()

    def skip(reason: str) -> Callable[[Tx], object]:
        return lambda tx: held_units.skip(
            tx, bench.loop.intake, bench.loop.arrive, partition="0", position=1, actor="ann", reason=reason
        )

    with pytest.raises(InputError):
        journal.commit_blocking(skip(" "))
    journal.commit_blocking(skip("a test order"))
    with pytest.raises(NotFoundError):
        journal.commit_blocking(skip("again"))
    assert retry(bench, "sku-1").applied == 1
    bench.source.put(message(1, keys=2))
    bench.run((2, 1))
    assert bench.effects() == ["m-0", "m-2", "m-3"]
    audit = bench.audit()
    assert (audit.counts.skipped, audit.counts.repeated, audit.findings) == (1, 1, ())


def test_a_release_applies_a_conflict(journal: SqlJournal) -> None:
    """An operator may decide that a message with a known id is another message after all; a retry decides nothing."""
    bench = Bench(journal, counting())
    bench.source.put_all([message(1), message(1, quantity=2), message(11)])
    bench.run()
    assert retry(bench, "sku-1").applied == 0
    result = journal.commit_blocking(
        lambda tx: held_units.release(
            tx, bench.loop.intake, bench.loop.arrive, key="sku-1", actor="ann", reason="two orders"
        )
    )
    assert (result.applied, result.held) == (2, [])
    assert bench.effects() == ["m-1", "m-1", "m-11"]
    assert bench.audit().findings == ()


def test_a_busy_pipeline_defers_messages_and_works_them_off_in_order(journal: SqlJournal) -> None:
    """While too many runs are open, messages wait in the store; later they start their runs, each once."""
    bench = Bench(journal, starting(max_open_runs=20, when_busy="defer"))
    bench.source.put_all(message(number, keys=5) for number in range(60))
    bench.run()
    assert (len(bench.effects()), bench.audit().counts.deferred) == (20, 40)
    roomy = Bench(journal, starting(when_busy="defer"), bench.source)
    bench.source.put_all(message(number, keys=5) for number in range(60, 70))
    roomy.run((2, 1))
    assert roomy.effects() == roomy.ids()
    audit = roomy.audit()
    assert (audit.counts.applied, audit.counts.deferred, audit.findings) == (70, 0, ())
