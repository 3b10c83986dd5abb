"""Stock that is reserved for orders which have ended: a drift rule finds it, and a corrective event frees it.

How can that happen, although `reserve_stock` and `release_stock` take effect exactly once? An operator has skipped the
release of an order that could not be undone, or somebody has reserved articles by hand. No saga will free them.

The rule corrects without asking. That is safe, because both sides are in our own store: Amends corrects only if the
article still has the version that the rule compared, so nothing was reserved or released since.
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
    """The reserved number of an article, by order."""

    sku: str
    orders: dict[str, int]


def free_stock(holds: Holds, cause: Cause, uow: UnitOfWork) -> None:
    """Release the reserved stock; the events name the fact that led to it."""
    item = uow.get(StockItem, holds.sku)
    for order_id, quantity in holds.orders.items():
        item.release(quantity, order_id, cause=cause.fact)


@drift_rule("held-stock", every=timedelta(minutes=5), mode="apply")
def held_stock(observation: Observation) -> Iterator[Drift]:
    """Stock is reserved only for orders that have not ended."""
    for sku in sorted(touched(observation)):
        observation.scanned(1)
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
    """Find the articles that have changed since the last scan, or whose orders have.

    The rule checks earlier findings again, because a scan clears each drift that it no longer finds.
    """
    streams = {*observation.known, *(str(event.originator_id) for event in observation.new_events())}
    runs = [observation.record(stream.removeprefix(RUN)) for stream in streams if stream.startswith(RUN)]
    ordered = {run.started.keys["sku"] for run in runs if run is not None and "sku" in run.started.keys}
    return ordered | {stream.removeprefix(STOCK) for stream in streams if stream.startswith(STOCK)}


def fate(observation: Observation, order_id: str) -> str | None:
    """Return the end of an order; `None` while a run of it may still need the reserved stock."""
    runs = list(observation.runs(RunQuery(saga="place-order", where=(("order_id", order_id),))))
    if any(run.status not in OVER for run in runs):
        return None
    return f"is {runs[0].status}" if runs else "is not known to any run"
