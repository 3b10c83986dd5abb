"""Replays the workflow histories of earlier runs, which detects a change that breaks runs in flight."""

import re

import pytest
from record_histories import HISTORIES, RECORDED, file_of
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from amends.sagas.temporal.workflow import SagaWorkflow


@pytest.mark.parametrize("name", RECORDED)
async def test_today_s_workflow_replays_what_was_recorded(name: str) -> None:
    """Today's workflow issues the recorded commands in the same order."""
    history = WorkflowHistory.from_json("a-run", file_of(name).read_text())
    replayer = Replayer(workflows=[SagaWorkflow], workflow_runner=UnsandboxedWorkflowRunner())
    await replayer.replay_workflow(history)


def test_histories_are_those_of_the_cases_and_name_no_machine() -> None:
    """There is one file for each case, and every identity in it is the fixed one."""
    assert sorted(HISTORIES.iterdir()) == sorted(map(file_of, RECORDED))
    for file in HISTORIES.iterdir():
        assert set(re.findall(r'"identity": "([^"]*)"', file.read_text())) == {"worker"}
