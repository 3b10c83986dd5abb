"""Start the workflows of the runs that a pipeline has accepted, also after an outage of Temporal.

A pipeline goes on while Temporal is away: it accepts runs, and this part keeps their ids and starts them when Temporal
answers again. The ids are only in memory, since the store has the runs: a worker that starts recovers every open run
that Temporal does not know.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import temporalio.client

from amends.aggregates.errors import UnreachableError
from amends.sagas.temporal.start_workflow import start_workflow

__all__ = ["RunStarts"]

_AT_ONCE = 50
_RETRY_S = 1.0
# Temporal's client retries for ten seconds, and the pipeline would stand still meanwhile.
_PATIENCE_S = 0.5
_LOOK_S = 0.1

_log = logging.getLogger("amends.worker")


class RunStarts:
    """Starts runs of one saga; the `on_started` of a pipeline's loop.

    Args:
        client: The client of Temporal.
        saga: Name of the saga.
        store_id: The store.
        task_queue: Queue of the sagas.
        most_waiting: The number of ids that may wait for Temporal; with more of them the pipeline takes no messages.
    """

    def __init__(
        self,
        client: temporalio.client.Client,
        *,
        saga: str,
        store_id: str,
        task_queue: str,
        most_waiting: int = 100_000,
    ) -> None:
        self._client = client
        self._saga = saga
        self._store_id = store_id
        self._task_queue = task_queue
        self._most_waiting = most_waiting
        # A dictionary, because an id may come twice, and the order is that of the messages.
        self._waiting: dict[str, None] = {}
        self._any = asyncio.Event()
        self._ended = False

    async def __call__(self, run_ids: Sequence[str]) -> None:
        """Start runs, or keep their ids while Temporal does not answer; wait only while too many ids wait."""
        left = run_ids if self._waiting else await self._start(run_ids)
        self._waiting.update(dict.fromkeys(left))
        if self._waiting:
            self._any.set()
        while len(self._waiting) > self._most_waiting and not self._ended:  # noqa: ASYNC110 - two conditions
            await asyncio.sleep(_LOOK_S)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the runs whose ids wait, while the context lasts."""
        starting = asyncio.create_task(self._keep_starting())
        try:
            yield
        finally:
            self._ended = True
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    async def _keep_starting(self) -> None:
        while True:
            await self._any.wait()
            batch = list(self._waiting)[: _AT_ONCE * 10]
            left = set(await self._start(batch))
            for run_id in batch:
                if run_id not in left:
                    del self._waiting[run_id]
            if left:
                await asyncio.sleep(_RETRY_S)
            elif not self._waiting:
                self._any.clear()
                _log.info("saga %s: Temporal has taken all runs that waited for it", self._saga)

    async def _start(self, run_ids: Sequence[str]) -> Sequence[str]:
        """Start runs; return those that Temporal did not take, in order."""
        for first in range(0, len(run_ids), _AT_ONCE):
            part = run_ids[first : first + _AT_ONCE]
            answers = await asyncio.gather(*map(self._start_one, part))
            if not all(answers):
                if not self._waiting:
                    _log.info("saga %s: Temporal does not answer; accepted runs wait for it", self._saga)
                refused = [run_id for run_id, taken in zip(part, answers, strict=True) if not taken]
                return [*refused, *run_ids[first + _AT_ONCE :]]
        return ()

    async def _start_one(self, run_id: str) -> bool:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await start_workflow(
                    self._client, saga=self._saga, run_id=run_id, store_id=self._store_id, task_queue=self._task_queue
                )
        except (TimeoutError, UnreachableError):
            return False
        return True
