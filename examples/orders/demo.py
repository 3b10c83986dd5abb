"""Runs a dozen orders through a real Temporal server, some of which fail at different steps: `make demo`.

The payment and shipping services are processes of their own. One reply of the payment service is lost on purpose, after
the money was taken: the same idempotency key is used again, and the money is taken once.
"""

import asyncio
import os
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from services.process import ServiceProcess
from storefront import PlaceOrder, StockUp, place_order, stock_up

from amends import Client, RunResult
from amends.aggregates.facts import Fact
from amends.aggregates.journal_sql import open_journal
from amends.sagas.connection_temporal import TemporalTarget, connect
from amends.sagas.registry import Registry
from amends.sagas.server_temporal import EmbeddedServer
from amends.sagas.worker_temporal import running_worker

HERE = Path(__file__).parent
STOCK = {"teapot": 10, "lamp": 25, "kettle": 10}
ORDERS = TypeAdapter(PlaceOrder)


def read_orders() -> list[PlaceOrder]:
    """Read the orders of the day."""
    lines = (HERE / "orders.jsonl").read_text().splitlines()
    return [ORDERS.validate_json(line) for line in lines]


async def lose_a_reply(payment: str) -> None:
    """Have the payment service take the money of order o-05 and not say so."""
    fault = {"kind": "lose_reply", "op": "charge", "times": 1, "key_prefix": "o-05"}
    async with httpx.AsyncClient(base_url=payment) as http:
        (await http.post("/faults", json=fault)).raise_for_status()


def overview(console: Console, results: dict[str, RunResult]) -> None:
    """Show every run in one line."""
    table = Table(title="the runs", title_justify="left", box=None, pad_edge=False)
    for heading in ("run", "status", "last error"):
        table.add_column(heading, no_wrap=heading != "last error")
    for run_id, result in results.items():
        table.add_row(run_id, str(result.status), result.error or "")
    console.print(table)


def timeline(console: Console, title: str, facts: list[Fact]) -> None:
    """Show the facts of one run."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("#", "ms", "fact", "node", "attempt", "what"):
        table.add_column(heading, no_wrap=heading != "what")
    for fact in facts:
        said = getattr(fact, "reason", None) or getattr(fact, "error", None) or getattr(fact, "key", None) or ""
        node, attempt = getattr(fact, "node", ""), getattr(fact, "attempt", "")
        table.add_row(
            str(fact.position), str(fact.as_of_ms - facts[0].as_of_ms), fact.kind, node, str(attempt), str(said)
        )
    console.print(table)


async def demo(console: Console, folder: Path) -> None:
    """Start everything, run the orders, and show what happened."""
    async with AsyncExitStack() as stack:
        payment = stack.enter_context(ServiceProcess("services.payment", folder / "payment", "--limit", "1000.00"))
        shipping = stack.enter_context(ServiceProcess("services.shipping", folder / "shipping"))
        os.environ.update(PAYMENT_URL=payment.base_url, SHIPPING_URL=shipping.base_url)
        server = await stack.enter_async_context(EmbeddedServer.shared(folder))
        temporal = await connect(TemporalTarget(server.address, embedded=True))
        journal = open_journal(f"sqlite:///{folder}/events.db")
        stack.push_async_callback(journal.close)
        registry = Registry([place_order, stock_up])
        await stack.enter_async_context(running_worker(temporal, journal, registry, task_queue="orders"))
        client = Client(journal, temporal, registry, task_queue="orders", actor="demo", eager=True)
        console.print(f"payment   {payment.base_url}\nshipping  {shipping.base_url}\nTemporal  {server.address}\n")

        for sku, quantity in STOCK.items():
            await (await client.start(stock_up, StockUp(sku=sku, quantity=quantity), id=f"delivery-{sku}")).result()
        await lose_a_reply(payment.base_url)
        began = time.monotonic()
        handles = [await client.start(place_order, order, id=order.order_id) for order in read_orders()]
        results = {handle.id: await handle.result() for handle in handles}
        counted = Counter(str(result.status) for result in results.values())
        console.print(
            f"{len(results)} orders in {time.monotonic() - began:.1f} s: "
            + ", ".join(f"{number} {status}" for status, number in sorted(counted.items()))
            + "\n"
        )
        overview(console, results)
        for run_id, why in (
            ("o-01", "everything went well"),
            ("o-03", "the card was declined, the stock is free again"),
            ("o-05", "a reply was lost after the money was taken; the same key, and it was taken once"),
            ("o-07", "no quote for the parcel, so the card is refunded and the stock is free again"),
        ):
            console.print()
            timeline(console, f"the facts of {run_id}: {why}", await client.history(run_id))


def main() -> None:
    """Run the demonstration in a folder of its own."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="amends-demo-") as name:
        asyncio.run(demo(console, Path(name)))
    console.print(
        "\nTry next: read examples/orders/storefront.py; change orders.jsonl and run `make demo` again; `make test`."
    )


if __name__ == "__main__":
    main()
