"""The pipelines and relays of a project, served by a worker: connections, loops, and ownership through Temporal.

How it can fail: a pipeline whose definition differs from the declared one, or a pipeline or relay whose connection
cannot be used, is reported in one line and not served; the sagas and the others are. A source that does not answer
delays only its own pipeline.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from amends.aggregates.errors import AmendsError, UnreachableError
from amends.aggregates.intake import Token
from amends.aggregates.journal import Tx
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.cli.project.configured_pipelines import access_of
from amends.cli.runtime.signals import Stop
from amends.cli.runtime.wiring import Project
from amends.pipelines.control.decide import declare
from amends.pipelines.control.state import control_of
from amends.pipelines.definition.pipeline import Pipeline, Starts
from amends.pipelines.definition.relays import Relay
from amends.pipelines.intake.modes import Mode
from amends.pipelines.runtime.partition_work import OwnedKind, OwnedWork
from amends.sagas.runtime.clock import SystemClock
from amends.sagas.runtime.deadline import WORKERS_RESERVE_S

if TYPE_CHECKING:
    import temporalio.client

    from amends.aggregates.sql.journal import SqlJournal
    from amends.pipelines.sink import Sink
    from amends.pipelines.source import SourceConnection

__all__ = ["serving_pipelines"]


@dataclass(frozen=True, slots=True)
class _Worker:
    """The parts of the worker that serves the pipelines."""

    project: Project
    journal: "SqlJournal"
    client: "temporalio.client.Client"
    stop: Stop

    def close_with(self, stack: AsyncExitStack, connection: "SourceConnection | Sink") -> None:
        """Close a connection when a stack ends, but wait no longer than the bound of the process."""

        async def close() -> None:
            await self.stop.within(connection.close(), WORKERS_RESERVE_S)

        stack.push_async_callback(close)

    async def stored_token(self, name: str, partition: str) -> Token | None:
        """Read the token of a partition."""
        position = await asyncio.to_thread(self.journal.intake.position, name, partition)
        return None if position is None else position.token


@asynccontextmanager
async def serving_pipelines(
    project: Project,
    journal: "SqlJournal",
    client: "temporalio.client.Client",
    stop: Stop,
    *,
    note: Callable[[str], None],
) -> AsyncIterator[None]:
    """Serve the project's pipelines and relays while the context lasts; at its end, hand their partitions over.

    Args:
        project: The pipelines and relays, and the sagas that they start.
        journal: The store.
        client: The client of Temporal.
        stop: Bounds the end.
        note: Writes a line about a problem.

    Raises:
        UnreachableError: The store or Temporal cannot be reached.
    """
    if not project.pipelines.names:
        yield
        return
    from amends.pipelines.temporal.serving import running_pipelines  # noqa: PLC0415 - imports Temporal
    from amends.sagas.runtime.error_log import ErrorDetail  # noqa: PLC0415 - as above

    worker = _Worker(project, journal, client, stop)
    async with AsyncExitStack() as stack:
        works: list[OwnedWork] = []
        for pipeline in project.pipelines.pipelines.values():
            try:
                await _declare(worker, pipeline)
                works.append(await _owned(worker, stack, pipeline))
            except UnreachableError:
                raise
            except AmendsError as error:
                note(f"pipeline {pipeline.name!r} is not served: {error}")
        for relay in project.pipelines.relays.values():
            try:
                works.append(await _owned_relay(worker, stack, relay))
            except AmendsError as error:
                note(f"relay {relay.name!r} is not served: {error}")
        served = running_pipelines(
            client,
            journal,
            works,
            task_queue=project.settings.task_queue,
            errors=ErrorDetail(project.settings.errors or ErrorDetail.TYPE),
        )
        await stack.enter_async_context(served)
        yield


async def _declare(worker: _Worker, pipeline: Pipeline[Any]) -> None:
    """Declare a pipeline that is new to the store.

    Raises:
        RefusedError: The definition differs from the declared one.
    """
    from amends.sagas.temporal.worker import worker_name  # noqa: PLC0415 - imports Temporal

    settings = worker.project.settings.pipelines.get(pipeline.name)
    declaration = worker.project.pipelines.declarations[pipeline.name]
    mode = (settings.mode if settings is not None else None) or Mode.EXACTLY_ONCE
    now_ms = SystemClock().now_ms()

    def unit(tx: Tx) -> None:
        with tx.unit_of_work() as uow:
            control = control_of(uow, pipeline.name)
            fact = declare(control.state, pipeline.name, declaration, now_ms, actor=worker_name(), mode=mode)
            if fact is not None:
                control.record(fact)

    await worker.journal.commit(unit)


async def _owned(worker: _Worker, stack: AsyncExitStack, pipeline: Pipeline[Any]) -> OwnedWork:
    """Return a pipeline's work; its parts end with the stack.

    Raises:
        DefinitionError: The adapter of its source is not installed.
        InputError: A secret of its settings is missing.
        SourceSetupError: The client of its source refuses the settings.
    """
    from amends.pipelines.runtime.connections import connect_source  # noqa: PLC0415 - for workers only
    from amends.pipelines.runtime.partition_loop import PartitionLoop  # noqa: PLC0415 - for workers only
    from amends.pipelines.temporal.run_starts import RunStarts  # noqa: PLC0415 - imports Temporal

    project, journal = worker.project, worker.journal
    settings, name = project.settings, pipeline.name
    access = access_of(name, settings.pipelines.get(name))
    source = connect_source(name, pipeline.source, access, settings.project_dir, store_id=journal.store_id)
    worker.close_with(stack, source)
    options: dict[str, Any] = {}
    if isinstance(pipeline.work, Starts):
        starts = RunStarts(
            worker.client, saga=pipeline.work.saga.name, store_id=journal.store_id, task_queue=settings.task_queue
        )
        await stack.enter_async_context(starts.running())
        options = {"on_started": starts}
    loop = PartitionLoop(journal, project.registry, pipeline, source, driver=TEMPORAL_DRIVER, **options)

    return OwnedWork(
        kind=OwnedKind.PIPELINE,
        name=name,
        work=loop,
        partitions=source.partitions,
        stored_token=partial(worker.stored_token, name),
    )


async def _owned_relay(worker: _Worker, stack: AsyncExitStack, relay: Relay) -> OwnedWork:
    """Return a relay's work; its connection ends with the stack.

    Raises:
        DefinitionError: The adapter of its sink is not installed.
        InputError: A secret of its settings is missing.
        SinkSetupError: The client of its sink refuses the settings.
    """
    from amends.pipelines.runtime.connections import connect_sink  # noqa: PLC0415 - for workers only
    from amends.pipelines.runtime.relay import RelayLoop  # noqa: PLC0415 - as above

    settings, name = worker.project.settings, relay.name
    sink = connect_sink(name, relay.sink, access_of(name, settings.pipelines.get(name)), settings.project_dir)
    worker.close_with(stack, sink)

    loop = RelayLoop(worker.journal, relay, sink)

    async def partitions() -> Sequence[str]:
        return [loop.partition]

    return OwnedWork(
        kind=OwnedKind.RELAY,
        name=name,
        work=loop,
        partitions=partitions,
        stored_token=partial(worker.stored_token, name),
    )
