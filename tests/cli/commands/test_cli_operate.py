"""Test `amends cancel`, `retry`, `skip`, `resolve` and `recover`: operators bring runs to their end."""

import json
import logging
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from bounds import HANG_S
from commands import CommandProject, shop_at
from forked import run_on_terminal
from reading_shop import Amends, Answer, as_it_was

from amends.aggregates.run.facts import Fact, RetryRequested
from amends.aggregates.sql.journal import open_journal
from amends.cli.app import main
from amends.cli.project.settings import load_settings
from amends.cli.runtime.wiring import load_project, open_store
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.engine.start import prepare_start

MODULE = """
import asyncio
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from amends import Attempted, Call, Done, Rejected, Retry, Saga, UnitOfWork, effect, pivot, retriable, transaction

ONCE = Retry(max_attempts=1)
LATER = Retry(max_attempts=2, first=timedelta(hours=1), longest=timedelta(hours=1))


class Order(BaseModel):
    fail: str = ""
    name: str = ""


@transaction
def note_down(order: Order, uow: UnitOfWork) -> str:
    return "noted"


@note_down.compensation
def strike_out(done: Done[Order, str], uow: UnitOfWork) -> None:
    pass


@effect(retry=LATER, timeout=timedelta(minutes=5))
async def pack(order: Order, call: Call) -> str:
    while order.fail == "hang" and not Path("gate").exists():
        await asyncio.sleep(0.02)
    if order.fail == "wait":
        raise RuntimeError("no answer")
    return "parcel"


@pack.compensation(retry=ONCE)
async def unpack(tried: Attempted[Order, str], call: Call) -> None:
    if tried.input.fail == "undo" and not Path(tried.input.name).exists():
        raise RuntimeError("glued")


@transaction
def send(order: Order, uow: UnitOfWork) -> None:
    if order.fail == "undo":
        raise Rejected("no lorry")


@effect
async def bill(order: Order, call: Call) -> int:
    if order.fail == "bill" and not Path(order.name).exists():
        raise Rejected("closed today")
    if order.fail == "slow bill":
        raise RuntimeError("no answer")
    return 7


ship = Saga("ship", Order, note_down, pack, pivot(send), retriable(bill, retry=LATER))
"""


RUNS = {
    "undo-1": "undo",
    "undo-skip": "undo",
    "undo-resolve": "undo",
    "undo-drift": "undo",
    "bill-1": "bill",
    "bill-2": "bill",
    "wait-1": "wait",
    "pivot-1": "slow bill",
    "hang-1": "hang",
    "ask-1": "bill",
}
"""The runs of this file, and the fault in each."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandProject]:
    """Yield a project in which `amends dev` runs, with all runs under way."""
    project = shop_at(tmp_path_factory.mktemp("operate") / "shop", MODULE)
    project.write("runs.jsonl", "".join(json.dumps({"name": n, "fail": f}) + "\n" for n, f in RUNS.items()))
    with project.started("dev") as dev:
        dev.read_until("Ready")
        with closing(sqlite3.connect(project.path / ".amends" / "events.db")) as store:
            store.execute(f"VACUUM INTO '{project.path / 'older.db'}'")
        assert project.run("run", "ship", "@runs.jsonl", "--id-field", "name", "--detach").code == 0
        yield project


@pytest.fixture
def project(tmp_path: Path) -> CommandProject:
    """Return a project in which no program runs."""
    return shop_at(tmp_path / "shop", MODULE)


def reached(project: CommandProject, run_id: str, *kinds: str) -> list[str]:
    """Wait until the last facts of a run are of some kinds, and return all facts by kind."""
    journal = open_journal(project.store_url)
    try:
        for _ in range(1_500):
            found: list[str] = [fact.kind for fact in journal.facts_blocking(run_id)]
            if tuple(found[-len(kinds) :]) == kinds:
                return found
            time.sleep(0.02)
    finally:
        journal.close_blocking()
    raise AssertionError(f"run {run_id} did not come to {kinds}: {found}")


def facts_of(project: CommandProject, run_id: str) -> list[Fact]:
    """Read the facts of a run."""
    journal = open_journal(project.store_url)
    try:
        return journal.facts_blocking(run_id)
    finally:
        journal.close_blocking()


def decide(amends: Amends, verb: str, run_id: str, *more: str) -> tuple[int, str]:
    """Decide as an operator, without a question; return the exit status and the output."""
    ended = amends(verb, run_id, *more, "--reason", "seen to", "--actor", "op", "--yes")
    return ended.code, ended.out if ended.code == 0 else ended.err.strip()


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Undo the changes of the program to this process, in which tests call it to save its start."""
    handlers = logging.getLogger().handlers[:]
    with as_it_was():
        yield
    logging.getLogger().handlers[:] = handlers
    sys.modules.pop("shop", None)


@pytest.fixture
def amends(served: CommandProject, capsys: pytest.CaptureFixture[str]) -> Amends:
    """Return the program, for calls in this process on the project in which `amends dev` runs."""
    return Amends(served.path, capsys)


@pytest.fixture
def alone(project: CommandProject, capsys: pytest.CaptureFixture[str]) -> Amends:
    """Return the program, for calls in this process on the project in which no program runs."""
    return Amends(project.path, capsys)


# ---- a run that needs attention


def test_an_exhausted_undo_is_retried(served: CommandProject, amends: Amends) -> None:
    """The plan is shown, the fact names the operator and the reason, and Temporal brings the run to its end."""
    reached(served, "undo-1", "AttentionRequested")
    served.write("undo-1", "")
    code, said = decide(amends, "retry", "undo-1", "--evidence", "TX-7")
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert code == 0
    assert lines[1:] == [
        "to write RetryRequested for pack (with a new budget), by op: seen to; evidence: TX-7",
        "then COMPENSATING",
        "next pack: undo attempt 1 of 1",
        "to undo pack",
        "COMPENSATING: run undo-1 of ship: Temporal continues the run; see: amends history undo-1 --watch",
    ]
    reached(served, "undo-1", "RetryRequested", "CompensationStarted", "CompensationSucceeded", "SagaCompensated")
    assert "by op: seen to; evidence: TX-7" in amends("history", "undo-1").out


def test_an_exhausted_undo_is_drift_by_itself_and_its_correction_closes_the_run(
    served: CommandProject, amends: Amends
) -> None:
    """The rule proposes a retry; after an approval, the run's fact names the drift, and the run comes to its end."""
    reached(served, "undo-drift", "AttentionRequested")
    (drift,) = _attention(amends("reconcile", "attention", "--json"))
    assert drift["correction"] == "retry pack of run undo-drift"
    assert drift["held"] == "waits for approval"
    served.write("undo-drift", "")
    amends("reconcile", "attention", "--approve", drift["id"], "--reason", "unglued")
    while _attention(amends("reconcile", "attention", "--json")):  # Temporal's list of running workflows lags behind
        time.sleep(0.1)
    reached(served, "undo-drift", "RetryRequested", "CompensationStarted", "CompensationSucceeded", "SagaCompensated")
    (retry,) = [fact for fact in facts_of(served, "undo-drift") if isinstance(fact, RetryRequested)]
    assert retry.actor == "rule attention"
    (corrected,) = [
        each
        for look in amends("reconciliations", "attention", "--json").json
        for each in amends("reconciliation", look["id"], "--json").json
        if each["fact"] == "DriftCorrected"
    ]
    assert (corrected["drift"], corrected["changed"]) == (drift["id"], [f"undo-drift:{retry.position}"])
    assert str(retry.causation_id).startswith("reconciliation/attention:")


def _attention(answer: Answer) -> list[dict[str, Any]]:
    return [each for each in answer.json[0]["drift"] if each["subject"] == "undo-drift"]


@pytest.mark.parametrize(
    ("verb", "more", "kind"),
    [("skip", [], "CompensationSkipped"), ("resolve", ["--evidence", "TX-8"], "CompensationResolved")],
)
def test_an_exhausted_undo_is_left_or_done_by_hand(
    served: CommandProject, amends: Amends, verb: str, more: list[str], kind: str
) -> None:
    """Either decision closes the run at once, and `show` names the operator."""
    run_id = f"undo-{verb}"
    reached(served, run_id, "AttentionRequested")
    code, said = decide(amends, verb, run_id, "pack", *more)
    assert (code, said.splitlines()[-1]) == (
        0,
        f"COMPENSATED: run {run_id} of ship; its facts: amends history {run_id}",
    )
    assert [fact.kind for fact in facts_of(served, run_id)][-2:] == [kind, "SagaCompensated"]
    assert "by op: seen to" in amends("show", run_id).out


def test_a_refused_step_behind_the_pivot_is_skipped_with_a_result(served: CommandProject, amends: Amends) -> None:
    """A result of another type is refused; a valid one reaches later steps; JSON has every field of the decision."""
    reached(served, "bill-1", "AttentionRequested")
    code, said = decide(amends, "skip", "bill-1", "--output", '"seven"')
    assert code == 2
    assert "the output of 'bill' for later steps is not valid" in said
    ended = amends("skip", "bill-1", "--reason", "paid in cash", "--output", "8", "--yes", "--json")
    answer = json.loads(ended.out)
    assert (ended.code, answer["written"], answer["status"]) == (0, True, "COMPLETED")
    assert (answer["plan"]["fact"]["result"], answer["plan"]["next"][0]["what"]) == (
        8,
        "the run is closed as completed",
    )
    reached(served, "bill-1", "StepSkipped", "SagaCompleted")


def test_a_refused_step_behind_the_pivot_is_retried(served: CommandProject, amends: Amends) -> None:
    """A redo calls the step under a new key, and the run is completed."""
    reached(served, "bill-2", "AttentionRequested")
    served.write("bill-2", "")
    assert decide(amends, "retry", "bill-2", "bill")[0] == 0
    reached(served, "bill-2", "StepStarted", "StepSucceeded", "SagaCompleted")


# ---- cancellation


def test_a_waiting_run_is_cancelled_once(served: CommandProject, amends: Amends) -> None:
    """It is undone at once, though its step would have waited for an hour; a second request writes nothing."""
    reached(served, "wait-1", "StepAttemptFailed")
    assert decide(amends, "cancel", "wait-1")[0] == 0
    kinds = reached(served, "wait-1", "SagaCompensated")
    code, said = decide(amends, "cancel", "wait-1")
    assert code == 0
    assert "nothing: the run is being undone, or was undone, already" in said
    assert [fact.kind for fact in facts_of(served, "wait-1")] == kinds


def test_a_run_behind_its_pivot_is_not_cancelled(served: CommandProject, amends: Amends) -> None:
    """It only goes forward: the command refuses in one line and writes nothing."""
    reached(served, "pivot-1", "StepAttemptFailed")
    code, said = decide(amends, "cancel", "pivot-1")
    assert code == 2
    assert said.startswith("amends: run 'pivot-1' has passed its pivot and cannot be cancelled")
    assert facts_of(served, "pivot-1")[-1].kind == "StepAttemptFailed"


# ---- obstacles


def test_a_step_that_is_being_worked_on_is_waited_for(served: CommandProject, amends: Amends) -> None:
    """No decision is possible meanwhile; --after-expiry waits for the step's answer, and Ctrl-C ends that with 130."""
    reached(served, "hang-1", "StepStarted")
    code, said = decide(amends, "retry", "hang-1")
    assert code == 3
    assert "'pack' has a call in flight, whose claim ends in" in said
    arguments = ("retry", "hang-1", "pack", "--reason", "slow", "--yes", "--after-expiry")
    with served.started(*arguments) as waiting:
        waiting.read_until("a call is in flight; waiting for its answer")
        assert waiting.stop(signal.SIGINT) == 130
    with served.started(*arguments) as waiting:
        waiting.read_until("a call is in flight; waiting for its answer")
        served.write("gate", "")
        assert waiting.process.wait(HANG_S) == 2
    reached(served, "hang-1", "SagaCompleted")


def test_nothing_is_written_without_a_yes(served: CommandProject, amends: Amends) -> None:
    """Without a terminal the plan is shown and nothing is done; on a terminal, the operator's answer decides."""
    reached(served, "ask-1", "AttentionRequested")
    arguments = ("skip", "ask-1", "--reason", "why", "--output", "1")
    ended = amends(*arguments)
    assert (ended.code, ended.err.strip()) == (
        2,
        "amends: cannot ask for confirmation without a terminal; nothing was written; pass --yes to skip the question",
    )
    assert "StepSkipped for bill" in ended.out
    before = facts_of(served, "ask-1")
    assert answered(served, "n", *arguments) == 2
    assert facts_of(served, "ask-1") == before
    assert answered(served, "y", *arguments) == 0
    reached(served, "ask-1", "StepSkipped", "SagaCompleted")


def answered(project: CommandProject, answer: str, *arguments: str) -> int:
    """Run a command on a terminal, answer its question, and return its exit status."""
    code, printed = run_on_terminal(arguments, folder=project.path, environment=project.environment, answer=answer)
    assert "Do it?" in printed
    return code


def test_an_older_store_is_told_what_it_lacks(
    served: CommandProject, amends: Amends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that Temporal drives for this store, and that an older copy of it lacks, are named; the status is 1."""
    reached(served, "pivot-1", "StepAttemptFailed")
    found = amends("recover", "--json").json
    assert ("pivot-1" in found["driven"], found["refused"], found["missing"]) == (True, {}, [])
    monkeypatch.setenv("AMENDS_STORE_URL", f"sqlite:///{served.path / 'older.db'}")
    ended = amends("recover")
    assert ended.code == 1
    assert any(line.split()[:2] == ["pivot-1", "missing"] for line in ended.out.splitlines())
    assert "missing in this store" in ended.out.splitlines()[-1]


# ---- without Temporal


def open_claim(project: CommandProject, driver: str) -> None:
    """Create a store with a run whose step was claimed long ago by a process that is gone."""
    settings = load_settings(project.path)
    loaded = load_project(settings)
    protocol, registry = RunProtocol(loaded.registry, "gone"), loaded.registry
    saga = registry.saga("ship")
    start = prepare_start(registry, saga, saga.input_type(), run_id="old-1", driver=driver, actor="x")
    journal = open_store(settings)
    try:
        journal.commit_blocking(lambda tx: protocol.accept(tx, start, 1))
        journal.commit_blocking(lambda tx: protocol.claim_all(tx, protocol.advance(tx, "old-1", 1), 1))
    finally:
        journal.close_blocking()


def test_a_claim_that_nobody_ends_is_ended_by_the_command(project: CommandProject, alone: Amends) -> None:
    """Without any worker, an operator can still decide; the run continues when a worker starts."""
    open_claim(project, "temporal")
    assert decide(alone, "retry", "old-1")[0] == 3
    code, said = decide(alone, "retry", "old-1", "--after-expiry")
    assert code == 0
    assert said.splitlines()[-1] == (
        "RUNNING: run old-1 of ship: the run continues when a worker starts: no Temporal is configured and no embedded "
        "one runs; start one: amends dev; see: amends show old-1"
    )
    assert [fact.kind for fact in facts_of(project, "old-1")][-2:] == ["StepAttemptFailed", "RetryRequested"]
    ended = alone("recover")
    assert (ended.code, ended.err.strip()) == (
        3,
        "amends: no Temporal is configured and no embedded one runs; start one: amends dev; nothing was done",
    )


def test_what_was_looked_at_is_what_is_decided_about(
    project: CommandProject, alone: Amends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a run advances while the operator thinks, the decision is refused, and no part of it is written."""
    open_claim(project, "temporal")
    assert decide(alone, "retry", "old-1", "--after-expiry")[0] == 0

    def think(*_: object, **__: object) -> bool:
        assert main(["-C", str(project.path), "cancel", "old-1", "--reason", "other", "--yes"]) == 0
        return True

    monkeypatch.setattr("typer.confirm", think)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    ended = alone("retry", "old-1", "pack", "--reason", "mine")
    assert ended.code == 2
    assert "has moved from position 5 to" in ended.err
    assert not any(getattr(fact, "reason", "") == "mine" for fact in facts_of(project, "old-1"))


def test_temporal_takes_over_a_run_of_another_driver(project: CommandProject, alone: Amends) -> None:
    """Temporal takes over a run of the in-process driver, and brings it to its end."""
    open_claim(project, "in-process")
    code, said = decide(alone, "retry", "old-1", "--after-expiry")
    assert code == 0
    assert "driver in-process acts on the decision" in said.splitlines()[-1]
    with project.started("dev") as dev:
        dev.read_until("Ready")
        unknown = alone("recover", "--take-over", "old-2")
        assert (unknown.code, unknown.err.partition(";")[0]) == (
            2,
            "amends: no run has the id 'old-2' in this store",
        )
        ended = alone("recover", "--take-over", "old-1", "--actor", "op", "--json")
        assert ended.code == 0, ended.err
        assert json.loads(ended.out) == {
            "taken_over": ["old-1"],
            "started": ["old-1"],
            "driven": [],
            "refused": {},
            "damaged": {},
            "missing": [],
        }
        assert "DriverTaken" in reached(project, "old-1", "StepSucceeded", "SagaCompleted")
    assert "temporal, by op: amends recover --take-over" in alone("history", "old-1").out
