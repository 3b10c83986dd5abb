"""Find the partitions of a source, and start a workflow for each one.

Every worker does so for its pipelines at its start, and then at an interval: a source gets new partitions, and Temporal
may have lost its workflows. How it can fail: while the source or Temporal does not answer, the partitions that are
known already go on, and new ones wait for the next attempt.
"""

import asyncio
import logging
from datetime import timedelta

import temporalio.client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError

from amends.aggregates.errors import AmendsError
from amends.pipelines.runtime.partition_work import OwnedWork
from amends.pipelines.temporal.ownership import Ownership, workflow_id
from amends.pipelines.temporal.partition_workflow import WORKFLOW, PartitionArguments
from amends.sagas.runtime.error_log import ErrorLog

__all__ = ["Discovery"]

_TASK_TIMEOUT = timedelta(seconds=5)
_ANSWER = timedelta(seconds=5)
_SOON_S = 1.0
_STORE = "amends-store"

_log = logging.getLogger("amends.worker")


class Discovery:
    """Starts the workflows of the partitions of one pipeline or relay.

    Args:
        owned: The pipeline or relay.
        client: The client of Temporal.
        task_queue: Queue of the worker of the pipeline or relay.
        store_id: The store.
        ownership: The times.
        errors: The log of errors.
    """

    def __init__(
        self,
        owned: OwnedWork,
        client: temporalio.client.Client,
        *,
        task_queue: str,
        store_id: str,
        ownership: Ownership,
        errors: ErrorLog,
    ) -> None:
        self._owned = owned
        self._client = client
        self._task_queue = task_queue
        self._store_id = store_id
        self._ownership = ownership
        self._errors = errors
        self._checked: set[str] = set()
        self._said: str | None = None

    async def keep_started(self) -> None:
        """Start the workflows of all partitions, and repeat it, until cancelled."""
        pause_s = _SOON_S
        while True:
            problem = await self.start_all()
            if problem is not None and problem != self._said:
                _log.warning("%s %r: %s", self._owned.kind, self._owned.name, problem)
            self._said = problem
            every_s = self._ownership.discover.total_seconds()
            pause_s = every_s if problem is None else min(pause_s * 2, every_s)
            await asyncio.sleep(pause_s)

    async def start_all(self) -> str | None:
        """Start the workflow of each partition unless it runs; return the problem that prevented it, in one line."""
        try:
            for partition in await self._owned.partitions():
                await self._start(partition)
        except AmendsError as error:
            return self._errors.line(error)
        except RPCError:
            return "Temporal does not answer, so partitions without an owner wait until it does"
        except Exception as error:  # noqa: BLE001 - the other pipelines and the known partitions go on
            self._errors.raised(f"{self._owned.kind} {self._owned.name!r}", error)
            return "its partitions cannot be listed; the log of errors says why"
        return None

    async def _start(self, partition: str) -> None:
        owned, ownership = self._owned, self._ownership
        handle = await self._client.start_workflow(
            WORKFLOW,
            PartitionArguments(
                owned.kind,
                owned.name,
                partition,
                self._store_id,
                ownership.heartbeat.total_seconds(),
                ownership.retry.total_seconds(),
            ),
            id=workflow_id(owned.kind, owned.name, partition),
            task_queue=self._task_queue,
            task_timeout=_TASK_TIMEOUT,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            memo={_STORE: self._store_id},
            rpc_timeout=_ANSWER,
        )
        if partition not in self._checked:
            await self._check(partition, handle.id)
            self._checked.add(partition)

    async def _check(self, partition: str, id: str) -> None:  # noqa: A002 - as Temporal calls it
        """Warn if the workflow, which an earlier process may have started, gives its slices to other workers."""
        found = await self._client.get_workflow_handle(id).describe(rpc_timeout=_ANSWER)
        store_id = await found.memo_value(_STORE, self._store_id, type_hint=str)
        where = f"{self._owned.kind} {self._owned.name!r} partition {partition!r}"
        if store_id != self._store_id:
            _log.warning(
                "%s: its workflow belongs to store %s, this worker writes to store %s; terminate workflow %s in "
                "Temporal, or use a namespace for each store",
                *(where, store_id, self._store_id, id),
            )
        elif found.task_queue != self._task_queue:
            _log.warning(
                "%s: its workflow uses task queue %r, this worker serves %r; if no worker serves the former any more, "
                "terminate workflow %s in Temporal",
                *(where, found.task_queue, self._task_queue, id),
            )
