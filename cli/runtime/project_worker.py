"""The public worker: `amends worker` as an object, for a process that belongs to somebody else.

It neither prints nor handles signals, and it never ends the process. How it can fail: like `amends worker`, with one
line; a part that does not end in time is left behind, with a warning in the log.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import temporalio.client

from amends.aggregates.events.aggregate import Aggregate
from amends.cli.exit_codes import ExitCode
from amends.cli.project.load_modules import LoadedProject
from amends.cli.project.settings import load_settings, settings_from
from amends.cli.runtime.signals import Stop
from amends.cli.runtime.wiring import (
    Project,
    Temporal,
    checked_registry,
    drain_of,
    find_temporal,
    load_project,
    use_temporal,
)
from amends.cli.runtime.worker import Report, serve_until
from amends.reconciler.drift.rule import Rule
from amends.sagas.definition.saga import Saga
from amends.sagas.definition.steps import Step
from amends.sagas.temporal.connection import connect_to

__all__ = ["Worker"]

_log = logging.getLogger("amends.worker")

_LOOK_S = 0.2
_ABANDON_S = 1.0


class Worker:
    """Runs sagas and scheduled scans in this process, as `amends worker` does.

    Enter the context to start; `run` waits. At the end of the context the worker takes no more work, and calls in
    flight may end within the drain; the whole end takes at most five seconds more. Handlers of signals are yours: let
    them call `stop`. The worker logs to `amends.worker`, and errors of your code to `amends.errors`.

    Use `Worker.from_project` in a project with settings, or pass the parts here.

    Args:
        sagas: The sagas to serve.
        store_url: The store, as in the settings.
        temporal: Temporal's address as `host:port`, or a connected client.
        namespace: Temporal's namespace; ignored if `temporal` is a client.
        task_queue: Queue of the sagas, and of steps that name no other.
        steps: Steps in addition to those of the sagas, for runs that began with an older version of a saga.
        aggregates: Aggregate classes that the store should know before a step uses them.
        rules: Drift rules in addition to the built-in ones, for scheduled scans.
        concurrency: Largest number of calls of `async def` functions at a time, from 1 to 10,000.
        threads: Largest number of plain `def` functions at a time; `None` for the same.
        drain: How long calls in flight may take to end; `None` for the longest timeout of a step, at most ten minutes.

    Raises:
        DefinitionError: The sagas have a fault.
        InputError: A value is out of its bounds.
    """

    def __init__(
        self,
        sagas: Iterable[Saga[Any]],
        *,
        store_url: str,
        temporal: temporalio.client.Client | str = "localhost:7233",
        namespace: str = "default",
        task_queue: str = "amends",
        steps: Iterable[Step[Any, Any]] = (),
        aggregates: Iterable[type[Aggregate]] = (),
        rules: Iterable[Rule] = (),
        concurrency: int = 100,
        threads: int | None = None,
        drain: timedelta | None = None,
    ) -> None:
        settings = settings_from(
            store_url=store_url,
            task_queue=task_queue,
            worker_concurrency=concurrency,
            worker_threads=threads,
            drain=drain,
        )
        registry = checked_registry(settings, sagas, steps)
        loaded = LoadedProject(settings.project_dir, (), ())
        project = Project(settings, loaded, registry, tuple(aggregates), tuple(rules))
        # Without files in a data directory, which a worker that has no project does not have.
        self._prepare(project, lambda _: _connected(temporal, namespace), files=False)

    @classmethod
    def from_project(cls, project: Path | str | None = None) -> Self:
        """Create a worker from the settings of a project, with all its sagas and drift rules.

        Args:
            project: The project's directory, whose parents are then not searched; `None` searches from the current
                directory up.

        Raises:
            InputError: The settings cannot be read, or one is wrong.
            DefinitionError: A module cannot be imported, or a definition has a fault.
            UnreachableError: No Temporal is configured, and no `amends dev` runs.
        """
        settings = load_settings(None if project is None else Path(project))
        loaded = load_project(settings)
        find_temporal(settings)
        worker = cls.__new__(cls)
        worker._prepare(loaded, lambda stop: use_temporal(settings, stop=stop), files=True)  # noqa: SLF001 - its own
        return worker

    def _prepare(
        self, project: Project, connect: Callable[[Stop], AbstractAsyncContextManager[Temporal]], *, files: bool
    ) -> None:
        self._project = project
        self._connect = connect
        self._files = files
        self._stop: Stop | None = None
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start the worker, and return when it serves.

        Raises:
            UnreachableError: The store or Temporal cannot be reached.
            RuntimeError: The worker was started before.
        """
        if self._stop is not None:
            raise RuntimeError("a worker starts only once; create another one")
        self._stop = Stop(ExitCode.OK, drain=drain_of(self._project.settings, self._project.registry))
        ready = asyncio.Event()
        self._serving = asyncio.create_task(self._serve(self._stop, ready))
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait([self._serving, waiting], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._serving.cancel()
            await self._end(self._stop, self._serving)
            raise
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])
        if self._serving.done():
            self._serving.result()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """End the worker.

        Raises:
            UnreachableError: A part went away for good, and nobody waited in `run` to learn of it.
        """
        if self._stop is None or self._serving is None:
            return
        if not self._stop.requested.is_set():
            self._stop.request()
        await self._end(self._stop, self._serving)
        if error is None and self._serving.done() and not self._serving.cancelled():
            self._serving.result()

    async def run(self) -> None:
        """Wait until `stop` is called, or until the worker cannot go on.

        A cancelled wait leaves the worker to the end of the context.

        Raises:
            UnreachableError: The embedded server cannot be started again, or Temporal refuses the worker.
            RuntimeError: The worker has not started.
        """
        if self._serving is None:
            raise RuntimeError("the worker has not started; write: async with worker: await worker.run()")
        await asyncio.shield(self._serving)

    def stop(self) -> None:
        """Request the end of `run`, from the event loop; a second call ends the drain."""
        if self._stop is not None:
            self._stop.request()

    async def _serve(self, stop: Stop, ready: asyncio.Event) -> None:
        report = Report(say=_log.info, note=_log.warning, ready=ready.set, files=self._files)
        async with self._connect(stop) as temporal:
            report.say(f"Temporal  {temporal.address}")
            await serve_until(self._project, temporal, stop, report=report)

    @staticmethod
    async def _end(stop: Stop, serving: "asyncio.Task[None]") -> None:
        """Wait for the end of all parts, but not beyond the bound; a cancellation of the wait ends the drain."""
        stop.deadline.begin()
        cancelled: asyncio.CancelledError | None = None
        while not serving.done() and stop.deadline.left_s() > 0:
            try:
                await asyncio.wait([serving], timeout=min(stop.deadline.left_s(), _LOOK_S))
            except asyncio.CancelledError as error:
                cancelled = error
                stop.deadline.shorten_drain()
        if not serving.done():
            _log.warning("the worker ends with work under way: %s", ", ".join(stop.under_way()) or "a part that hangs")
            serving.cancel()
            await asyncio.wait([serving], timeout=_ABANDON_S)
        if cancelled is not None:
            raise cancelled


@asynccontextmanager
async def _connected(temporal: temporalio.client.Client | str, namespace: str) -> AsyncIterator[Temporal]:
    client = await connect_to(temporal, namespace)
    yield Temporal(client, client.service_client.config.target_host, None)
