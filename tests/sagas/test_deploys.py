"""A deploy does not harm runs in flight: they follow the plan that they were started with, under the same keys."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import uuid4

import pytest
import temporalio.client
from bounds import HANG
from hard_parts import opened, until

from amends import (
    Attempted,
    Call,
    Client,
    Rejected,
    Retry,
    Runner,
    RunResult,
    RunStatus,
    Saga,
    UnitOfWork,
    effect,
    pivot,
    retriable,
    transaction,
)
from amends.aggregates.journal import Journal
from amends.aggregates.run.facts import CompensationStarted, StepStarted
from amends.aggregates.sql.journal import open_journal
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.steps import Step
from amends.sagas.temporal.worker import running_worker

FORMER = ("book", "pay", "pack", "confirm", "send")
PRESENT = ("pay", "weigh", "book", "confirm", "send")
# The pause is long enough for a process to end in it, so that most often the test need not wait for a call.
PAUSES = Retry(None, first=timedelta(milliseconds=300), factor=1)


class Version(NamedTuple):
    """The code of one process.

    Attributes:
        saga: The saga, which has one name in all versions.
        registry: The registry of the saga, and of every step whose code still exists.
    """

    saga: Saga[str]
    registry: Registry


def undoable(name: str, *, down: bool = False) -> Step[str, str]:
    """Define an effect and its undo.

    Args:
        name: Name of the step.
        down: Whether its calls get no answer.
    """

    @effect(name=name, timeout=timedelta(seconds=1), retry=PAUSES)
    async def act(item: str, call: Call) -> str:
        if down:
            raise ConnectionError("nobody is there")
        return f"{call.node} of {item}"

    @act.compensation
    async def take_back(tried: Attempted[str, str], _: Call) -> None:
        assert tried.result is not None

    return act


def version(order: Sequence[str], *, down: bool = False) -> Version:
    """Load the code, as a new process does: it shares nothing with the other versions.

    Args:
        order: The steps of the saga, with the pivot `confirm`; the registry also knows the other steps.
        down: Whether the calls of `pay` get no answer.
    """
    members = {name: undoable(name, down=down and name == "pay") for name in ("book", "pay", "pack", "weigh")}

    @transaction(name="confirm")
    def confirm(item: str, _: UnitOfWork) -> None:
        if item == "contraband":
            raise Rejected("not allowed")

    @effect(name="send")
    async def send(_: str, call: Call) -> None:
        pass

    parts = {**members, "confirm": pivot(confirm), "send": retriable(send)}
    saga = Saga("order", str, *(parts[name] for name in order))
    return Version(saga, Registry([saga], members.values()))


async def until_pay_has_failed(journal: Journal, run_id: str) -> None:
    """Wait until the run is in the middle: one step has been done, and the next one got no answer."""
    await until(journal, run_id, lambda facts: any(fact.kind == "StepAttemptFailed" for fact in facts))


async def by_runner(url: str, item: str, run_id: str) -> RunResult:
    """Drive a run with the in-process driver, with a deploy in the middle of it."""
    former, present = version(FORMER, down=True), version(PRESENT)
    async with Runner(open_journal(url), former.registry) as runner:
        process = asyncio.create_task(runner.run(former.saga, item, id=run_id))
        await until_pay_has_failed(runner.journal, run_id)
        process.cancel()
        await asyncio.gather(process, return_exceptions=True)
    async with Runner(open_journal(url), present.registry) as runner:
        return await runner.resume(run_id)


async def by_worker(url: str, item: str, run_id: str, address: str) -> RunResult:
    """Drive a run with Temporal, with a deploy of the worker in the middle of it."""
    former, present = version(FORMER, down=True), version(PRESENT)
    temporal, queue = await temporalio.client.Client.connect(address), f"deploys-{run_id}"
    async with opened(url) as journal, running_worker(temporal, journal, former.registry, task_queue=queue):
        await Client(journal, temporal, former.registry, task_queue=queue).start(former.saga, item, id=run_id)
        await until_pay_has_failed(journal, run_id)
    async with opened(url) as journal, running_worker(temporal, journal, present.registry, task_queue=queue):
        client = Client(journal, temporal, present.registry, task_queue=queue)
        return await client.result(run_id, timeout=HANG)


async def keys(journal: Journal, run_id: str, *, undo: bool = False) -> list[tuple[str, str]]:
    """Return the effects that a run called, or undid, in order, each with its only key."""
    kind = CompensationStarted if undo else StepStarted
    facts = [fact for fact in await journal.facts(run_id) if isinstance(fact, kind)]
    return list(dict.fromkeys((fact.node, fact.key) for fact in facts))


@pytest.mark.parametrize("driver", ["runner", "worker"])
@pytest.mark.parametrize(("item", "status"), [("teapot", RunStatus.COMPLETED), ("contraband", RunStatus.COMPENSATED)])
async def test_a_run_in_flight_follows_the_plan_it_was_started_with(
    sqlite_url: str, temporal_address: str, driver: str, item: str, status: RunStatus
) -> None:
    """A run follows its own plan: it runs a removed step, no new one, in the old order and with the old keys."""
    run_id = f"deployed-{uuid4().hex}"
    if driver == "runner":
        result = await by_runner(sqlite_url, item, run_id)
    else:
        result = await by_worker(sqlite_url, item, run_id, temporal_address)
    assert result.status is status
    before, after = ("book", "pay", "pack"), ("send",) if status is RunStatus.COMPLETED else ()
    undone = () if status is RunStatus.COMPLETED else reversed(before)
    async with opened(sqlite_url) as journal:
        done, taken_back = await keys(journal, run_id), await keys(journal, run_id, undo=True)
    assert done == [(name, f"{run_id}/{name}/do/0") for name in (*before, *after)]
    assert taken_back == [(name, f"{run_id}/{name}/undo/0") for name in undone]
    assert [result.record.results[name] for name in before] == [f"{name} of {item}" for name in before]


async def test_a_new_run_follows_the_new_plan(sqlite_url: str) -> None:
    """The two versions do differ: a run started under the later one runs its steps, in its order."""
    present = version(PRESENT)
    async with opened(sqlite_url) as journal:
        await Runner(journal, present.registry).run(present.saga, "teapot", id="new")
        assert [name for name, _ in await keys(journal, "new")] == [name for name in PRESENT if name != "confirm"]
