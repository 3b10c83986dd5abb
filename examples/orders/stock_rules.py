"""Stock that is held for orders which do not live: found by a drift rule, and freed by a corrective event.

How would that happen, when `reserve_stock` and `release_stock` take effect exactly once? An operator has skipped the
release of an order that could not be undone, or somebody has held articles by hand. No saga is going to free them.

The rule is applied without asking. It is safe, because both sides are in our own store: the article's version is the
one that was compared, so nothing was reserved or released since, or else nothing is done.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

from storefront import StockItem

from amends import Cause, Command, Drift, DriftKind, Observation, RunQuery, RunStatus, UnitOfWork, drift_rule

__all__ = ["free_stock", "held_stock"]

STOCK = f"{StockItem.category()}/"
RUN = "run/"
OVER = frozenset({RunStatus.COMPLETED, RunStatus.COMPENSATED})


class Holds(NamedTuple):
    """What is held of an article, by order."""

    sku: str
    orders: dict[str, int]


def free_stock(holds: Holds, cause: Cause, uow: UnitOfWork) -> None:
    """Release what is held; the events name the fact that led to it."""
    item = uow.get(StockItem, holds.sku)
    for order_id, quantity in holds.orders.items():
        item.release(quantity, order_id, cause=cause.fact)


@drift_rule("held-stock", every=timedelta(minutes=5), mode="apply")
def held_stock(observation: Observation) -> Iterator[Drift]:
    """Stock is held only for orders that are not over."""
    for sku in sorted(touched(observation)):
        observation.looked_at(1)
        item = observation.load(StockItem, sku)
        if item is None:
            continue
        fates = {order_id: fate(observation, order_id) for order_id in item.held}
        dead = {order_id: item.held[order_id] for order_id, found in fates.items() if found is not None}
        if dead:
            yield Drift(
                subject=StockItem.stream_of(sku),
                kind=DriftKind.UNEXPECTED,
                expected={},
                actual={**dead},
                evidence="; ".join(f"order {order_id} {fates[order_id]}" for order_id in dead),
                version=item.version,
                correction=Command(free_stock, Holds(sku, dead), aggregate=(StockItem, sku)),
            )


def touched(observation: Observation) -> set[str]:
    """Find the articles that something has happened to since the last look, or to an order of them.

    What was found before is looked at again: whatever a look does not find any more counts as gone.
    """
    streams = {*observation.known, *(str(news.originator_id) for news in observation.news())}
    runs = [observation.record(stream.removeprefix(RUN)) for stream in streams if stream.startswith(RUN)]
    ordered = {run.started.keys["sku"] for run in runs if run is not None and "sku" in run.started.keys}
    return ordered | {stream.removeprefix(STOCK) for stream in streams if stream.startswith(STOCK)}


def fate(observation: Observation, order_id: str) -> str | None:
    """Say what became of an order; `None` while a run of it may still need what is held for it."""
    runs = list(observation.runs(RunQuery(saga="place-order", where=(("order_id", order_id),))))
    if any(run.status not in OVER for run in runs):
        return None
    return f"is {runs[0].status}" if runs else "is not known to any run"
