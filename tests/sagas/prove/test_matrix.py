"""The contract matrix, and two runs in one world."""

from itertools import product

from eventsourcing.domain import event
from runs.proved_shop import ORDER, PAYMENT, PlaceOrder, StockItem, charge_card, place_order, reserve_stock

from amends import (
    Aggregate,
    Call,
    Contract,
    Participant,
    Rejected,
    Saga,
    UnitOfWork,
    effect,
    pivot,
    retriable,
    transaction,
)
from amends.aggregates.run.state import RunStatus
from amends.sagas.prove.end import End
from amends.sagas.prove.experiment import Experiment
from amends.sagas.prove.runtime.explore import explore, replay
from amends.sagas.prove.runtime.matrix import contract_matrix

GIVEN = [StockItem("teapot", free=10)]
SHIPPING = Participant("shipping", contract=Contract.KEYED)
MAIL = Participant("mail", contract=Contract.KEYED)


def test_the_matrix_names_the_contract_that_a_saga_needs() -> None:
    """The README's saga holds if the payment remembers undos; each weaker contract has a story that can be replayed."""
    matrix = contract_matrix(Experiment(saga=place_order, input=ORDER, given=GIVEN))
    assert {row.contracts["payment"]: row.holds for row in matrix.rows} == {
        Contract.REMEMBERS_UNDO: True,
        Contract.KEYED: False,
        Contract.FORGETFUL: False,
    }
    assert matrix.needed == {"payment": Contract.REMEMBERS_UNDO}
    broken = matrix.rows[1].report.broken[0]
    assert str(replay(broken.token, place_order, ORDER, given=GIVEN)) == str(broken.story)
    assert f"payment: keyed: fails: {broken.message}" in str(matrix)


@effect(participant=SHIPPING)
async def ship(_: PlaceOrder, __: Call) -> str:
    """Ship the parcel."""
    return "shipped"


@effect(participant=MAIL)
async def mail(_: PlaceOrder, __: Call) -> str:
    """Write to the customer."""
    return "written"


def test_two_participants_are_combined() -> None:
    """Two participants have nine combinations; an effect that is undone needs more of its participant than a pivot."""
    saga = Saga("ship", PlaceOrder, charge_card, pivot(ship))
    matrix = contract_matrix(Experiment(saga=saga, input=ORDER, faults=2))
    holds = {(row.contracts["payment"], row.contracts["shipping"]): row.holds for row in matrix.rows}
    assert set(holds) == set(product(Contract, Contract))
    assert {contracts for contracts, row_holds in holds.items() if row_holds} == {
        (Contract.REMEMBERS_UNDO, Contract.REMEMBERS_UNDO),
        (Contract.REMEMBERS_UNDO, Contract.KEYED),
    }
    assert matrix.needed == {"payment": Contract.REMEMBERS_UNDO, "shipping": Contract.KEYED}


def test_of_three_participants_one_is_weak_at_a_time() -> None:
    """With three participants each is weak alone, and then all are: nine searches in place of twenty-seven."""
    saga = Saga("ship-and-tell", PlaceOrder, charge_card, pivot(ship), retriable(mail))
    matrix = contract_matrix(Experiment(saga=saga, input=ORDER, faults=0))
    weak = [sum(each is not Contract.REMEMBERS_UNDO for each in row.contracts.values()) for row in matrix.rows]
    assert weak == [0, 1, 1, 1, 1, 1, 1, 3, 3]


class Duty(Aggregate):
    """A person who may be on call."""

    @event("Entered")
    def __init__(self, id: str) -> None:  # noqa: A002, ARG002 - the word that aggregates use
        self.on_call = True

    @event("Left")
    def leave(self) -> None:
        """Go off call."""
        self.on_call = False


class Leave(PlaceOrder):
    """A request to go off call."""

    person: str
    other: str


@transaction
def go_off_call(request: Leave, uow: UnitOfWork) -> str:
    """Go off call if the other one stays."""
    if not uow.get(Duty, request.other).on_call:
        raise Rejected("nobody would be left")
    uow.get(Duty, request.person).leave()
    return "off call"


def test_there_is_no_write_skew() -> None:
    """Of two people who go off call at the same time one stays, in every order of the two runs."""

    def someone_stays(end: End) -> None:
        assert end.aggregate(Duty, "ann").on_call or end.aggregate(Duty, "bob").on_call

    saga = Saga("leave", Leave, pivot(go_off_call))
    first, second = (
        Leave(order_id="o", sku="s", person=person, other=other) for person, other in (("ann", "bob"), ("bob", "ann"))
    )
    report = explore(
        saga, first, others=[(saga, second)], given=[Duty("ann"), Duty("bob")], faults=1, always=someone_stays
    )
    assert report.holds
    assert report.explored.ends[RunStatus.COMPLETED, RunStatus.COMPENSATED] >= 1
    assert report.explored.ends[RunStatus.COMPENSATED, RunStatus.COMPLETED] >= 1


def test_a_check_outside_of_the_transaction_is_found() -> None:
    """A stock that one step reads and another one changes is oversold, and the search finds how."""

    @transaction
    def look(order: PlaceOrder, uow: UnitOfWork) -> int:
        free = uow.get(StockItem, order.sku).free
        if free == 0:
            raise Rejected("sold out")
        return free

    @look.compensation
    def forget(_: object, __: UnitOfWork) -> None:
        return None

    def never_oversold(end: End) -> None:
        assert end.aggregate(StockItem, "teapot").free >= 0

    @effect(participant=PAYMENT)
    async def think(_: PlaceOrder, __: Call) -> str:
        return "thought"

    @think.compensation
    async def unthink(_: object, __: Call) -> None:
        return None

    @transaction
    def take(order: PlaceOrder, uow: UnitOfWork) -> int:
        item = uow.get(StockItem, order.sku)
        item.reserve()
        return item.free

    saga = Saga("careless", PlaceOrder, look, think, pivot(take))
    report = explore(
        saga, ORDER, others=[(saga, ORDER)], given=[StockItem("teapot", free=1)], faults=0, always=never_oversold
    )
    assert [broken.law.name for broken in report.broken] == ["invariant"]
    assert reserve_stock.name == "reserve_stock"
