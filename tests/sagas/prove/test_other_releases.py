"""Other code is deployed while a run is open: the run waits, no attempt is used, and the right code continues."""

from runs.proved_shop import ORDER, PlaceOrder, StockItem, charge_card, confirm_order, place_order, reserve_stock

from amends import Saga, parallel, pivot
from amends.aggregates.run.state import RunStatus
from amends.sagas.prove.experiment import Experiment, Prepared
from amends.sagas.prove.moves import MoveKind
from amends.sagas.prove.search import Search
from amends.sagas.prove.units import Played
from amends.sagas.prove.world import World


def same_order(order: PlaceOrder) -> PlaceOrder:
    """Return the order unchanged."""
    return order


MAPPING = f"{__name__}:same_order"
TWICE = Saga(
    "charge-twice",
    PlaceOrder,
    parallel(charge_card, charge_card.using(same_order, name="charge-again")),
    pivot(confirm_order),
)


def prepared(saga: Saga[PlaceOrder]) -> Prepared:
    """Return an experiment with one fault."""
    return Experiment(saga=saga, input=ORDER, given=[StockItem("teapot", free=1)], faults=1).prepare()


def played(experiment: Prepared, world: World, kind: MoveKind, detail: str = "") -> Played | None:
    """Return the move of a kind in a world; `None` if it is not possible."""
    moves = experiment.player.expand(world)
    return next((each for each in moves if each.move.kind is kind and each.move.detail == detail), None)


def after(experiment: Prepared, world: World, kind: MoveKind, detail: str = "") -> World:
    """Return the world after a move of a kind."""
    move = played(experiment, world, kind, detail)
    assert move is not None
    return move.world


def test_a_run_waits_for_its_step_and_goes_on() -> None:
    """Without the first step nothing can happen until it is deployed again; then the run completes."""
    shop = prepared(place_order)
    waiting = after(shop, shop.root, MoveKind.OTHER_CODE, repr(reserve_stock.name))
    assert [each.move.kind for each in shop.player.expand(waiting)] == [MoveKind.RIGHT_CODE]
    world = after(shop, waiting, MoveKind.RIGHT_CODE, repr(reserve_stock.name))
    assert world.runs == shop.root.runs
    while moves := shop.player.expand(world):
        world = moves[0].world
    assert world.runs[0].state.status is RunStatus.COMPLETED


def test_the_rest_of_a_group_goes_on_without_a_mapping() -> None:
    """A release that lacks the mapping of one call makes the other call, and claims the first one later."""
    shop = prepared(TWICE)
    waiting = after(shop, shop.root, MoveKind.OTHER_CODE, repr(MAPPING))
    driven = played(shop, waiting, MoveKind.DRIVE)
    assert driven is not None
    assert [each.head.node for each in driven.appended] == ["charge_card"]
    assert played(shop, driven.world, MoveKind.DRIVE) is None
    back = after(shop, driven.world, MoveKind.RIGHT_CODE, repr(MAPPING))
    later = played(shop, back, MoveKind.DRIVE)
    assert later is not None
    assert [each.head.node for each in later.appended] == ["charge-again"]


def test_a_lost_worker_is_not_replaced_by_one_without_its_code() -> None:
    """A claimed call is delivered again only to a worker that can make it."""
    shop = prepared(place_order)
    world = after(shop, shop.root, MoveKind.DRIVE)
    lacking = world._replace(lacks=charge_card.name, calls=(), faults=0)
    kinds = [each.move.kind for each in shop.player.expand(lacking)]
    assert kinds == [MoveKind.WAIT, MoveKind.RIGHT_CODE]
    assert MoveKind.REDELIVER in [each.move.kind for each in shop.player.expand(lacking._replace(lacks=""))]


def test_no_deploy_breaks_a_law() -> None:
    """Every story of the saga with a mapping keeps every law."""
    shop = prepared(TWICE)
    assert Search(shop.player).explore(shop.root).violations == ()
