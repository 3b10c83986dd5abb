"""The sagas that both drivers must run alike, and the comparison of the facts that they write."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from bounds import HANG, HANG_S
from eventsourcing.domain import event
from pydantic import BaseModel

from amends import (
    Aggregate,
    Attempted,
    Call,
    Client,
    Done,
    Rejected,
    Retry,
    Runner,
    RunStatus,
    Saga,
    UnitOfWork,
    effect,
    parallel,
    pivot,
    retriable,
    transaction,
)
from amends.aggregates.journal import Journal
from amends.aggregates.run.facts import Fact
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import NodeStatus
from amends.sagas.engine.interventions import Intervention, InterventionKind

__all__ = [
    "CASES",
    "DECIDED",
    "MIXED",
    "SAGA",
    "SLOW",
    "Case",
    "Goods",
    "Order",
    "comparable",
    "decided_by_client",
    "decided_by_runner",
    "until_rest",
]

QUICK = Retry(max_attempts=3, first=timedelta(milliseconds=10), factor=1)


class Order(BaseModel):
    """An order that names the faults of its own steps."""

    order_id: str
    fail: tuple[str, ...] = ()
    flaky: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()
    held: bool = False


class Goods(Aggregate):
    """The goods for sale."""

    @event("Counted")
    def __init__(self, id: str) -> None:  # noqa: A002, ARG002 - the word that aggregates use
        self.held = 0
        self.sold = 0

    @event("Held")
    def hold(self) -> None:
        """Hold one item."""
        self.held += 1

    @event("Freed")
    def free(self) -> None:
        """Release one held item."""
        self.held -= 1

    @event("Sold")
    def sell(self) -> None:
        """Sell one of the held items."""
        self.held -= 1
        self.sold += 1


def play(name: str, order: Order, attempt: int) -> str:
    """Behave as the order demands for this step."""
    if name in order.fail:
        raise Rejected(f"{name} says no")
    if name in order.stuck or (name in order.flaky and attempt == 1):
        raise ConnectionError(f"{name} got no answer")
    return f"{name} of {order.order_id}"


@transaction(retry=QUICK)
def hold(order: Order, uow: UnitOfWork) -> str:
    """Hold the goods."""
    (uow.find(Goods, "goods") or uow.add(Goods("goods"))).hold()
    return play("hold", order, uow.attempt)


@hold.compensation
def free(_: Done[Order, str], uow: UnitOfWork) -> None:
    """Release the goods."""
    uow.get(Goods, "goods").free()


BEGUN: defaultdict[tuple[str, str], threading.Event] = defaultdict(threading.Event)
"""The parallel steps that have begun, by run: one that fails waits for the other, so that all runs look alike."""


@effect(retry=QUICK)
async def charge(order: Order, call: Call) -> str:
    """Charge the money."""
    BEGUN[call.run_id, "charge"].set()
    if "charge" in order.fail + order.stuck:
        await asyncio.to_thread(BEGUN[call.run_id, "notify"].wait, HANG_S)
    return play("charge", order, call.attempt)


@charge.compensation(retry=QUICK)
async def refund(tried: Attempted[Order, str], call: Call) -> None:
    """Refund the money."""
    play("refund", tried.input, call.attempt)


@effect(retry=QUICK)
def notify(order: Order, call: Call) -> str:
    """Notify the warehouse, in a function that blocks."""
    BEGUN[call.run_id, "notify"].set()
    if "notify" in order.fail + order.stuck:
        BEGUN[call.run_id, "charge"].wait(HANG_S)
    return play("notify", order, call.attempt)


@notify.probe
def was_notified(order: Order, _: Call) -> str | None:
    """Ask the warehouse whether the notification arrived."""
    return "found" if "found" in order.flaky else None


@notify.compensation(retry=QUICK)
def forget(tried: Attempted[Order, str], call: Call) -> None:
    """Withdraw the notification of the warehouse."""
    play("forget", tried.input, call.attempt)


@transaction(retry=QUICK)
def sell(order: Order, uow: UnitOfWork) -> str:
    """Sell the goods, or refuse."""
    uow.get(Goods, "goods").sell()
    return play("sell", order, uow.attempt) + " after " + uow.result_of(charge)


@effect(retry=QUICK, local=True)
async def thank(order: Order, call: Call) -> str:
    """Write a letter."""
    return play("thank", order, call.attempt)


SAGA = Saga("order", Order, hold, parallel(charge, notify), pivot(sell), retriable(thank), keys=("order_id",))

GATES: defaultdict[str, threading.Event] = defaultdict(threading.Event)
"""Events with which a test releases a delayed call, by run."""


@effect(retry=Retry(max_attempts=2, first=timedelta(hours=1)))
async def ponder(order: Order, call: Call) -> str:
    """Behave as the order demands; another attempt follows only after an hour."""
    if order.held:
        BEGUN[call.run_id, "ponder"].set()
        await asyncio.to_thread(GATES[call.run_id].wait, HANG_S)
    return play("ponder", order, call.attempt)


@ponder.compensation(retry=QUICK)
async def forget_it(tried: Attempted[Order, str], call: Call) -> None:
    """Behave as the order demands; there is no effect to undo."""
    play("forget-it", tried.input, call.attempt)


@transaction(retry=QUICK)
def sell_slowly(order: Order, uow: UnitOfWork) -> str:
    """Sell the goods, or refuse, after `ponder`."""
    uow.get(Goods, "goods").sell()
    return play("sell", order, uow.attempt) + " after " + uow.result_of(ponder)


SLOW = Saga("slow-order", Order, hold, ponder, pivot(sell_slowly), keys=("order_id",))

MIXED = Saga("mixed-order", Order, parallel(hold, notify), ponder, pivot(sell_slowly), keys=("order_id",))
"""A parallel call and transaction: an undo begins both in one turn of the workflow."""


class Case(NamedTuple):
    """A run in which operators intervene.

    Attributes:
        saga: The saga.
        order: Its input.
        decisions: The interventions, each written when the run makes no progress without one, or none for a long time.
        status: The run's status at its end.
    """

    saga: Saga[Order]
    order: Order
    decisions: tuple[Intervention, ...]
    status: RunStatus


def _decide(verb: InterventionKind, node: str | None = None, output: str | None = None) -> Intervention:
    return Intervention(kind=verb, actor="ann", reason="so be it", node=node, evidence="seen", output=output)


CASES = {
    "all goes well": (Order(order_id="x"), RunStatus.COMPLETED),
    "the first step is refused": (Order(order_id="x", fail=("hold",)), RunStatus.COMPENSATED),
    "a transaction fails for good": (Order(order_id="x", stuck=("hold",)), RunStatus.COMPENSATED),
    "an effect is refused": (Order(order_id="x", fail=("charge",)), RunStatus.COMPENSATED),
    "an effect answers the second time": (Order(order_id="x", flaky=("charge",)), RunStatus.COMPLETED),
    "an effect never answers": (Order(order_id="x", stuck=("charge",)), RunStatus.COMPENSATED),
    "the probe finds nothing": (Order(order_id="x", stuck=("notify",)), RunStatus.COMPENSATED),
    "the probe finds it": (Order(order_id="x", stuck=("notify",), flaky=("found",)), RunStatus.COMPLETED),
    "the pivot says no": (Order(order_id="x", fail=("sell",)), RunStatus.COMPENSATED),
    "an undo answers the second time": (Order(order_id="x", fail=("sell",), flaky=("refund",)), RunStatus.COMPENSATED),
    "an undo never answers": (Order(order_id="x", fail=("sell",), stuck=("refund",)), RunStatus.NEEDS_ATTENTION),
    "an undo is refused": (Order(order_id="x", fail=("sell", "forget")), RunStatus.NEEDS_ATTENTION),
    "after the pivot a step is refused": (Order(order_id="x", fail=("thank",)), RunStatus.NEEDS_ATTENTION),
}
"""Runs of `SAGA` without interventions, and their ends."""

_STUBBORN = Order(order_id="x", fail=("sell",), stuck=("refund",))
_REFUSED_BEHIND = Order(order_id="x", fail=("thank",))
_DOUBTFUL_BEHIND = Order(order_id="x", stuck=("thank",))
_WAITING = Order(order_id="x", stuck=("ponder",))

DECIDED = {
    "an undo is tried again": Case(
        SAGA, _STUBBORN, (_decide(InterventionKind.RETRY, "charge"),), RunStatus.NEEDS_ATTENTION
    ),
    "an undo is skipped": Case(SAGA, _STUBBORN, (_decide(InterventionKind.SKIP, "charge"),), RunStatus.COMPENSATED),
    "an undo is resolved": Case(
        SAGA,
        _STUBBORN,
        (_decide(InterventionKind.RETRY, "charge"), _decide(InterventionKind.RESOLVE, "charge")),
        RunStatus.COMPENSATED,
    ),
    "a refused step is redone": Case(
        SAGA, _REFUSED_BEHIND, (_decide(InterventionKind.RETRY, "thank"),), RunStatus.NEEDS_ATTENTION
    ),
    "a refused step is skipped": Case(
        SAGA, _REFUSED_BEHIND, (_decide(InterventionKind.SKIP, "thank", "-"),), RunStatus.COMPLETED
    ),
    "a doubtful step took effect": Case(
        SAGA, _DOUBTFUL_BEHIND, (_decide(InterventionKind.RESOLVE, "thank", "sent"),), RunStatus.COMPLETED
    ),
    "a doubtful step took none": Case(
        SAGA,
        _DOUBTFUL_BEHIND,
        (_decide(InterventionKind.RULE_OUT, "thank"), _decide(InterventionKind.SKIP, "thank", "-")),
        RunStatus.COMPLETED,
    ),
    "cancelled while it waits": Case(SLOW, _WAITING, (_decide(InterventionKind.CANCEL),), RunStatus.COMPENSATED),
    "retried while it waits": Case(SLOW, _WAITING, (_decide(InterventionKind.RETRY, "ponder"),), RunStatus.COMPENSATED),
    "skipped while it waits": Case(
        SLOW, _WAITING, (_decide(InterventionKind.SKIP, "ponder", "-"),), RunStatus.COMPLETED
    ),
    "resolved while it waits": Case(
        SLOW, _WAITING, (_decide(InterventionKind.RESOLVE, "ponder", "yes"),), RunStatus.COMPLETED
    ),
    "ruled out while it waits": Case(
        SLOW, _WAITING, (_decide(InterventionKind.RULE_OUT, "ponder"),), RunStatus.COMPENSATED
    ),
    "cancelled in flight": Case(
        SLOW, Order(order_id="x", held=True), (_decide(InterventionKind.CANCEL),), RunStatus.COMPENSATED
    ),
}
"""Runs in which operators intervene."""


async def until_rest(journal: Journal, run_id: str) -> RunRecord:
    """Wait until a run makes no progress without an intervention, or none for a long time."""
    while True:
        record = await journal.record(run_id)
        waits = record is not None and record.state.node("ponder").status is NodeStatus.WAITING
        if record is not None and (record.state.closed or waits or BEGUN[run_id, "ponder"].is_set()):
            return record
        await asyncio.sleep(0.02)


async def decided_by_client(client: Client, journal: Journal, case: Case, run_id: str) -> RunStatus:
    """Run workers that drive a run in which operators intervene."""
    handle = await client.start(case.saga, case.order, id=run_id)
    for decision in case.decisions:
        await until_rest(journal, run_id)
        await client.intervene(run_id, decision)
    GATES[run_id].set()
    return (await handle.result(timeout=HANG)).status


async def decided_by_runner(runner: Runner, case: Case, run_id: str) -> RunStatus:
    """Drive a run in which operators intervene in this process."""
    driven = asyncio.create_task(runner.run(case.saga, case.order, id=run_id))
    for decision in case.decisions:
        if (await until_rest(runner.journal, run_id)).state.closed:
            await driven
        await runner.intervene(run_id, decision)
        if driven.done():
            driven = asyncio.create_task(runner.resume(run_id))
    GATES[run_id].set()
    return (await driven).status


def comparable(facts: Sequence[Fact]) -> list[tuple[str, ...]]:
    """Return the facts that both drivers must agree on: without ids and times, and sorted inside a parallel group.

    The facts of a parallel stage are in the order in which the calls happen to end, so this function sorts each stretch
    of
    them between two facts of other stages.
    """
    side_by_side = {"charge", "notify"}
    found: list[tuple[str, ...]] = []
    group: list[tuple[str, ...]] = []
    for fact in facts:
        node = getattr(fact, "node", "")
        said = (str(getattr(fact, name, "")) for name in ("attempt", "result", "reason", "error"))
        told = (fact.kind, node, *(each.replace(fact.run_id, "RUN") for each in said))
        if node in side_by_side and fact.kind != "SagaFailed":
            group.append(told)
        else:
            found += [*sorted(group), told]
            group = []
    return found + sorted(group)
