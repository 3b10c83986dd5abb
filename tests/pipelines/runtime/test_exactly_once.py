"""Every fault leaves each message with one effect, by the source's own list of ids; the audit agrees.

The effects are rows without a unique key, or runs, so a message that takes effect twice is seen.
"""

import asyncio
import random
from collections.abc import Iterator

import pytest
from journal_parts import open_prepared
from pipeline_parts import NAME, Bench, counting, create_effects, message, starting
from stores import POSTGRESQL_IN_SOAK

from amends.aggregates.intake import HeldKind
from amends.aggregates.sql.journal import SqlJournal
from amends.pipelines.intake.flow import BREAKER_KEYS
from amends.pipelines.runtime.partition_work import FencedError
from amends.pipelines.runtime.slice_end import EndKind
from amends.pipelines.testing.memory_source import MemorySource

MAKERS = {"handles": counting, "starts": starting}


class Seam:
    """Raises around chosen commits.

    Attributes:
        faults: The error to raise, by the moment and the number of the commit.
        commits: Number of commits so far.
    """

    def __init__(self) -> None:
        self.faults: dict[tuple[str, int], BaseException] = {}
        self.commits = 0

    def __call__(self, when: str, number: int) -> None:
        """Raise the fault of this moment, once."""
        self.commits = number
        fault = self.faults.pop((when, number), None)
        if fault is not None:
            raise fault


class DeadProcessError(BaseException):
    """Ends the unit and its callers at once, as `kill -9` does."""


@pytest.fixture
def seam() -> Seam:
    """Return the journal's commit seam."""
    return Seam()


@pytest.fixture
def journal(store_url: str, seam: Seam) -> Iterator[SqlJournal]:
    """Yield a journal on an empty store that has the user's table."""
    journal = open_prepared(store_url, on_commit=seam)
    create_effects(journal)
    yield journal
    journal.close_blocking()


@pytest.fixture(params=MAKERS)
def bench(request: pytest.FixtureRequest, journal: SqlJournal) -> Bench:
    """Return a pipeline of each kind, with an empty source."""
    return Bench(journal, MAKERS[request.param]())


def check_exact(bench: Bench, *partitions: str) -> None:
    """Check that each id of the source has one effect, and that the account is right."""
    comparison = bench.compare()
    assert comparison.exact, comparison
    for partition in partitions or ("0",):
        audit = bench.audit(partition)
        assert audit.findings == ()
        assert audit.arrived == len(bench.source.messages(partition))


@pytest.mark.parametrize("duplicates", [pytest.param(0, marks=pytest.mark.soak), 5, 50], ids="{} %".format)
def test_producer_duplicates_take_effect_once(bench: Bench, duplicates: int) -> None:
    """Messages that a producer sends again, near or far apart and in any order, are counted and have no effect."""
    chooser = random.Random(duplicates)  # noqa: S311 - no secret
    numbers = [*range(300), *(chooser.randrange(300) for _ in range(3 * duplicates))]
    chooser.shuffle(numbers)
    bench.source.put_all(message(number) for number in numbers)
    end = bench.run()
    assert (end.kind, end.messages) == (EndKind.END, len(numbers))
    check_exact(bench)
    counts = bench.audit().counts
    assert (counts.applied, counts.repeated) == (300, len(numbers) - 300)


def test_redelivery_changes_nothing(bench: Bench) -> None:
    """A source that begins each read with messages from before its position is not believed."""
    bench.source.redeliver = 7
    bench.source.put_all(message(number) for number in range(250))
    bench.run()
    assert bench.audit().counts.redelivered > 0
    check_exact(bench)


@POSTGRESQL_IN_SOAK
def test_holes_are_no_messages(bench: Bench) -> None:
    """Positions without a message, within a batch and at its end, keep the balance."""
    for number in range(120):
        bench.source.put(message(number))
        bench.source.leave_out(number % 3)
    bench.run()
    check_exact(bench)
    position = bench.journal.intake.position(NAME, "0")
    assert position is not None
    assert position.next == 240


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_commit_loses_and_doubles_nothing(bench: Bench, seam: Seam, when: str) -> None:
    """A process that ends around a commit leaves the whole batch or none of it; the next owner goes on from there."""
    bench.source.put_all(message(number // 2) for number in range(500))
    seam.faults = {(when, number): DeadProcessError() for number in range(1, 14, 2)}
    for attempt in range(1, 30):
        try:
            bench.run((1, attempt))
        except DeadProcessError:
            continue
        break
    assert not seam.faults or max(number for _, number in seam.faults) > seam.commits
    check_exact(bench)
    if bench.driven:
        assert set(bench.driven) == set(bench.effects())


def test_a_lost_reply_is_settled_by_the_store(bench: Bench, seam: Seam) -> None:
    """A commit that fails, or whose reply is lost, is never applied twice, and its runs are driven."""
    bench.source.put_all(message(number) for number in range(300))
    chooser = random.Random(1)  # noqa: S311 - no secret
    seam.faults = {(chooser.choice(["before", "after"]), number): ConnectionError("reset") for number in range(1, 12)}
    bench.run()
    check_exact(bench)
    if bench.driven:
        assert set(bench.driven) == set(bench.effects())


def test_the_runs_of_a_dead_owner_are_driven_by_the_next(journal: SqlJournal, seam: Seam) -> None:
    """A process that ends between the commit and the start of its runs leaves them to the next owner."""
    bench = Bench(journal, starting())
    bench.source.put_all(message(number) for number in range(50))
    seam.faults = {("after", 3): DeadProcessError()}  # after the claim and the first position
    with pytest.raises(DeadProcessError):
        bench.run((1, 1))
    assert (len(bench.effects()), bench.driven) == (50, [])
    bench.run((1, 2))
    assert sorted(bench.driven) == sorted(bench.ids())


def test_the_greater_token_fences_the_smaller(bench: Bench) -> None:
    """An owner whose partition was taken over commits nothing any more, and cannot claim it back."""
    bench.source.put_all(message(number) for number in range(100))
    bench.run((2, 1))
    bench.source.put_all(message(number) for number in range(100, 200))
    for stale in ((2, 0), (1, 9)):
        with pytest.raises(FencedError):
            bench.run(stale)
    assert len(bench.effects()) == 100
    bench.run((2, 2))
    check_exact(bench)


def test_two_loops_on_one_partition_double_nothing(bench: Bench) -> None:
    """A loop that loses its claim in the middle ends with `FencedError`; together they apply each message once."""
    bench.source.put_all(message(number) for number in range(400))
    other = Bench(bench.journal, bench.pipeline, bench.source)

    async def both() -> tuple[object, object]:
        return await asyncio.gather(bench.take((1, 1)), other.take((1, 2)), return_exceptions=True)

    first, second = asyncio.run(both())
    assert isinstance(first, FencedError)
    assert not isinstance(second, BaseException)
    check_exact(bench)


@POSTGRESQL_IN_SOAK
def test_one_poisoned_key_of_a_thousand_stops_one_key(bench: Bench) -> None:
    """The messages of that key from the bad one on are held in order; every other key goes on."""
    bench.source.put_all(message(number, keys=1_000, quantity=-1 if number == 50 else 1) for number in range(1_060))
    end = bench.run()
    assert end.kind is EndKind.END
    held = bench.journal.intake.held(NAME)
    assert [(each.kind, each.id) for each in held] == [
        (HeldKind.FAILED, "m-50"),
        (HeldKind.FOLLOWER, "m-1050"),
    ]
    assert held[0].reason.startswith("ValueError at ")
    assert "quantity" not in held[0].reason
    assert len(bench.effects()) == 1_058
    check_exact(bench)


@POSTGRESQL_IN_SOAK
def test_a_fault_of_every_key_pauses_the_pipeline(bench: Bench) -> None:
    """The breaker sets at most four keys aside: messages before the fault are applied, the rest stay in the source."""
    bench.source.put_all(message(number, quantity=-1 if number >= 150 else 1) for number in range(400))
    end = bench.run()
    assert end.kind is EndKind.PAUSED
    assert "ValueError" in end.reason
    assert sorted(bench.effects()) == sorted(f"m-{number}" for number in range(150))
    assert len(bench.journal.intake.held(NAME)) < BREAKER_KEYS
    assert bench.run((2, 1)).kind is EndKind.PAUSED
    assert bench.audit().findings == ()


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [(1, 1, None), (1, 2, HeldKind.CONFLICT)],
    ids=["same content", "other content"],
)
def test_an_id_with_other_content_is_no_duplicate(bench: Bench, first: int, second: int, kind: HeldKind | None) -> None:
    """In one batch and in a later one, the second message is set aside and never taken for the first."""
    bench.source.put_all([message(1, quantity=first), message(1, quantity=second), message(2)])
    bench.run()
    bench.source.put_all([message(1, quantity=second), message(1, quantity=first)])
    bench.run((2, 1))
    assert bench.effects() == ["m-1", "m-2"]
    held = bench.journal.intake.held(NAME)
    assert {each.kind for each in held} == ({kind} if kind else set())
    assert [each.position for each in held] == ([1, 3] if kind else [])
    assert bench.audit().findings == ()


@POSTGRESQL_IN_SOAK
@pytest.mark.parametrize(
    "bad",
    [b"{", b"[1]", b'{"sku": "a"}', b'{"id": 5, "sku": "a"}', b'{"id": "\\u0000", "sku": "a"}', b"\xff", None],
    ids=["json", "type", "no id", "number", "nul", "utf-8", "empty"],
)
def test_an_undecodable_message_is_set_aside(bench: Bench, bad: bytes | None) -> None:
    """It holds up no other message, and its one-line reason quotes no content."""
    bench.source.put_all([message(0), message(1)])
    bench.source.put(bad)
    bench.source.put_all([message(10), message(11)])
    assert bench.run().kind is EndKind.END
    (held,) = bench.journal.intake.held(NAME)
    assert (held.kind, held.position, held.value) == (HeldKind.UNDECODABLE, 2, bad)
    assert held.reason
    assert "\n" not in held.reason
    assert bench.effects() == ["m-0", "m-1", "m-10", "m-11"]
    assert bench.audit().findings == ()


def test_partitions_have_positions_of_their_own(journal: SqlJournal) -> None:
    """Two partitions at once share the memory of ids: a message that comes in both takes effect once."""
    bench = Bench(journal, counting(), MemorySource(("a", "b")))
    for partition in "ab":
        bench.source.put_all((message(number) for number in range(200)), partition=partition)

    async def both() -> None:
        await asyncio.gather(*(bench.take(partition=each) for each in "ab"))

    asyncio.run(both())
    assert sorted(bench.effects()) == sorted(bench.ids("a"))
    assert bench.audit("a").counts.applied + bench.audit("b").counts.applied == 200
    assert bench.audit("a").findings == bench.audit("b").findings == ()
