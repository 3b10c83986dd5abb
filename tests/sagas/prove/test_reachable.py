"""The ways in which runs of a plan can end, without code of the user."""

from datetime import timedelta

from runs.proved_shop import PlaceOrder, place_order, reserve_stock

from amends import Call, Retry, Saga, effect, pivot, retriable
from amends.aggregates.run.state import NodeStatus, RunStatus
from amends.sagas.prove.plans.reachable import OpenNode, ReachableEnd, explore_plan


@effect(retry=Retry(max_attempts=3), timeout=timedelta(seconds=1))
async def ship(_: PlaceOrder, __: Call) -> str:
    """Ship the parcel, without an undo."""
    return "shipped"


def test_a_pivot_without_undo_can_stay_open_after_one_fault() -> None:
    """All attempts that fail count as one fault, and a pivot in doubt asks an operator."""
    found = explore_plan(Saga("ship", PlaceOrder, reserve_stock, pivot(ship)).plan, faults=1)
    assert found.complete == 1
    assert ReachableEnd(RunStatus.COMPLETED, (), 0) in found.ends
    assert ReachableEnd(RunStatus.NEEDS_ATTENTION, (OpenNode("ship", NodeStatus.IN_DOUBT),), 1) in found.ends


def test_an_unlimited_step_stays_open_only_when_it_is_refused() -> None:
    """A step that is repeated without limit never gives up."""
    saga = Saga("later", PlaceOrder, pivot(reserve_stock), retriable(ship, retry=Retry(max_attempts=None)))
    opened = {each.open_nodes for each in explore_plan(saga.plan, faults=1).ends if each.open_nodes}
    assert opened == {(OpenNode("ship", NodeStatus.REJECTED),)}


def test_a_spent_budget_is_reported() -> None:
    """The number of faults up to which everything was explored stays below the bound when the time is over."""
    counts = iter(range(1_000_000))
    found = explore_plan(place_order.plan, budget=lambda _: next(counts) / 4)
    assert found.complete < found.faults
