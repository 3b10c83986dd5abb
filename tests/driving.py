"""Sagas that both drivers are held to, and the comparison of what they write."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

from eventsourcing.domain import event
from pydantic import BaseModel

from amends import (
    Aggregate,
    Attempted,
    Call,
    Done,
    Rejected,
    Retry,
    Saga,
    UnitOfWork,
    effect,
    parallel,
    pivot,
    retriable,
    transaction,
)
from amends.aggregates.facts import Fact

__all__ = ["SAGA", "Goods", "Order", "comparable"]

QUICK = Retry(max_attempts=3, first=timedelta(milliseconds=10), factor=1)


class Order(BaseModel):
    """An order that says by itself what goes wrong with it."""

    order_id: str
    fail: tuple[str, ...] = ()
    flaky: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()


class Goods(Aggregate):
    """What is there to be sold."""

    @event("Counted")
    def __init__(self, id: str) -> None:  # noqa: A002, ARG002 - the word that aggregates use
        self.held = 0
        self.sold = 0

    @event("Held")
    def hold(self) -> None:
        """Hold one."""
        self.held += 1

    @event("Freed")
    def free(self) -> None:
        """Hold one less."""
        self.held -= 1

    @event("Sold")
    def sell(self) -> None:
        """Sell one of those that are held."""
        self.held -= 1
        self.sold += 1


def play(name: str, order: Order, attempt: int) -> str:
    """Do what the order says of this step."""
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
    """Free the goods."""
    uow.get(Goods, "goods").free()


BEGUN: defaultdict[tuple[str, str], threading.Event] = defaultdict(threading.Event)
"""Who of the parallel steps has begun, by run: one that fails waits for the other, so that all runs look alike."""


@effect(retry=QUICK)
async def charge(order: Order, call: Call) -> str:
    """Take the money."""
    BEGUN[call.run_id, "charge"].set()
    if "charge" in order.fail + order.stuck:
        await asyncio.to_thread(BEGUN[call.run_id, "notify"].wait, 10)
    return play("charge", order, call.attempt)


@charge.compensation(retry=QUICK)
async def refund(tried: Attempted[Order, str], call: Call) -> None:
    """Give the money back."""
    play("refund", tried.input, call.attempt)


@effect(retry=QUICK)
def notify(order: Order, call: Call) -> str:
    """Tell the warehouse, in a function that blocks."""
    BEGUN[call.run_id, "notify"].set()
    if "notify" in order.fail + order.stuck:
        BEGUN[call.run_id, "charge"].wait(10)
    return play("notify", order, call.attempt)


@notify.probe
def was_notified(order: Order, _: Call) -> str | None:
    """Ask the warehouse."""
    return "found" if "found" in order.flaky else None


@notify.compensation(retry=QUICK)
def forget(tried: Attempted[Order, str], call: Call) -> None:
    """Tell the warehouse to forget it."""
    play("forget", tried.input, call.attempt)


@transaction(retry=QUICK)
def sell(order: Order, uow: UnitOfWork) -> str:
    """Decide."""
    uow.get(Goods, "goods").sell()
    return play("sell", order, uow.attempt) + " after " + uow.result_of(charge)


@effect(retry=QUICK, local=True)
async def thank(order: Order, call: Call) -> str:
    """Write a letter."""
    return play("thank", order, call.attempt)


SAGA = Saga("order", Order, hold, parallel(charge, notify), pivot(sell), retriable(thank), keys=("order_id",))


def comparable(facts: Sequence[Fact]) -> list[tuple[str, ...]]:
    """Reduce a run to what both drivers must agree on: without ids and times, and sorted inside a parallel group.

    Facts of a parallel stage interleave as the calls happen to end, so between two facts of the rest they are sorted.
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
