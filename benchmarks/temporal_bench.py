"""With Temporal: our driver beside sagas written by hand."""

import asyncio
import sysconfig
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import temporalio.client
from figures import Row, ratio
from handwritten import LocalOrder, OrdinaryOrder, Steps
from measured import Order, many_steps, three_steps
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from amends import Client, Saga
from amends.aggregates.journal_sql import open_journal
from amends.sagas.registry import Registry
from amends.sagas.worker_temporal import running_worker

__all__ = ["temporal_rows"]

AT_ONCE = 50
ROUNDS = 3
_TASK_TIMEOUT = timedelta(seconds=2)
_TUNED = (
    "--sqlite-pragma",
    "journal_mode=WAL",
    "--sqlite-pragma",
    "synchronous=NORMAL",
    "--dynamic-config-value",
    "history.transferProcessorMaxPollRPS=2000",
)


async def per_second(count: int, one: Callable[[int], Awaitable[None]], at_once: int = AT_ONCE) -> float:
    """Do something so many times, so many at once; gives how often per second."""
    numbers = iter(range(count))

    async def one_after_the_other() -> None:
        for number in numbers:
            await one(number)

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return count / (time.perf_counter() - began)


@asynccontextmanager
async def server(path: Path, *settings: str) -> AsyncIterator[temporalio.client.Client]:
    """Run a real Temporal server on a file."""
    environment = await WorkflowEnvironment.start_local(
        dev_server_existing_path=str(Path(sysconfig.get_path("scripts"), "temporal")),
        dev_server_database_filename=str(path),
        dev_server_extra_args=list(settings),
        dev_server_log_level="error",
    )
    async with environment:
        yield environment.client


class ByHand:
    """A hand-written saga and its worker."""

    def __init__(self, client: temporalio.client.Client, workflow: type[Any], queue: str) -> None:
        self._client = client
        self._workflow = workflow
        self._queue = queue

    def worker(self, steps: Steps) -> Worker:
        """Make the worker, in the SDK's default sandbox."""
        return Worker(
            self._client,
            task_queue=self._queue,
            workflows=[self._workflow],
            activities=[steps.step, steps.undo],
            max_concurrent_activities=200,
            max_concurrent_local_activities=200,
        )

    async def rate(self, prefix: str, count: int) -> float:
        """Run the saga so many times; gives runs per second."""

        async def one(number: int) -> None:
            await self._client.execute_workflow(
                self._workflow.run,
                f"{prefix}-{number}",
                id=f"{prefix}-{number}",
                task_queue=self._queue,
                task_timeout=_TASK_TIMEOUT,
                request_eager_start=True,
            )

        return await per_second(count, one)


async def ours(client: Client, saga: Saga[Order], prefix: str, count: int, at_once: int = AT_ONCE) -> float:
    """Run our saga so many times; gives runs per second."""

    async def one(number: int) -> None:
        order = Order(order_id=f"{prefix}-{number}", sku="A1", quantity=1)
        handle = await client.start(saga, order, id=order.order_id)
        result = await handle.result()
        if result.status != "COMPLETED":
            raise RuntimeError(f"{order.order_id}: {result.error}")

    return await per_second(count, one, at_once)


async def temporal_rows(folder: Path) -> list[Row]:
    """Measure everything here."""
    short, long = many_steps(10), many_steps(200)
    registry = Registry([three_steps, short, long])
    async with AsyncExitStack() as stack:
        tuned = await stack.enter_async_context(server(folder / "tuned.db", *_TUNED))
        default = await stack.enter_async_context(server(folder / "default.db"))
        journal = open_journal(f"sqlite:///{folder}/events.db")
        stack.push_async_callback(journal.close)
        steps = Steps(str(folder / "rows.db"))
        stack.callback(steps.close)
        local = ByHand(tuned, LocalOrder, "local")
        ordinary = ByHand(default, OrdinaryOrder, "ordinary")
        await stack.enter_async_context(local.worker(steps))
        await stack.enter_async_context(ordinary.worker(steps))
        await stack.enter_async_context(running_worker(tuned, journal, registry, task_queue="ours"))
        client = Client(journal, tuned, registry, task_queue="ours", eager=True)
        await local.rate("warm", 50)
        await ordinary.rate("warm", 50)
        await ours(client, three_steps, "warm-ours", 50)
        by_hand: list[float] = []
        tutorial: list[float] = []
        amends: list[float] = []
        for n in range(ROUNDS):
            by_hand.append(await local.rate(f"local-{n}", 300))
            amends.append(await ours(client, three_steps, f"ours-{n}", 300))
            tutorial.append(await ordinary.rate(f"ordinary-{n}", 100))
        few: list[float] = []
        many: list[float] = []
        for n in range(ROUNDS):
            few.append(1 / (await ours(client, short, f"short-{n}", 40, 1) * 10))
            many.append(1 / (await ours(client, long, f"long-{n}", 2, 1) * 200))
    what = f"Temporal driver, three transactions, {AT_ONCE} at a time"
    return [
        Row(what, "by hand: local activities, eager start, same server settings", ratio(amends, by_hand), 1.0),
        Row(what, "by hand: ordinary activities, default server settings", ratio(amends, tutorial), 4.0),
        Row(
            "Temporal driver: a step of a 200-step saga",
            "a step of a 10-step saga",
            ratio(many, few),
            1.3,
            at_least=False,
        ),
    ]
