"""Exploring a saga: verdict, stories, contracts, budget and replay."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from runs.proved_shop import ORDER, PAYMENT, PlaceOrder, StockItem, charge_card, place_order, reserve_stock

from amends import Call, InputError, Rejected, Retry, Saga, effect, pivot
from amends.aggregates.run.state import RunStatus
from amends.sagas.definition.participants import Contract
from amends.sagas.prove.end import End
from amends.sagas.prove.experiment import Experiment
from amends.sagas.prove.report import Report, Verdict
from amends.sagas.prove.runtime.explore import explore, replay
from amends.sagas.prove.search import Search

GIVEN = [StockItem("teapot", free=10)]


def stock_is_right(end: End) -> None:
    """Check that an order takes one piece exactly if it is completed."""
    assert end.aggregate(StockItem, "teapot").free == (9 if end.completed else 10)


def explored(**changes: Any) -> Report:  # noqa: ANN401 - any argument of `explore`
    """Explore the shop's saga."""
    return explore(place_order, ORDER, **{"given": GIVEN, **changes})


def test_the_shop_holds_with_two_faults() -> None:
    """Every story of the README's saga keeps every law, and the search says so in exact numbers."""
    report = explored(invariant=stock_is_right, faults=2)
    assert (report.verdict, report.holds, report.broken) == (Verdict.PROVED, True, ())
    assert report.states > 400
    assert report.scenarios > 5_000
    assert {status for statuses in report.explored.ends for status in statuses} == {
        RunStatus.COMPLETED,
        RunStatus.COMPENSATED,
        RunStatus.NEEDS_ATTENTION,
    }


def test_more_faults_give_more_stories() -> None:
    """Without a fault there is one story; the numbers grow with the faults."""
    counts = [explored(faults=faults).scenarios for faults in range(3)]
    assert counts[0] == 1
    assert counts == sorted(set(counts))


def test_a_broken_invariant_names_its_shortest_story() -> None:
    """A wrong invariant breaks in the story without a fault, which is a shortest one."""

    def wrong(end: End) -> None:
        assert end.aggregate(StockItem, "teapot").free == 10, "a piece is missing"

    report = explored(invariant=wrong)
    broken = report.broken[0]
    assert (report.verdict, broken.law.name, broken.faults) == (Verdict.BROKEN, "invariant", 0)
    assert "a piece is missing" in broken.message
    assert [line.fault for line in broken.story.lines] == [False] * 3
    assert broken.story.statuses == (RunStatus.COMPLETED,)


def test_always_is_checked_while_the_run_is_open() -> None:
    """`always` sees the stock while it is reserved, also at no end."""

    def never_reserved(end: End) -> None:
        assert end.aggregate(StockItem, "teapot").free == 10

    def refused(_: End) -> None:
        raise AssertionError

    report = explored(always=never_reserved, faults=0, results={charge_card: Rejected("no funds")})
    assert len(report.broken[0].story.lines) == 1
    assert explored(always=refused, faults=0).broken[0].story.lines == ()


def test_the_contract_decides_whether_a_saga_holds() -> None:
    """A participant that remembers undos is safe; a keyed one fails after two faults, a forgetful one after one."""
    faults = {}
    for contract in Contract:
        report = explored(contracts={PAYMENT: contract})
        faults[contract] = report.broken[0].faults if report.broken else None
    assert faults == {Contract.REMEMBERS_UNDO: None, Contract.KEYED: 2, Contract.FORGETFUL: 1}


def test_a_token_plays_its_story_again() -> None:
    """The token alone holds faults, contracts and moves of the story."""
    broken = explored(contracts={"payment": Contract.KEYED}).broken[0]
    story = replay(broken.token, place_order, ORDER, given=GIVEN)
    assert str(story) == str(broken.story)
    assert [fact.kind for fact in story.facts] == [fact.kind for fact in broken.story.facts]
    assert story.books == broken.story.books


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("nonsense", "no replay token"),
        ("1.2.0.k.ab21d722.!", "no replay token"),
        ("1.2.0.kk.00000000.AA", "about 2 participants"),
        ("1.2.0.k.00000000.AA", "another saga or input"),
    ],
)
def test_a_wrong_token_is_refused_in_one_line(token: str, message: str) -> None:
    """A token that is damaged, or of another saga, is refused and never played."""
    with pytest.raises(InputError, match=message) as caught:
        replay(token, place_order, ORDER, given=GIVEN)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contracts": {"bank": Contract.KEYED}}, "no effect of the saga calls this participant; it calls payment"),
        ({"faults": -1}, "faults=-1"),
        ({"operators": True}, "operators=True"),
        ({"seconds": 0}, "seconds=0"),
        ({"given": ["teapot"]}, "give aggregates"),
        ({"results": {charge_card: object()}}, "result of step 'charge_card'"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    """Each argument that does not fit is refused before the search begins."""
    with pytest.raises(InputError) as caught:
        explored(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_results_replace_a_function_and_may_refuse() -> None:
    """A refusal as the result of the payment undoes every run."""
    report = explored(faults=0, results={charge_card: Rejected("no funds")}, invariant=stock_is_right)
    assert report.explored.ends == {(RunStatus.COMPENSATED,): 1}


@effect
async def waits(_: PlaceOrder, __: Call) -> str:
    """Wait for something that never comes in a search."""
    import asyncio  # noqa: PLC0415 - as a user's function does

    await asyncio.sleep(1)
    return "done"


def test_a_function_that_waits_is_named_with_its_remedy() -> None:
    """The search cannot wait for a network, so it ends in one line that names the step."""
    with pytest.raises(InputError, match=r"step .waits.: its function waits .* results=\{waits: a result\}"):
        explore(Saga("waiting", PlaceOrder, pivot(waits)), ORDER)


def test_a_spent_budget_is_called_sampled() -> None:
    """When the budget is spent, random stories follow, and the report never says "proved"."""
    prepared = Experiment(saga=place_order, input=ORDER, given=GIVEN, faults=3).prepare()
    counts = iter(range(1_000_000))
    search = Search(prepared.player, budget=lambda states: 0.0 if states < 100 else 0.8 + next(counts) / 100, seed=7)
    explored_in_part = search.explore(prepared.root)
    assert explored_in_part.sampled > 0
    assert explored_in_part.complete < 3
    assert not explored_in_part.violations
    report = dataclasses.replace(explored(faults=3, seconds=0.5), broken=())
    assert report.verdict is Verdict.SAMPLED
    assert "random stories with seed 0" in str(report)


def test_equal_seeds_find_equal_stories() -> None:
    """Random stories depend on the seed alone."""

    def explored_with(seed: int) -> object:
        prepared = Experiment(
            saga=place_order, input=ORDER, given=GIVEN, faults=3, contracts={PAYMENT: Contract.FORGETFUL}
        ).prepare()
        counts = iter(range(1_000_000))
        budget = lambda states: 0.0 if states < 32 else 0.8 + next(counts) / 200  # noqa: E731 - one line is clearer
        return Search(prepared.player, budget=budget, seed=seed).explore(prepared.root)

    assert explored_with(3) == explored_with(3)
    assert explored_with(3) != explored_with(4)


@effect(retry=Retry(max_attempts=1), timeout=timedelta(seconds=1))
async def ship(_: PlaceOrder, __: Call) -> str:
    """Ship the parcel."""
    return "shipped"


def test_a_pivot_in_doubt_asks_an_operator() -> None:
    """A pivot without an undo whose reply is lost leaves the decision to people; with one decision the run ends."""
    saga = Saga("ship", PlaceOrder, reserve_stock, pivot(ship))
    report = explore(saga, ORDER, given=GIVEN, faults=1)
    decided = explore(saga, ORDER, given=GIVEN, faults=1, operators=1)
    assert report.holds
    assert decided.holds
    assert (RunStatus.NEEDS_ATTENTION,) in report.explored.ends
    assert len(decided.coverage.used) > len(report.coverage.used)


def test_two_runs_share_one_aggregate() -> None:
    """Of two orders for the last piece exactly one completes, in every interleaving."""

    def never_oversold(end: End) -> None:
        completed = sum(run.status is RunStatus.COMPLETED for run in end.runs)
        assert end.aggregate(StockItem, "teapot").free == 1 - completed
        assert completed <= 1

    report = explore(
        place_order,
        ORDER,
        others=[(place_order, PlaceOrder(order_id="o-2", sku="teapot"))],
        given=[StockItem("teapot", free=1)],
        faults=1,
        invariant=never_oversold,
    )
    assert report.holds
    assert (RunStatus.COMPLETED, RunStatus.COMPENSATED) in report.explored.ends
    assert (RunStatus.COMPENSATED, RunStatus.COMPLETED) in report.explored.ends
