"""Random stories of the search lead to the same facts and aggregates on a real store."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from proving.real_world import RealStore
from runs.proved_shop import ORDER, PAYMENT, PlaceOrder, StockItem, place_order

from amends.aggregates.errors import AmendsError
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.journal import StepWork, Tx
from amends.aggregates.run.facts import CancelRequested, Fact, SagaCompleted
from amends.aggregates.sql.engine import create_store_engine
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.aggregates.sql.migrations import upgrade
from amends.sagas.definition.participants import Contract
from amends.sagas.engine.fact_writer import FactWriter
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.engine.start import Start
from amends.sagas.prove.books import Books
from amends.sagas.prove.experiment import Experiment
from amends.sagas.prove.memory import MemoryTx, Shelf
from amends.sagas.prove.search import Stepper
from amends.sagas.prove.values import content_of

STORIES = 12


def opened(url: str) -> SqlJournal:
    """Open a store with its schema."""
    engine = create_store_engine(url)
    upgrade(engine)
    engine.dispose()
    return open_journal(url, aggregates=[StockItem])


@pytest.fixture
def journal(store_url: str) -> Iterator[SqlJournal]:
    """Open an empty store of either kind."""
    journal = opened(store_url)
    yield journal
    journal.close_blocking()


def comparable(fact: Fact) -> dict[str, Any]:
    """Return a fact without the identity and the clock of its store."""
    return {"kind": fact.kind, **fact.model_dump(exclude={"recorded_at_ms", "store_id"})}


@pytest.mark.parametrize("contract", [Contract.REMEMBERS_UNDO, Contract.FORGETFUL])
def test_random_stories_are_the_same_on_a_real_store(journal: SqlJournal, contract: Contract) -> None:
    """Two orders for the last piece, with faults and operators: facts and stock are those of the search."""
    random = Stepper(11)
    lengths = set()
    for number in range(STORIES):
        prepared = Experiment(
            saga=place_order,
            input=ORDER.model_copy(update={"sku": f"teapot-{number}"}),
            others=[(place_order, PlaceOrder(order_id="o-2", sku=f"teapot-{number}"))],
            given=[StockItem(f"teapot-{number}", free=1)],
            faults=3,
            operators=2,
            contracts={PAYMENT: contract},
            prefix=f"story-{number}",
        ).prepare()
        world = RealStore(journal, prepared).play(random)
        for start, log in zip(prepared.starts, world.logs, strict=True):
            facts = journal.facts_blocking(start.run_id)
            assert list(map(comparable, facts)) == list(map(comparable, log.facts()))
            lengths.add(len(facts))
        stock = journal.load_blocking(StockItem, f"teapot-{number}")
        assert content_of(stock) == world.shelf.kept[StockItem.stream_of(f"teapot-{number}")].content
    assert len(lengths) > 3, "the stories are all alike"


class WorkCase(NamedTuple):
    """Uses of a transaction step that both kinds of `Tx` must treat alike."""

    name: str
    steps: tuple[Callable[[StepWork], object], ...]


def _reserve(work: StepWork) -> None:
    work.get(StockItem, "cup").reserve()


def _reserve_and_fail(work: StepWork) -> None:
    _reserve(work)
    raise RuntimeError("after it wrote")


WORK = (
    WorkCase("a new aggregate", (lambda work: work.add(StockItem("bowl", free=2)),)),
    WorkCase("an aggregate that exists", (lambda work: work.add(StockItem("cup", free=2)),)),
    WorkCase("a missing aggregate", (lambda work: work.get(StockItem, "none"),)),
    WorkCase("a missing aggregate that is only sought", (lambda work: work.find(StockItem, "none"),)),
    WorkCase("a change", (_reserve, _reserve)),
    WorkCase("a change that is rolled back", (_reserve, _reserve_and_fail, _reserve)),
    WorkCase("no change", (lambda work: work.get(StockItem, "cup").free == 5,)),
    WorkCase("another class", (lambda work: work.get(StockItem, "cup") is work.find(StockItem, "cup"),)),
)


def outcomes(tx: Tx, case: WorkCase) -> list[str]:
    """Run the steps of a case, and return how each ended."""
    ended = []
    for step in case.steps:
        try:
            with tx.unit_of_work() as work:
                value = step(work)
                ended.append(f"returned {value}" if isinstance(value, bool | None) else "returned an aggregate")
        except Exception as error:  # noqa: BLE001 - its class is compared
            ended.append(type(error).__name__)
    return ended


@pytest.mark.parametrize("case", WORK, ids=lambda case: case.name.replace(" ", "-"))
def test_a_step_in_memory_ends_as_on_a_real_store(journal: SqlJournal, case: WorkCase) -> None:
    """A transaction step has the same outcome and leaves the same aggregates in both."""
    memory = MemoryTx({}, Books(), Shelf(), 0, EventCodec())

    def add(tx: Tx) -> None:
        with tx.unit_of_work() as work:
            work.add(StockItem("cup", free=5))

    add(memory)
    journal.commit_blocking(add)
    assert outcomes(memory, case) == journal.commit_blocking(lambda tx: outcomes(tx, case))
    for name in ("cup", "bowl"):
        real, kept = journal.load_blocking(StockItem, name), memory.shelf.kept.get(StockItem.stream_of(name))
        assert (None if real is None else content_of(real)) == (None if kept is None else kept.content)


def appends(tx: Tx, start: Start) -> list[str]:
    """Append in ways that a journal must refuse, and return how each ended."""
    ended = []
    registry = Experiment(saga=place_order, input=ORDER).prepare().registry
    protocol = RunProtocol(registry, "worker")
    first = protocol.accept(tx, start, 0)
    second = tx.append(first, (FactWriter(first, 0, 0).write(CancelRequested, reason="no need"),))
    stale = FactWriter(first, 0, 0).write(CancelRequested, reason="again")
    impossible = FactWriter(second, 0, 0).write(SagaCompleted)
    gap = impossible.model_copy(update={"originator_version": 7})
    foreign = impossible.model_copy(update={"originator_id": "run/other"})
    for record, fact in ((first, stale), (second, impossible), (second, gap), (second, foreign)):
        try:
            tx.append(record, (fact,))
            ended.append("appended")
        except AmendsError as error:
            ended.append(type(error).__name__)
    try:
        tx.accept(start.plan, first.started)
    except AmendsError as error:
        ended.append(type(error).__name__)
    left = tx.record(start.run_id)
    return [*ended, str(left and left.state.position), str(tx.record("none"))]


def test_an_append_in_memory_is_refused_as_on_a_real_store(journal: SqlJournal) -> None:
    """Stale positions, impossible facts, gaps and a second start are refused by the same errors."""
    start = Experiment(saga=place_order, input=ORDER).prepare().starts[0]
    memory = MemoryTx({}, Books(), Shelf(), 0, EventCodec())
    real = journal.commit_blocking(lambda tx: appends(tx, start))
    assert appends(memory, start) == real
    assert real.count("appended") == 0
