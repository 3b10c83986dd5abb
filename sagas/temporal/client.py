"""The client, by which a web application starts sagas and reads their results.

A run is accepted once its first fact is in the journal; only then does the client start its workflow. From then on the
run is driven to its end, even if Temporal loses the workflow.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Self, TypeVar
from uuid import uuid4

import temporalio.client
from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode

from amends.aggregates.errors import NotFoundError, UnreachableError
from amends.aggregates.journal import Journal, RunQuery
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.run.facts import Fact
from amends.aggregates.run.record import RunSummary
from amends.aggregates.sql.journal import open_journal
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.saga import Saga
from amends.sagas.engine.interventions import Intervention, InterventionKind
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.engine.result import RunResult
from amends.sagas.engine.start import Start, prepare_start
from amends.sagas.runtime.clock import SystemClock
from amends.sagas.temporal.connection import connect_to
from amends.sagas.temporal.start_workflow import start_workflow, wake

__all__ = ["Client", "RunHandle"]

I = TypeVar("I")  # noqa: E741 - the input, as in every signature here
I_contra = TypeVar("I_contra", contravariant=True)

_LOOK_S = 0.05
_LOOK_LONGEST_S = 2.0


@dataclass(frozen=True, slots=True)
class RunHandle(Generic[I_contra]):
    """A started run.

    Attributes:
        id: The id of the run.
    """

    id: str
    client: "Client"

    async def result(self, *, timeout: timedelta | None = None) -> RunResult:
        """Wait until the run is closed.

        Args:
            timeout: The longest time to wait; `None` for no limit.

        Raises:
            TimeoutError: The run did not close in that time; it goes on.
            UnreachableError: The store cannot be reached, or the workflow ended and the run is still open.
        """
        return await self.client.result(self.id, timeout=timeout)

    async def status(self) -> RunResult:
        """Read the present state of the run."""
        return await self.client.status(self.id)

    async def history(self, after: int = 0) -> list[Fact]:
        """Read the run's facts after a position."""
        return await self.client.history(self.id, after)

    async def cancel(self, reason: str) -> RunResult:
        """Request the undo of the run."""
        return await self.client.cancel(self.id, reason)


class Client:
    """Starts sagas and reads their results.

    Use `Client.connect`, or pass the parts to the constructor.

    Args:
        journal: The store.
        temporal: The client of Temporal.
        registry: The sagas that can be started.
        task_queue: Queue of the workers.
        actor: The person or program that starts runs, as the journal shows it.
        eager: Whether a worker runs in this process with the same Temporal client; then it receives new runs at once.
    """

    def __init__(
        self,
        journal: Journal,
        temporal: temporalio.client.Client,
        registry: Registry,
        *,
        task_queue: str = "amends",
        actor: str = "client",
        eager: bool = False,
    ) -> None:
        self._journal = journal
        self._temporal = temporal
        self._registry = registry
        self._protocol = RunProtocol(registry, actor, TEMPORAL_DRIVER)
        self._task_queue = task_queue
        self._actor = actor
        self._eager = eager
        self._clock = SystemClock()

    @classmethod
    async def connect(
        cls,
        sagas: Iterable[Saga[Any]],
        *,
        store_url: str,
        temporal: temporalio.client.Client | str = "localhost:7233",
        namespace: str = "default",
        task_queue: str = "amends",
        actor: str = "client",
    ) -> Self:
        """Connect to the store and to Temporal.

        Args:
            sagas: The sagas that can be started.
            store_url: The store, as an SQLAlchemy URL; the same as the workers'.
            temporal: Temporal's address as `host:port`, or a connected client.
            namespace: Temporal's namespace; ignored if `temporal` is a client.
            task_queue: Queue of the workers.
            actor: The person or program that starts runs, as the journal shows it.

        Raises:
            DefinitionError: The sagas have a fault.
            UnreachableError: The store or Temporal cannot be reached.
        """
        registry = Registry(sagas)
        registry.catalog  # noqa: B018 - faults are raised before anything is started
        journal = open_journal(store_url)
        try:
            client = await connect_to(temporal, namespace)
        except BaseException:
            await journal.close()
            raise
        return cls(journal, client, registry, task_queue=task_queue, actor=actor)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the store."""
        await self._journal.close()

    async def start(self, saga: Saga[I], input: I, *, id: str | None = None) -> RunHandle[I]:  # noqa: A002
        """Accept a run and start its workflow.

        Idempotent: a call with the same id, saga and input returns the first run, in any state.

        Args:
            saga: The saga.
            input: Its input.
            id: Id of the run; `None` for a new id.

        Raises:
            InputError: The id or the input is not valid; nothing was written.
            StartConflictError: A run of another saga or with another input has the id.
            UnreachableError: The store cannot be reached and nothing was written; or Temporal cannot be reached, and
                the accepted run starts later.
        """
        run_id = id or uuid4().hex
        return await self.accept(
            prepare_start(self._registry, saga, input, run_id=run_id, driver=TEMPORAL_DRIVER, actor=self._actor)
        )

    async def accept(self, start: Start) -> RunHandle[Any]:
        """Accept a run whose input and id were checked before, and start its workflow; otherwise as `start`.

        Args:
            start: The request, from `prepare_start`.
        """
        run_id, now_ms = start.run_id, self._clock.now_ms()
        record = await self._journal.commit(lambda tx: self._protocol.accept(tx, start, now_ms), runs=(run_id,))
        if not record.state.closed and record.driver == TEMPORAL_DRIVER:
            await start_workflow(
                self._temporal,
                saga=start.plan.saga,
                run_id=run_id,
                store_id=self._journal.store_id,
                task_queue=self._task_queue,
                eager=self._eager,
            )
        return RunHandle(run_id, self)

    async def intervene(self, run_id: str, intervention: Intervention, *, position: int | None = None) -> RunResult:
        """Append the decision of an operator about a run, and wake the run in Temporal.

        Args:
            run_id: The run.
            intervention: The decision.
            position: Position of the run that the operator saw; `None` to accept any position.

        Raises:
            NotFoundError: There is no such run.
            RefusedError: The decision does not fit the run, or the run has moved past `position`; nothing was written.
            BusyError: A call of the node is in flight; nothing was written.
            InputError: The reason, the evidence or the output is missing or wrong; nothing was written.
            UnreachableError: The store cannot be reached and nothing was written; or Temporal cannot be reached, and
                the run goes on later.
        """
        now_ms = self._clock.now_ms()
        record = await self._journal.commit(
            lambda tx: self._protocol.intervene(tx, run_id, intervention, now_ms, position=position), runs=(run_id,)
        )
        if not record.state.closed:
            await wake(self._temporal, record, task_queue=self._task_queue)
        return RunResult(record)

    async def cancel(self, run_id: str, reason: str) -> RunResult:
        """Request the undo of a run; do nothing if the run is being undone or is undone already.

        Raises:
            NotFoundError: There is no such run.
            RefusedError: The run has passed its pivot, or has completed.
            UnreachableError: As for `intervene`.
        """
        return await self.intervene(
            run_id, Intervention(kind=InterventionKind.CANCEL, actor=self._actor, reason=reason)
        )

    async def result(self, run_id: str, *, timeout: timedelta | None = None) -> RunResult:
        """Wait until a run is closed.

        Args:
            run_id: The run.
            timeout: The longest time to wait; `None` for no limit.

        Raises:
            NotFoundError: There is no such run.
            TimeoutError: The run did not close in that time; it goes on.
            UnreachableError: The store cannot be reached, or the workflow ended and the run is still open.
        """
        async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
            fault = await self._await_workflow(run_id)
            pause = _LOOK_S
            while not (result := await self.status(run_id)).closed:
                if fault is not None:
                    raise UnreachableError(
                        f"run {run_id!r} is open, but its workflow ended: {fault}; it continues when a worker starts"
                    )
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LOOK_LONGEST_S)
            return result

    async def _await_workflow(self, run_id: str) -> str | None:
        """Wait for the workflow's end; the caller then reads the result from the journal, not from the workflow."""
        try:
            await self._temporal.get_workflow_handle(run_id).result()
        except WorkflowFailureError as error:
            return _root_message(error)
        except RPCError as error:
            # Temporal may have lost a run that the journal knows, or may be away for a while.
            if error.status is not RPCStatusCode.NOT_FOUND:
                with suppress(RPCError):
                    await self._temporal.get_workflow_handle(run_id).result()
        return None

    async def status(self, run_id: str) -> RunResult:
        """Read the present state of a run.

        Raises:
            NotFoundError: There is no such run.
            UnreachableError: The store cannot be reached.
        """
        record = await self._journal.record(run_id)
        if record is None:
            raise NotFoundError(f"no run has the id {run_id!r} in this store; see `amends list`")
        return RunResult(record)

    async def history(self, run_id: str, after: int = 0) -> list[Fact]:
        """Read a run's facts after a position, in order.

        Raises:
            UnreachableError: The store cannot be reached.
        """
        return await self._journal.facts(run_id, after)

    async def runs(self, query: RunQuery) -> Sequence[RunSummary]:
        """List runs, newest first.

        Raises:
            UnreachableError: The store cannot be reached.
        """
        return await self._journal.runs(query)


def _root_message(error: BaseException) -> str:
    """Return the message of the first failure in a chain of Temporal's failures, in one line."""
    while (inner := getattr(error, "cause", None)) is not None:
        error = inner
    return " ".join(str(error).split())
