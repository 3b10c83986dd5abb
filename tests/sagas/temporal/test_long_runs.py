"""Runs that outgrow a workflow's history, on a real Temporal with a low limit; their effects are routed."""

from collections import Counter
from pathlib import Path

import pytest
import temporalio.client
from bounds import HANG
from journal_parts import open_prepared
from pydantic import BaseModel
from temporal_parts import TemporalServer
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from amends import Call, Client, Rejected, RunStatus, Saga, effect, parallel
from amends.sagas.definition.registry import Registry
from amends.sagas.temporal.worker import running_worker
from amends.sagas.temporal.workflow import SagaWorkflow

LONG = 40
"""Events after which Temporal suggests that a workflow continues as new."""
CALLED: Counter[str] = Counter()


class Parcel(BaseModel):
    """The parcel, and whether the last step refuses it."""

    refused: bool = False


def same(parcel: Parcel) -> Parcel:
    """Return the whole input for every step."""
    return parcel


@effect(queue="far")
def hand_on(parcel: Parcel, call: Call) -> bool:
    """Hand the parcel to the next person."""
    CALLED[call.key] += 1
    if parcel.refused and "/last/" in call.key:
        raise Rejected("nobody is there")
    return True


@hand_on.compensation
def take_back(_: object, call: Call) -> None:
    """Return the parcel."""
    CALLED[call.key] += 1


relay = Saga(
    "relay",
    Parcel,
    *(hand_on.using(same, name=f"before-{number}") for number in range(12)),
    parallel(*(hand_on.using(same, name=f"beside-{number}") for number in range(4))),
    *(hand_on.using(same, name=f"after-{number}") for number in range(8)),
    hand_on.using(same, name="last"),
)


async def workflows_of(temporal: temporalio.client.Client, run_id: str) -> list[WorkflowHistory]:
    """Return the workflows of a run, from the first to the last."""
    described = await temporal.get_workflow_handle(run_id).describe()
    workflow = described.raw_description.workflow_execution_info.first_run_id
    found: list[WorkflowHistory] = []
    while workflow:
        found.append(await temporal.get_workflow_handle(run_id, run_id=workflow).fetch_history())
        workflow = found[-1].events[-1].workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return found


def queues_in(history: WorkflowHistory) -> set[str]:
    """Return the task queues of a workflow's effects."""
    scheduled = EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    return {
        each.activity_task_scheduled_event_attributes.task_queue.name
        for each in history.events
        if each.event_type == scheduled
    }


@pytest.mark.parametrize(
    "refused", [pytest.param(False, id="to its end", marks=pytest.mark.soak), pytest.param(True, id="and back")]
)
async def test_a_long_run_goes_on_in_further_workflows(
    temporal_executable: Path, tmp_path: Path, *, refused: bool
) -> None:
    """No workflow grows far beyond Temporal's suggestion, though there is always work to do; all can be replayed."""
    server = TemporalServer(temporal_executable, tmp_path, f"limit.historyCount.suggestContinueAsNew={LONG}")
    journal, registry = open_prepared(f"sqlite:///{tmp_path / 'events.db'}"), Registry([relay])
    replayer = Replayer(workflows=[SagaWorkflow], workflow_runner=UnsandboxedWorkflowRunner())
    with server.serving():
        temporal = await temporalio.client.Client.connect(server.address)
        async with running_worker(temporal, journal, registry, task_queue="near"):
            client = Client(journal, temporal, registry, task_queue="near")
            handle = await client.start(relay, Parcel(refused=refused), id=f"relay-{refused}")
            ended = await handle.result(timeout=HANG)
        workflows = await workflows_of(temporal, handle.id)
        for history in workflows:
            await replayer.replay_workflow(history)
    await journal.close()
    assert ended.status is (RunStatus.COMPENSATED if refused else RunStatus.COMPLETED)
    called = {key: times for key, times in CALLED.items() if key.startswith(f"{handle.id}/")}
    assert set(called.values()) == {1}
    assert len(called) == (2 * len(relay.plan.nodes) - 1 if refused else len(relay.plan.nodes))
    assert len(workflows) > len(called) * 6 // (2 * LONG)
    assert max(len(history.events) for history in workflows) < 2 * LONG
    assert {queue for history in workflows for queue in queues_in(history)} == {"far"}
