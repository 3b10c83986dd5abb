"""Read from Temporal which worker owns a partition now, for people; only the token in the store is authoritative."""

from datetime import timedelta

import temporalio.client
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.service import RPCError

from amends.pipelines.runtime.partition_work import OwnedKind
from amends.pipelines.temporal.ownership import workflow_id

__all__ = ["Owners"]

_REACH = timedelta(seconds=2)


class Owners:
    """Reads the owners of the partitions of one store.

    Args:
        client: The client of Temporal.
        store_id: The store.
    """

    def __init__(self, client: temporalio.client.Client, store_id: str) -> None:
        self._client = client
        self._store_id = store_id

    async def of(self, kind: OwnedKind, name: str, partition: str) -> str:
        """Return the worker that owns a partition; empty if none of this store does, or Temporal does not answer."""
        handle = self._client.get_workflow_handle(workflow_id(kind, name, partition))
        try:
            found = await handle.describe(rpc_timeout=_REACH)
        except RPCError:
            return ""
        for each in found.raw_description.pending_activities:
            worker, _, store = each.last_worker_identity.partition(" store=")
            started = each.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
            if started and store == self._store_id:
                return worker
        return ""
