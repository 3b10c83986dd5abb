"""Time and threads belong to the call: with both drivers."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from thread_parts import (
    CALLED,
    GATES,
    LATE_PROBE,
    LATE_UNDO,
    OUTLIVING,
    PATIENT,
    SHORT_SAGA,
    SWIFT,
    Driven,
    Job,
    by_runner,
    by_worker,
    ending,
)

from amends import RunStatus, Saga
from amends.aggregates.run.facts import Fact, LateEffectObserved, StepAttemptFailed
from amends.sagas.runtime.effects import raised_by_signal

Opener = Callable[..., AbstractAsyncContextManager[Driven]]


@pytest.fixture(params=["runner", "temporal"])
def driving(request: pytest.FixtureRequest, sqlite_url: str) -> Opener:
    """Return each driver in turn."""
    if request.param == "runner":
        return lambda *sagas, threads=100: by_runner(sqlite_url, *sagas, threads=threads)
    address = request.getfixturevalue("temporal_address")
    return lambda *sagas, threads=100: by_worker(sqlite_url, address, *sagas, threads=threads, at_once=threads)


@pytest.fixture(autouse=True)
async def gates() -> AsyncIterator[None]:
    """Release every thread at the end of a test, so that none remains."""
    yield
    for gate in GATES.values():
        gate.set()
    GATES.clear()


def kinds(facts: list[Fact]) -> list[str]:
    """Return the kinds of facts."""
    return [fact.kind for fact in facts]


async def called(count: int, ids: list[str]) -> None:
    """Wait until a number of runs have called their delayed step."""
    while sum(CALLED[f"{run_id}/wait_long/do/0"] for run_id in ids) < count:  # noqa: ASYNC110 - threads call it
        await asyncio.sleep(0.02)


async def test_a_call_that_waits_for_a_thread_has_not_started(driving: Opener) -> None:
    """A waiting call is not claimed and uses no attempt; every call happens once when the threads become free."""
    async with driving(threads=4) as driven:
        ids = [f"queued-{number}-{driven.journal.store_id}" for number in range(8)]
        runs = [driven.run(PATIENT, Job(gate="queued"), run_id) for run_id in ids]
        await called(3, ids)
        waiting = [run_id for run_id in ids if not CALLED[f"{run_id}/wait_long/do/0"]]
        assert len(waiting) >= 4
        for run_id in waiting:
            assert "StepStarted" not in kinds(await driven.until(run_id, bool))
        GATES["queued"].set()
        assert {(await run).status for run in runs} == {RunStatus.COMPLETED}
        assert {CALLED[f"{run_id}/wait_long/do/0"] for run_id in ids} == {1}


async def test_a_step_that_hangs_leaves_threads_to_the_others(driving: Opener) -> None:
    """One step's hanging calls, even more than there are threads, do not stop another step's calls."""
    async with driving(threads=4) as driven:
        store = driven.journal.store_id
        ids = [f"hung-{number}-{store}" for number in range(20)]
        hung = [driven.run(PATIENT, Job(gate="hung"), run_id) for run_id in ids]
        await called(3, ids)
        healthy = [driven.run(SWIFT, Job(), f"healthy-{number}-{store}") for number in range(5)]
        assert {(await run).status for run in healthy} == {RunStatus.COMPLETED}
        assert [run.result() for run in hung if run.done()] == []
        GATES["hung"].set()
        assert {(await run).status for run in hung} == {RunStatus.COMPLETED}


@pytest.mark.parametrize("saga", [SHORT_SAGA, OUTLIVING], ids=["def", "async def"])
async def test_an_answer_after_the_timeout_is_recorded_and_undone(driving: Opener, saga: Saga[Job]) -> None:
    """A function that outlives its timeout delivers its answer, also after its run was undone and closed."""
    async with driving() as driven:
        run_id = f"late-{driven.journal.store_id}"
        assert (await driven.run(saga, Job(gate="late"), run_id)).status is RunStatus.COMPENSATED
        GATES["late"].set()
        facts = await driven.until(run_id, lambda facts: kinds(facts).count("SagaCompensated") == 2)
        late = [fact for fact in facts if isinstance(fact, LateEffectObserved)]
        assert [(fact.attempt, fact.result) for fact in late] == [(1, "late")]
        node = late[0].node
        assert [CALLED[f"{run_id}/{node}/{key}"] for key in ("do/0", "undo/0", "undo/1")] == [1, 1, 1]


async def test_an_undo_that_ends_after_its_timeout_settles_the_run(driving: Opener) -> None:
    """An undo in a thread that the run gave up still answers, which closes the run as compensated."""
    async with driving() as driven:
        run_id = f"late-undo-{driven.journal.store_id}"
        assert (await driven.run(LATE_UNDO, Job(gate="undo"), run_id)).status is RunStatus.NEEDS_ATTENTION
        GATES["undo"].set()
        facts = await driven.until(run_id, lambda facts: kinds(facts)[-1] == "SagaCompensated")
        assert kinds(facts)[-3:] == ["AttentionRequested", "CompensationSucceeded", "SagaCompensated"]
        assert CALLED[f"{run_id}/charge/undo/0"] == 1


async def test_a_probe_that_answers_after_its_timeout_is_recorded_and_its_find_undone(driving: Opener) -> None:
    """A probe in a thread that finds the effect after the run was undone leads to a second undo, under another key."""
    async with driving() as driven:
        run_id = f"late-probe-{driven.journal.store_id}"
        assert (await driven.run(LATE_PROBE, Job(gate="probe"), run_id)).status is RunStatus.COMPENSATED
        GATES["probe"].set()
        facts = await driven.until(run_id, lambda facts: kinds(facts).count("SagaCompensated") == 2)
        late = [fact for fact in facts if isinstance(fact, LateEffectObserved)]
        assert [(fact.node, fact.result) for fact in late] == [("lose", "found")]
        assert [CALLED[f"{run_id}/lose/undo/{generation}"] for generation in (0, 1, 2)] == [1, 1, 0]


ENDINGS: dict[str, Callable[[], BaseException]] = {
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
    "CancelledError": asyncio.CancelledError,
    "BaseException": BaseException,
    "TimeoutError": TimeoutError,
}
# A coroutine cannot let this out: Python makes a RuntimeError of it.
_CHANGED = {"StopIteration": "RuntimeError"}


async def test_every_way_a_function_can_end_is_an_outcome(driving: Opener) -> None:
    """The class of the error is in the journal at once, and the driver continues, in threads and on the event loop."""
    sagas = {
        (name, blocking): ending(f"{name.lower()}-{'def' if blocking else 'async'}", make, blocking=blocking)
        for name, make in ENDINGS.items()
        for blocking in (True, False)
    }
    async with driving(tuple(sagas.values())) as driven:
        for (name, blocking), saga in sagas.items():
            run_id = f"{saga.name}-{driven.journal.store_id}"
            assert (await driven.run(saga, Job(), run_id)).status is RunStatus.COMPENSATED
            failed = [f for f in await driven.journal.facts(run_id) if isinstance(f, StepAttemptFailed)]
            expected = name if blocking else _CHANGED.get(name, name)
            assert [fact.error_type for fact in failed] == [expected]


def test_an_interrupt_by_a_signal_is_told_from_one_that_a_function_raises() -> None:
    """A signal to the process interrupts the driver; a statement of the user's code is an outcome."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as by_signal:
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as by_statement:
            raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)
    assert raised_by_signal(by_signal.value)
    assert not raised_by_signal(by_statement.value)
