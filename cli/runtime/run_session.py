"""Temporal and a worker for `amends run`, and the watch over both while the command waits for a run.

A configured Temporal has workers of its own, and the command accepts no run unless one of them polls. The embedded
server has the worker of `amends dev`, if that runs; otherwise this process starts the server and serves the run itself.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from amends.aggregates.errors import AmendsError, UnreachableError, WrongStoreError
from amends.aggregates.sql.journal import SqlJournal
from amends.cli.output.remarks import note
from amends.cli.project.settings import Settings
from amends.cli.runtime.run_inputs import ACTOR
from amends.cli.runtime.signals import Stop
from amends.cli.runtime.wiring import Project, Temporal, keep_alive, use_configured, use_embedded
from amends.sagas.engine.blockers import blockers
from amends.sagas.runtime.deadline import WORKERS_RESERVE_S
from amends.sagas.temporal.client import Client
from amends.sagas.temporal.connection import configured_target
from amends.sagas.temporal.server.locks import dev_running
from amends.sagas.temporal.start_workflow import pollers

__all__ = ["Session", "StoppedError", "open_session"]

T = TypeVar("T")

_LOOK_S = 0.2
_DEV_LOOK_S = 1.0
_WORKERS_LOOK_S = 3.0
# By this time most work that is merely slow is done.
_CODE_LOOK_S = 5.0
_MOST_LOOKED_AT = 200
# `amends dev` holds its lock from the start; its worker polls a moment later.
_DEV_GRACE_S = 5.0


class StoppedError(Exception):
    """A signal asked the command to stop."""


@dataclass(frozen=True)
class Session:
    """Temporal, together with a worker.

    Attributes:
        client: Starts runs and reads their results.
        alone: Whether this process is the worker, so that the work stops with it.
    """

    client: Client
    alone: bool
    _project: Project
    _journal: SqlJournal
    _temporal: Temporal
    _stop: Stop

    @property
    def outlook(self) -> str:
        """The future of an open run after this command ends, for a message."""
        return "it continues when a worker runs again: amends dev" if self.alone else "it continues; see: amends list"

    async def during(self, work: Coroutine[Any, Any, T], accepted: Collection[str] = ()) -> T:
        """Run some work while keeping the parts alive.

        Args:
            work: The work.
            accepted: The runs accepted so far; the work adds to them.

        Raises:
            StoppedError: A signal asked the command to stop.
            UnreachableError: A part went away and could not be started again.
        """
        main = asyncio.create_task(work)
        watches = [
            asyncio.create_task(_stopped(self._stop.requested)),
            asyncio.create_task(
                keep_alive(self._temporal, lambda: note("the Temporal server was lost; this command started it again"))
            ),
        ]
        watches.append(asyncio.create_task(self._look_for_blockers(accepted)))
        if not self.alone:
            other = self._look_for_workers() if self._temporal.server is None else self._stand_in()
            watches += [asyncio.create_task(other), asyncio.create_task(self._look_for_code())]
        try:
            await asyncio.wait([main, *watches], return_when=asyncio.FIRST_COMPLETED)
            if not main.done():
                for watch in watches:
                    if watch.done():
                        watch.result()
            return await main
        finally:
            self._stop.deadline.begin(calm=main.done() and not main.cancelled() and main.exception() is None)
            for task in (main, *watches):
                task.cancel()
            ended = asyncio.gather(main, *watches, return_exceptions=True)
            await self._stop.within(ended, WORKERS_RESERVE_S)

    async def _look_for_workers(self) -> None:
        """Report an absent worker or Temporal, again and again until cancelled: a silent wait would look like work."""
        said: str | None = None
        while True:
            await asyncio.sleep(_WORKERS_LOOK_S)
            try:
                seen = await pollers(self._temporal.client, self._project.settings.task_queue)
                served = any(poller.store_id == self._journal.store_id for poller in seen)
                found = None if served else "no worker polls any longer, and open runs wait; start one: amends worker"
            except UnreachableError as error:
                found = f"{error}; open runs wait for it"
            if found is not None and found != said:
                note(found)
            said = found

    async def _look_for_blockers(self, accepted: Collection[str]) -> None:
        """Report code that accepted runs wait for, again and again until cancelled."""
        said: set[str] = set()
        while True:
            await asyncio.sleep(_WORKERS_LOOK_S)
            with suppress(AmendsError):
                found = (await self._journal.records(tuple(accepted)[:_MOST_LOOKED_AT])).records
                records = [record for record in found.values() if record is not None]
                waits = [each for record in records for each in blockers(self._project.registry, record) if each.now]
                lines = {each.text for each in waits}
                for line in sorted(lines - said):
                    note(line)
                said |= lines

    async def _look_for_code(self) -> None:
        """Report once if all workers run other code: they would leave a new step waiting without a message."""
        await asyncio.sleep(_CODE_LOOK_S)
        code = self._project.registry.code
        with suppress(UnreachableError):
            seen = await pollers(self._temporal.client, self._project.settings.task_queue)
            others = [each.name for each in seen if each.code not in {None, code}]
            if others and all(each.code != code for each in seen):
                note(
                    f"worker {', '.join(others)} runs other sagas or steps than the project defines now; restart it "
                    "if a step waits for ever"
                )
        await asyncio.Event().wait()

    async def _stand_in(self) -> None:
        """Serve the runs in this process after `amends dev` has ended."""
        while dev_running(self._project.settings.data_dir):  # noqa: ASYNC110 - it ends in another process
            await asyncio.sleep(_DEV_LOOK_S)
        note("amends dev has ended; this process continues the run")
        from amends.cli.runtime.worker import serve  # noqa: PLC0415 - imports the reconciler, which only a worker needs

        async with serve(self._project, self._journal, self._temporal, self._stop):
            await asyncio.Event().wait()


async def _stopped(stop: asyncio.Event) -> None:
    await stop.wait()
    raise StoppedError


@asynccontextmanager
async def open_session(
    project: Project, journal: SqlJournal, stop: Stop, *, patience_s: float | None, detach: bool
) -> AsyncIterator[Session]:
    """Find Temporal and make sure that a worker serves it.

    Args:
        project: The sagas.
        journal: The store.
        stop: Bounds the end of the parts that are started.
        patience_s: How long to wait for a worker, in seconds; `None` to check only once.
        detach: Whether this process ends before the work does.

    Raises:
        UnreachableError: A part cannot be reached, or no worker polls; no run was accepted.
        WrongStoreError: Only workers of another store poll; no run was accepted.
    """
    settings = project.settings
    configured = configured_target() is not None
    dev = not configured and dev_running(settings.data_dir)
    if detach and not configured and not dev:
        raise UnreachableError(
            "--detach needs a running worker, and there is none; start amends dev first; nothing was accepted"
        )
    async with AsyncExitStack() as stack:
        found = await stack.enter_async_context(use_configured() if configured else use_embedded(settings, stop=stop))
        alone = not configured and not dev
        if alone:
            from amends.cli.runtime.worker import serve  # noqa: PLC0415 - as above

            await stack.enter_async_context(serve(project, journal, found, stop))
        else:
            await _await_worker(settings, journal, found, patience_s, grace_s=_DEV_GRACE_S if dev else 0)
        client = Client(
            journal,
            found.client,
            project.registry,
            task_queue=settings.task_queue,
            actor=ACTOR,
            # A worker of this process takes the first task at once.
            eager=alone,
        )
        yield Session(client, alone, project, journal, found, stop)


async def _await_worker(
    settings: Settings, journal: SqlJournal, temporal: Temporal, patience_s: float | None, *, grace_s: float
) -> None:
    loop, queue = asyncio.get_running_loop(), settings.task_queue
    began = loop.time()
    while True:
        seen = await pollers(temporal.client, queue)
        if any(poller.store_id == journal.store_id for poller in seen):
            return
        others = [poller for poller in seen if poller.store_id is not None]
        waited = loop.time() - began
        if others and waited >= grace_s:
            raise WrongStoreError(
                f"the worker {others[0].name} on task queue {queue!r} of Temporal at {temporal.address} writes to "
                f"store {others[0].store_id}, but {settings.safe_store_url} is store {journal.store_id}; "
                f"give both the same store_url; nothing was accepted"
            )
        if waited >= max(grace_s, patience_s or 0):
            raise UnreachableError(
                f"no worker polls task queue {queue!r} of Temporal at {temporal.address}; "
                f"start one: amends worker; nothing was accepted"
            )
        await asyncio.sleep(_LOOK_S)
