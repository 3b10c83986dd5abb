"""With Temporal: the driver of Amends compared with sagas written by hand."""

import asyncio
import sysconfig
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import temporalio.client
from figures import Effort, Row, in_turn, ratios
from handwritten import LocalOrder, OrdinaryOrder, Steps
from measured import Order, many_effects, many_steps, three_steps
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from amends import Client, Saga
from amends.aggregates.sql.journal import open_journal
from amends.sagas.definition.registry import Registry
from amends.sagas.temporal.worker import running_worker

__all__ = ["temporal_rows"]

AT_ONCE = 50
LENGTH_BOUND = 1.3
_TUNED = (
    "--sqlite-pragma",
    "journal_mode=WAL",
    "--sqlite-pragma",
    "synchronous=NORMAL",
    "--dynamic-config-value",
    "history.transferProcessorMaxPollRPS=2000",
)


async def per_second(count: int, one: Callable[[int], Awaitable[None]], at_once: int = AT_ONCE) -> float:
    """Do something `count` times, `at_once` at a time; return how often per second."""
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
    """A hand-written saga and its worker.

    Args:
        client: Its server.
        workflow: The saga.
        queue: Its task queue.
        eager: Whether to ask for an eager start; off by default in the SDK.
    """

    def __init__(self, client: temporalio.client.Client, workflow: type[Any], queue: str, *, eager: bool) -> None:
        self._client = client
        self._workflow = workflow
        self._queue = queue
        self._eager = eager

    def worker(self, steps: Steps) -> Worker:
        """Create the worker, in the SDK's default sandbox."""
        return Worker(
            self._client,
            task_queue=self._queue,
            workflows=[self._workflow],
            activities=[steps.step, steps.undo],
            max_concurrent_activities=200,
            max_concurrent_local_activities=200,
        )

    async def rate(self, prefix: str, count: int) -> float:
        """Run the saga `count` times; return runs per second."""

        async def one(number: int) -> None:
            await self._client.execute_workflow(
                self._workflow.run,
                f"{prefix}-{number}",
                id=f"{prefix}-{number}",
                task_queue=self._queue,
                request_eager_start=self._eager,
            )

        return await per_second(count, one)


async def ours(client: Client, saga: Saga[Order], prefix: str, count: int, at_once: int = AT_ONCE) -> float:
    """Run a saga of Amends `count` times; return runs per second."""

    async def one(number: int) -> None:
        order = Order(order_id=f"{prefix}-{number}", sku="A1", quantity=1)
        handle = await client.start(saga, order, id=order.order_id)
        result = await handle.result()
        if result.status != "COMPLETED":
            raise RuntimeError(f"{order.order_id}: {result.error}")

    return await per_second(count, one, at_once)


async def against_by_hand(client: Client, local: ByHand, ordinary: ByHand, effort: Effort) -> list[Row]:
    """Compare three-step sagas with those written by hand."""
    await local.rate("warm", effort.of(50))
    await ordinary.rate("warm", effort.of(50))
    await ours(client, three_steps, "warm-ours", effort.of(50))
    amends, by_hand, tutorial = await in_turn(
        effort.few_rounds,
        lambda n: ours(client, three_steps, f"ours-{n}", effort.of(150)),
        lambda n: local.rate(f"local-{n}", effort.of(150)),
        lambda n: ordinary.rate(f"ordinary-{n}", effort.of(50)),
    )
    what = f"Temporal driver: sagas of three transactions per second, {AT_ONCE} at a time"
    return [
        Row(
            what,
            "by hand on Temporal: three local activities that write a row each as durably, eager start, "
            "default sandbox, same server settings",
            ratios(amends, by_hand),
            1.0,
        ),
        Row(
            what,
            "by hand on Temporal: three ordinary activities, default server settings",
            ratios(amends, tutorial),
            4.0,
        ),
    ]


async def length_of_run(
    client: Client, make: Callable[[int], Saga[Order]], many: int, what: str, effort: Effort
) -> Row:
    """Compare the cost of a step in a saga of 200 steps and in one of 10; the worker knows both."""
    short, long = make(10), make(200)
    await ours(client, short, f"{short.name}-warm", 1, 1)
    await ours(client, long, f"{long.name}-warm", 1, 1)

    async def cost(saga: Saga[Order], prefix: str, count: int, length: int) -> float:
        return 1 / (await ours(client, saga, f"{saga.name}-{prefix}", count, 1) * length)

    of_long, of_short = await in_turn(
        effort.few_rounds,
        lambda n: cost(long, f"{n}", effort.of(many), 200),
        lambda n: cost(short, f"{n}", effort.of(many * 10), 10),
    )
    return Row(
        f"Temporal driver: time of a step in a saga of 200 {what}",
        f"in a saga of 10 {what}",
        ratios(of_long, of_short),
        LENGTH_BOUND,
        at_least=False,
    )


async def temporal_rows(folder: Path, effort: Effort) -> list[Row]:
    """Measure every row of this module."""
    registry = Registry([three_steps, *(make(count) for make in (many_steps, many_effects) for count in (10, 200))])
    async with AsyncExitStack() as stack:
        tuned = await stack.enter_async_context(server(folder / "tuned.db", *_TUNED))
        default = await stack.enter_async_context(server(folder / "default.db"))
        journal = open_journal(f"sqlite:///{folder}/events.db")
        stack.push_async_callback(journal.close)
        steps = Steps(str(folder / "rows.db"))
        stack.callback(steps.close)
        local = ByHand(tuned, LocalOrder, "local", eager=True)
        ordinary = ByHand(default, OrdinaryOrder, "ordinary", eager=False)
        await stack.enter_async_context(local.worker(steps))
        await stack.enter_async_context(ordinary.worker(steps))
        await stack.enter_async_context(running_worker(tuned, journal, registry, task_queue="ours"))
        client = Client(journal, tuned, registry, task_queue="ours", eager=True)
        return [
            *await against_by_hand(client, local, ordinary, effort),
            await length_of_run(client, many_steps, 2, "transactions", effort),
            await length_of_run(client, many_effects, 1, "effects", effort),
        ]
