"""Watch for outages of the store and of Temporal, as this process sees them.

Both watches only report: `StoreWatch` why the store does not answer, `TemporalWatch` whether Temporal's silence proves
anything.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import timedelta

import temporalio.client
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.service import RPCError

from amends.aggregates.errors import AmendsError
from amends.aggregates.journal import Journal
from amends.sagas.runtime.clock import elapsed_s

__all__ = ["StoreWatch", "TemporalWatch"]

_ANSWER_S = 5.0
_LOOK_S = 1.0
# It is longer than Temporal takes to deliver again every call whose heartbeats it missed.
_DOUBT_S = 30.0
# With a shorter time, a busy machine would count as a suspended one.
_SUSPENDED_S = 6.0

_log = logging.getLogger("amends.worker")


class StoreWatch:
    """Checks whether the store answers; one check at a time, so that a store that hangs does not use up threads.

    Args:
        journal: The store.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._look: asyncio.Task[None] | None = None

    async def trouble(self) -> str | None:
        """Return why the store cannot be used now, in one line; `None` if it can."""
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
        """Stop checking."""
        if self._look is not None:
            self._look.cancel()


class TemporalWatch:
    """Remembers when Temporal did not answer, and when this process was suspended and could not ask.

    A server that was away has missed heartbeats, and gives up calls that go on. A process that was suspended, with its
    machine for example, does not know whether the server was away meanwhile. A thread notes that the process runs,
    because an event loop that is blocked, by imports or by an effect, does not mean a suspended process.

    Args:
        client: The client of Temporal.
        monotonic: Returns the time in seconds, suspension included.
        consequence: The consequence of an outage, for the log.
    """

    def __init__(
        self,
        client: temporalio.client.Client,
        monotonic: Callable[[], float] = elapsed_s,
        *,
        consequence: str = "the worker waits for the calls that Temporal gives up in the meantime",
    ) -> None:
        self._client = client
        self._consequence = consequence
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._present = monotonic()
        self._missed: float | None = None

    def was_away(self) -> bool:
        """Check whether Temporal may have been away in the last half minute, as far as this process can know."""
        now = self._notice()
        return self._missed is not None and now - self._missed < _DOUBT_S

    async def watch(self) -> None:
        """Check Temporal once a second, until cancelled."""
        ended = threading.Event()
        threading.Thread(target=self._stay, args=(ended,), name="amends-presence", daemon=True).start()
        try:
            await self._look()
        finally:
            ended.set()

    def _stay(self, ended: threading.Event) -> None:
        while not ended.wait(_LOOK_S):
            self._notice()

    def _notice(self) -> float:
        """Note that this process runs, and whether it was suspended before; return the time."""
        with self._lock:
            now = self._monotonic()
            if now - self._present > _SUSPENDED_S:
                self._missed = now
            self._present = now
            return now

    async def _look(self) -> None:
        answers = True
        while True:
            answered = await self._answers()
            if answers and not answered:
                _log.info("Temporal does not answer; %s", self._consequence)
            answers = answered
            if not answered:
                self._missed = self._monotonic()
            await asyncio.sleep(_LOOK_S)

    async def _answers(self) -> bool:
        try:
            await self._client.workflow_service.get_system_info(
                GetSystemInfoRequest(), timeout=timedelta(seconds=_ANSWER_S)
            )
        except RPCError:
            return False
        return True
