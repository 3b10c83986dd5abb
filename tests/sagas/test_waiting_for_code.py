"""A run that the deployed code cannot continue waits: no attempt is used, nothing is undone, other code continues it.

Every case is three deploys: the code that the run was started with, code that cannot continue it, and code that can.
"""

import asyncio
import logging
from dataclasses import replace
from uuid import uuid4

import pytest
import temporalio.client
from bounds import HANG
from hard_parts import opened, until
from runs.waiting_for_code import ASKED, CANARY, CASES, PAUSES, Case, Code, Order, Version, WithCountry, load
from stores import on_one_store

from amends import Attempted, Call, Client, Done, Rejected, Runner, RunStatus, Saga, UnitOfWork, effect, transaction
from amends.aggregates.errors import CannotContinueError
from amends.aggregates.journal import Journal
from amends.aggregates.run.facts import Fact, NodeFact
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.calls import postponement_of
from amends.sagas.engine.interventions import Intervention, InterventionKind
from amends.sagas.runtime.clock import VirtualClock
from amends.sagas.temporal.worker import running_worker

ON_TEMPORAL = ("mapping", "required", "step", "step of an effect", "result", "plan", "plan, of an effect, refused")
TURNED = {"SagaFailed", "StepFailed", "StepRejected", "StepInDoubt", "StepAttemptFailed"}


async def until_pay_has_failed(journal: Journal, run_id: str) -> int:
    """Wait until the run is in the middle; return its position."""
    facts = await until(journal, run_id, lambda facts: any(fact.kind == "StepAttemptFailed" for fact in facts))
    return facts[-1].position


def began(case: Case) -> Code:
    """Return the code that the run is started with, in which it does not get far."""
    return replace(case.first, down=True)


def check_waiting(case: Case, facts: list[Fact]) -> None:
    """Check that the run waits at its node: no attempt of it was used, and nothing was undone because of it."""
    own = [fact for fact in facts if isinstance(fact, NodeFact) and fact.node == case.node]
    if case.end is RunStatus.COMPLETED:
        assert not {fact.kind for fact in facts if getattr(fact, "node", "") != "pay"} & TURNED
        assert not [
            fact for fact in own if fact.kind in TURNED - ({"StepAttemptFailed"} if case.node == "pay" else set())
        ]
    else:
        assert not [fact for fact in own if fact.kind.startswith("Compensation")]
    assert facts[-1].kind not in {"SagaCompleted", "SagaCompensated", "AttentionRequested"}
    assert {fact.head.attempt for fact in own if fact.kind.endswith("Postponed")} <= {0}


def check_text(case: Case, run_id: str, text: str) -> None:
    """Check that a message names run, step, cause and remedy, and quotes no value."""
    assert text.startswith(f"run {run_id!r} waits at step {case.node!r}: "), text
    assert all(each in text for each in case.says), text
    assert "deploy" in text
    assert CANARY not in text


def check_end(case: Case, result_status: RunStatus, facts: list[Fact]) -> None:
    """Check that the third deploy continued the run as if the second had never been."""
    assert result_status is case.end
    assert tuple(fact.node for fact in facts if fact.kind == "CompensationSucceeded") == case.undone  # type: ignore[attr-defined]  # a node's
    if case.end is RunStatus.COMPLETED:
        last = next(fact for fact in facts if fact.kind == "StepSucceeded" and fact.node == case.node)  # type: ignore[attr-defined]  # as above
        assert case.node == "pay" or last.head.attempt == 1


@pytest.mark.parametrize("name", CASES)
async def test_a_run_in_this_process_waits_for_code(store_url: str, name: str) -> None:
    """The call ends with one line, the run stays open as it was, and sufficient code continues it."""
    case, run_id, clock = CASES[name], f"{uuid4().hex}", VirtualClock()
    async with opened(store_url) as journal:
        first, second, third = load(began(case)), load(case.second), load(case.third)
        process = asyncio.create_task(
            Runner(journal, first.registry, clock=clock).run(first.saga, Order(id="o"), id=run_id)
        )
        await until_pay_has_failed(journal, run_id)
        process.cancel()
        await asyncio.gather(process, return_exceptions=True)
        for _ in range(3):  # after any number of tries
            with pytest.raises(CannotContinueError) as raised:
                await Runner(journal, second.registry, clock=clock).resume(run_id)
            check_text(case, run_id, str(raised.value))
            assert raised.value.kind == case.kind
            check_waiting(case, await journal.facts(run_id))
        result = await Runner(journal, third.registry, clock=clock).resume(run_id)
        check_end(case, result.status, await journal.facts(run_id))


@pytest.mark.parametrize(("store_url", "name"), on_one_store(ON_TEMPORAL), indirect=["store_url"])
async def test_a_run_on_temporal_waits_for_code(
    store_url: str, temporal_address: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker reports once why the run waits, and a worker with sufficient code continues it."""
    case, run_id = CASES[name], f"waits-{uuid4().hex}"
    temporal, queue = await temporalio.client.Client.connect(temporal_address), f"q-{run_id}"
    first, second, third = load(began(case)), load(case.second), load(case.third)
    async with opened(store_url) as journal, running_worker(temporal, journal, first.registry, task_queue=queue):
        await Client(journal, temporal, first.registry, task_queue=queue).start(first.saga, Order(id="o"), id=run_id)
        await until_pay_has_failed(journal, run_id)
    caplog.clear()
    async with opened(store_url) as journal, running_worker(temporal, journal, second.registry, task_queue=queue):
        while not (  # noqa: ASYNC110 - the worker says it
            said := [each for each in _warnings(caplog) if each.startswith(f"run {run_id!r} waits")]
        ):
            await asyncio.sleep(0.02)
        check_text(case, run_id, said[0])
        check_waiting(case, await journal.facts(run_id))
    assert CANARY not in "".join(_warnings(caplog))
    async with opened(store_url) as journal, running_worker(temporal, journal, third.registry, task_queue=queue):
        result = await Client(journal, temporal, third.registry, task_queue=queue).result(run_id, timeout=HANG)
        check_end(case, result.status, await journal.facts(run_id))


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


async def test_a_cancelled_run_waits_for_code_with_its_undo(store_url: str) -> None:
    """A cancel is accepted under code that cannot continue the run; its undo waits, and never becomes exhausted."""
    clock, run_id = VirtualClock(), uuid4().hex
    first, second = load(Code(down=True)), load(Code(model=WithCountry))
    cancel = Intervention(kind=InterventionKind.CANCEL, actor="op", reason="asked")
    async with opened(store_url) as journal:
        process = asyncio.create_task(
            Runner(journal, first.registry, clock=clock).run(first.saga, Order(id="o"), id=run_id)
        )
        await until_pay_has_failed(journal, run_id)
        process.cancel()
        await asyncio.gather(process, return_exceptions=True)
        runner = Runner(journal, second.registry, clock=clock)
        await runner.intervene(run_id, cancel)
        for _ in range(12):  # more often than the undo has attempts
            with pytest.raises(CannotContinueError):
                await runner.resume(run_id)
        assert (await runner.result(run_id)).status is RunStatus.COMPENSATING
        kinds = {fact.kind for fact in await journal.facts(run_id)}
        assert not {kind for kind in kinds if kind.startswith("Compensation")}
        result = await Runner(journal, load(Code()).registry, clock=clock).resume(run_id)
        assert result.status is RunStatus.COMPENSATED


async def test_an_answer_in_flight_is_kept_when_a_parallel_step_waits() -> None:
    """The call of a parallel step is settled before the process gives the run up, so it happens once."""
    calls: list[str] = []

    def loaded(*, mapped: bool, down: bool) -> Version:
        from amends import parallel  # noqa: PLC0415 - used here only

        @transaction(name="note", retry=PAUSES)
        def note(_: str, __: UnitOfWork) -> None:
            if down:
                raise ConnectionError("later")

        @note.compensation
        def strike(_: Done[str, None], __: UnitOfWork) -> None: ...

        @effect(name="send", retry=PAUSES)
        async def send(_: str, call: Call) -> str:
            if down:
                raise ConnectionError("later")
            await asyncio.sleep(0)
            calls.append(call.key)
            return "sent"

        @send.compensation
        async def unsend(_: Attempted[str, str], __: Call) -> None: ...

        saga: Saga[str] = Saga("both", str, parallel(note.using(as_it_is) if mapped else note, send))
        return Version(saga, Registry([saga]))

    clock = VirtualClock()
    async with opened("sqlite://") as journal:
        first = loaded(mapped=True, down=True)
        process = asyncio.create_task(Runner(journal, first.registry, clock=clock).run(first.saga, "x", id="r"))
        await until_pay_has_failed(journal, "r")
        process.cancel()
        await asyncio.gather(process, return_exceptions=True)
        with pytest.raises(CannotContinueError):
            await Runner(journal, loaded(mapped=False, down=False).registry, clock=clock).resume("r")
        result = await Runner(journal, loaded(mapped=True, down=False).registry, clock=clock).resume("r")
    assert result.status is RunStatus.COMPLETED
    assert calls == ["r/send/do/0"]


def as_it_is(text: str) -> str:
    """Return the input unchanged."""
    return text


def test_a_default_is_for_runs_of_another_plan_only() -> None:
    """Where the plan has the step and it has not succeeded, the saga's order is wrong: a default hides nothing."""
    from amends.aggregates.errors import NotFoundError  # noqa: PLC0415 - used here only

    version = load(ASKED)
    weigh = next(placed.step for placed in version.saga.placed if placed.step.name == "weigh")
    call = Call(run_id="r", node="book", key="k", attempt=1, results={}, plan=version.saga.plan, do_key="k")
    with pytest.raises(NotFoundError, match="has not succeeded") as raised:
        call.result_of(weigh, default=3)
    assert not isinstance(raised.value, CannotContinueError)
    assert postponement_of(raised.value) is None
    former = replace(call, plan=load(Code()).saga.plan)
    assert former.result_of(weigh, default=3) == 3


def test_a_step_that_has_dealt_with_the_error_is_taken_at_its_word() -> None:
    """`from None` cuts the chain: then the step's own exception counts."""
    error = Rejected("too old")
    error.__context__ = CannotContinueError("r", "n", kind="plan", why="w", remedy="m")
    assert postponement_of(error) is not None
    error.__suppress_context__ = True
    assert postponement_of(error) is None
