"""Outages of the store and of Temporal, as a worker's process notices them.

Nothing is decided here: the store's watch says why it does not answer, Temporal's whether its silence proves anything.
"""

import asyncio
import time
from datetime import timedelta

import temporalio.client
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.service import RPCError

from amends.aggregates.errors import AmendsError
from amends.aggregates.journal import Journal

__all__ = ["StoreWatch", "TemporalWatch"]

_ANSWER_S = 5.0
_LOOK_S = 1.0
# Longer than it takes until every call whose heartbeats were missed has been delivered again.
_DOUBT_S = 30.0


class StoreWatch:
    """Looks whether the store answers; one look at a time, so that a store that hangs does not eat up threads.

    Args:
        journal: The store.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._look: asyncio.Task[None] | None = None

    async def trouble(self) -> str | None:
        """Say in one line why the store cannot be used now; `None` when it can."""
        if self._look is None:
            self._look = asyncio.create_task(self._journal.ping())
        await asyncio.wait([self._look], timeout=_ANSWER_S)
        if not self._look.done():
            return f"the store does not answer within {_ANSWER_S:g} s"
        look, self._look = self._look, None
        try:
            look.result()
        except AmendsError as error:
            return str(error)
        return None

    def close(self) -> None:
        """Stop looking."""
        if self._look is not None:
            self._look.cancel()


class TemporalWatch:
    """Remembers when Temporal did not answer.

    A server that was away has missed heartbeats, and gives calls up that go on.

    Args:
        client: Temporal.
    """

    def __init__(self, client: temporalio.client.Client) -> None:
        self._client = client
        self._missed: float | None = None

    def was_away(self) -> bool:
        """Tell whether Temporal was away in the last half minute, as far as this process has seen."""
        return self._missed is not None and time.monotonic() - self._missed < _DOUBT_S

    async def watch(self) -> None:
        """Look once a second, until cancelled."""
        while True:
            try:
                await self._client.workflow_service.get_system_info(
                    GetSystemInfoRequest(), timeout=timedelta(seconds=_ANSWER_S)
                )
            except RPCError:
                self._missed = time.monotonic()
            await asyncio.sleep(_LOOK_S)
