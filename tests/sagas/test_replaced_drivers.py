"""A driver is replaced while a call is under way: the call happens once, and the run ends soon after its answer.

The old driver's process lives and settles its call, whatever drives the run by then. The claim of such a call lasts for
six minutes: the test's own bound ends a driver that waits for the claim's end instead of the answer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest
import temporalio.client
from hard_parts import LOCAL, PATIENT, SAGAS, Ledger, Order, client_of, opened, until, working
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest, ResetWorkflowExecutionRequest
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError

from amends import RunStatus, Saga
from amends.aggregates.errors import WrongDriverError
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.run.facts import Fact
from amends.aggregates.sql.journal import SqlJournal
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.runtime.runner import Runner
from amends.sagas.temporal.recovery import recover
from amends.sagas.temporal.start_workflow import wake

CLOSED = {"SagaCompleted", "SagaCompensated", "AttentionRequested"}


async def met(check: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition is met; only the test's own bound ends the wait."""
    while not await check():  # noqa: ASYNC110 - Temporal's server changes it
        await asyncio.sleep(0.02)


class Scene:
    """A run that Temporal drives, with a call under way.

    Args:
        temporal: Temporal.
        journal: The store.
        saga: The saga of the run.
        folder: The participant's folder.
        undo: Whether the call under way is the undo.
    """

    def __init__(
        self, temporal: temporalio.client.Client, journal: SqlJournal, saga: Saga[Order], folder: Path, *, undo: bool
    ) -> None:
        self.temporal = temporal
        self.journal = journal
        self.saga = saga
        self.queue = self.run_id = f"replaced-{uuid4().hex}"
        self.client = client_of(temporal, journal, self.queue)
        self.ledger = Ledger(folder)
        self.held = "pay/undo" if undo else "pay/do"
        self.order = Order(folder=str(folder), refused=undo, held=(self.held,))

    async def start(self) -> None:
        """Start the run, and return when the call is under way."""
        await self.client.start(self.saga, self.order, id=self.run_id)
        await self.ledger.until_called(self.run_id, f"{self.held}/0")

    async def tasks(self) -> list[int]:
        """List the completed workflow tasks of the workflow that drives the run now."""
        try:
            history = await self.temporal.get_workflow_handle(self.run_id).fetch_history()
        except RPCError:
            return []
        completed = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
        return [event.event_id for event in history.events if event.event_type == completed]

    async def looked(self) -> bool:
        """Check whether the workflow that drives the run now has read the journal, and waits."""
        return bool(await self.tasks())

    async def workflow(self) -> str | None:
        """Return the workflow run that drives the run now; `None` when there is none."""
        try:
            found = await self.temporal.get_workflow_handle(self.run_id).describe()
        except RPCError:
            return None
        return found.run_id if found.status is WorkflowExecutionStatus.RUNNING else None

    async def end(self) -> list[Fact]:
        """Let the participant answer the call, and return the facts when the run is closed."""
        self.ledger.open_gate(self.run_id)
        return await until(self.journal, self.run_id, lambda facts: facts[-1].kind in CLOSED)

    def check(self, facts: list[Fact]) -> None:
        """Check that the run has come to its end, and that each call happened once."""
        assert facts[-1].kind == ("SagaCompensated" if self.order.refused else "SagaCompleted")
        calls = ["pay/do/0", "pay/undo/0"] if self.order.refused else ["pay/do/0", "deliver/do/0"]
        assert self.ledger.called(self.run_id) == calls
        assert self.ledger.acted(self.run_id) == calls


async def reset(scene: Scene) -> None:
    """Reset the workflow to its first task, as `temporal workflow reset` does."""
    await met(scene.looked)
    first = (await scene.tasks())[0]
    await scene.temporal.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=scene.temporal.namespace,
            workflow_execution=WorkflowExecution(workflow_id=scene.run_id),
            reason="test",
            workflow_task_finish_event_id=first,
            request_id=uuid4().hex,
        )
    )


async def terminate(scene: Scene) -> None:
    """Terminate the workflow, and bring the run back, as `amends recover` does."""
    await scene.temporal.get_workflow_handle(scene.run_id).terminate()
    await recover(scene.temporal, scene.journal, task_queue=scene.queue, sagas=None)


async def delete(scene: Scene) -> None:
    """Delete the workflow, and start the run a second time."""
    await scene.temporal.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(
            namespace=scene.temporal.namespace, workflow_execution=WorkflowExecution(workflow_id=scene.run_id)
        )
    )

    async def gone() -> bool:
        return await scene.workflow() is None

    await met(gone)
    await scene.client.start(scene.saga, scene.order, id=scene.run_id)


CALLS = {
    f"{kind} {'undo' if undo else 'do'}": (saga, undo)
    for kind, saga in (("ordinary", PATIENT), ("local", LOCAL))
    for undo in (False, True)
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("replace", [reset, terminate, delete])
async def test_a_replaced_workflow_is_woken_by_the_answer(
    replace: Callable[[Scene], Awaitable[None]],
    call: str,
    sqlite_url: str,
    temporal_address: str,
    tmp_path: Path,
) -> None:
    """The new workflow joins the call that the old one began: the call is not repeated, and its answer counts."""
    temporal = await temporalio.client.Client.connect(temporal_address)
    saga, undo = CALLS[call]
    async with opened(sqlite_url) as journal:
        scene = Scene(temporal, journal, saga, tmp_path, undo=undo)
        async with working(temporal, journal, scene.queue):
            await scene.start()
            before = await scene.workflow()
            await replace(scene)

            async def replaced() -> bool:
                return await scene.workflow() not in {before, None} and await scene.looked()

            await met(replaced)
            scene.check(await scene.end())


async def test_temporal_takes_a_run_over_in_the_middle_of_a_call(
    sqlite_url: str, temporal_address: str, tmp_path: Path
) -> None:
    """The runner settles its own call, gives the run up, and Temporal continues from the answer."""
    temporal = await temporalio.client.Client.connect(temporal_address)
    async with opened(sqlite_url) as journal:
        scene = Scene(temporal, journal, PATIENT, tmp_path, undo=False)
        runner = Runner(journal, Registry(SAGAS))
        driven = asyncio.create_task(runner.run(PATIENT, scene.order, id=scene.run_id))
        await scene.ledger.until_called(scene.run_id, "pay/do/0")
        anybody = RunProtocol(Registry(SAGAS), "operator")
        record = await journal.commit(
            lambda tx: anybody.take_over(tx, scene.run_id, TEMPORAL_DRIVER, 0, actor="op", reason="moved"),
            runs=(scene.run_id,),
        )
        await wake(temporal, record, task_queue=scene.queue)
        async with working(temporal, journal, scene.queue):
            await met(scene.looked)
            scene.check(await scene.end())
        with pytest.raises(WrongDriverError):
            await driven


async def test_a_runner_takes_a_run_over_in_the_middle_of_a_call(
    sqlite_url: str, temporal_address: str, tmp_path: Path
) -> None:
    """The worker settles its own call, and the runner, which waits for the claim, continues at once."""
    temporal = await temporalio.client.Client.connect(temporal_address)
    async with opened(sqlite_url) as journal:
        scene = Scene(temporal, journal, PATIENT, tmp_path, undo=False)
        async with working(temporal, journal, scene.queue):
            await scene.start()
            runner = Runner(journal, Registry(SAGAS))
            driven = asyncio.create_task(runner.take_over(scene.run_id, "moved"))
            await until(journal, scene.run_id, lambda facts: facts[-1].kind == "DriverTaken")
            scene.check(await scene.end())
            assert (await driven).status is RunStatus.COMPLETED


async def test_a_runner_notices_the_answer_to_a_claim_of_another_process(store_url: str, tmp_path: Path) -> None:
    """A second runner waits for the first one's answer in the journal, not until the end of the claim."""
    ledger, order = Ledger(tmp_path), Order(folder=str(tmp_path), held=("pay/do",))
    async with opened(store_url) as journal:
        first, second = Runner(journal, Registry(SAGAS)), Runner(journal, Registry(SAGAS))
        driven = asyncio.create_task(first.run(PATIENT, order, id="r"))
        await ledger.until_called("r", "pay/do/0")
        waiting = asyncio.create_task(second.resume("r"))
        await asyncio.sleep(0)
        ledger.open_gate("r")
        assert (await driven).status is RunStatus.COMPLETED
        assert (await waiting).status is RunStatus.COMPLETED
    assert ledger.called("r") == ["pay/do/0", "deliver/do/0"]
