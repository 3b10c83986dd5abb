"""Test `amends explain`: its words for a run in every state, and that its suggestions work."""

from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from reading_shop import Amends, one_line, project_at
from runs.decided import LOST
from runs.operated import AFTER, PIVOT, do, operate
from strategies import LEASE_MS, World, eventful_histories, plan_node, plan_of, retry_policy, undo_policy

from amends.aggregates.run.plan import Plan, Role
from amends.aggregates.run.record import RunRecord
from amends.cli.views.explanation import Contact, explain, sections
from amends.cli.views.table import escaped
from amends.sagas.engine.decide import WaitUntil, decide
from amends.sagas.engine.interventions import InterventionKind, open_for_decision
from amends.sagas.engine.outcome import Failed, Refused, Succeeded

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "explain.txt"
DONE = Succeeded({"by": "tests"})
CONTACTS = {"pay": Contact("payments team", "https://wiki.example/pay")}

RESERVE = plan_node("reserve", undo=undo_policy(2))
PAY = plan_node("pay", probe=True, retry=retry_policy(2))
SHIP = plan_node("ship", retry=retry_policy(1))
ORDER = plan_of(RESERVE, PAY, SHIP)
DOUBT = (("reserve", DONE), ("pay", DONE), ("ship", LOST))
READS = plan_of(RESERVE, plan_node("ask", undo=False, read_only=True, retry=retry_policy(2)))
DECIDED = plan_of(RESERVE, plan_node("pivot", role=Role.PIVOT, undo=False, retry=retry_policy(1)), AFTER)


def new() -> World:
    """Accept a run."""
    return World.begin(ORDER)


def after(*answers: tuple[str, Any], plan: Plan = ORDER) -> World:
    """Answer calls one after the other; wait when nothing is due."""
    world = World.begin(plan)
    for name, outcome in answers:
        answer(world, name, outcome)
    return world


def answer(world: World, name: str, outcome: Any) -> None:  # noqa: ANN401 - any outcome
    """Answer the call that is due at a node; wait for it."""
    waits = [each.due_ms for each in decide(world.record.state, world.now_ms) if isinstance(each, WaitUntil)]
    if waits and not world.work():
        world.now_ms = min(waits)
        world.conclude()
    do(world, name, outcome)


def called(world: World) -> World:
    """Call the first effect that is due."""
    world.call(world.work()[0])
    return world


def later(world: World, ms: int) -> World:
    """Let time pass, without a driver."""
    world.now_ms += ms
    return world


def operated(world: World, verb: InterventionKind, node: str | None = None) -> World:
    """Decide as an operator."""
    operate(world, verb, node)
    return world


def exhausted() -> World:
    """Refuse a step, and let the undo of the one before fail for good."""
    return after(("reserve", DONE), ("pay", Refused("no")), ("reserve", LOST), ("reserve", LOST))


def refused() -> World:
    """Refuse a step, and refuse the undo of the one before as well."""
    return after(("reserve", DONE), ("pay", Refused("no")), ("reserve", Refused("the day is being closed")))


def behind() -> World:
    """Fail a step after the pivot."""
    plan = plan_of(PIVOT, plan_node("after", role=Role.RETRIABLE, undo=False, retry=retry_policy(1)))
    return after(("pivot", DONE), ("after", LOST), plan=plan)


def late() -> World:
    """Compensate a run, after which an abandoned call acts, and is undone as well."""
    world = World.begin(plan_of(plan_node("pay", probe=True, retry=retry_policy(1))))
    paused = world.call(world.work()[0])
    world.calls.remove(paused)
    world.paused.append(paused)
    later(world, LEASE_MS)
    world.conclude()
    answer(world, "pay", Refused("never heard of it"))
    world.resume(paused)
    world.conclude()
    answer(world, "pay", Succeeded(None))
    return world


STATES: dict[str, Callable[[], World]] = {
    "a new run": new,
    "a run that nobody has begun": lambda: later(new(), 400_000),
    "waiting for a retry": lambda: after(("reserve", DONE), ("pay", LOST)),
    "a claim that is live": lambda: called(new()),
    "a claim that is over": lambda: later(called(new()), LEASE_MS),
    "asking the probe": lambda: after(("reserve", DONE), ("pay", LOST), ("pay", LOST), ("pay", LOST)),
    "in doubt, and being undone": lambda: after(("reserve", DONE), ("pay", DONE), ("ship", LOST)),
    "compensating": lambda: after(("reserve", DONE), ("pay", DONE), ("ship", Refused("no")), ("pay", DONE)),
    "an undo that waits": lambda: after(("reserve", DONE), ("pay", Refused("no")), ("reserve", LOST)),
    "an undo that is given up": exhausted,
    "an undo that is refused": refused,
    "a read-only effect that gave no answer": lambda: after(("reserve", DONE), ("ask", LOST), plan=READS),
    "a read-only effect that is given up": lambda: after(("reserve", DONE), ("ask", LOST), ("ask", LOST), plan=READS),
    "a doubtful pivot": lambda: after(("reserve", DONE), ("pivot", LOST), plan=DECIDED),
    "given up behind the pivot": behind,
    "cancelled while a call is under way": lambda: operated(called(after(("reserve", DONE))), InterventionKind.CANCEL),
    "completed": lambda: after(("reserve", DONE), ("pay", DONE), ("ship", DONE)),
    "compensated after a late effect": late,
    "skipped by an operator": lambda: operated(exhausted(), InterventionKind.SKIP, "reserve"),
    "undone in doubt": lambda: after(*DOUBT, ("ship", DONE), ("pay", DONE), ("reserve", DONE)),
    "left in doubt by an operator": lambda: operated(
        after(*DOUBT, ("ship", LOST), ("ship", LOST), ("pay", DONE), ("reserve", DONE)), InterventionKind.SKIP, "ship"
    ),
    "resolved by an operator": lambda: operated(behind(), InterventionKind.RESOLVE, "after"),
    "an error that is hostile": lambda: after(("reserve", Failed("Bad", "[red]\x1b[31mred\nnext line"))),
}


def text_of(world: World) -> str:
    """Return the explanation of a run as the command prints it."""
    told = explain(world.record, world.facts, world.now_ms, CONTACTS)
    return "\n".join(
        f"{heading}\n" + "\n".join(f"  {escaped(line)}" for line in lines)
        for heading, lines in sections(told, world.now_ms, UTC)
    )


def everything() -> str:
    """Return the explanation of every state; `python -P tests/cli/views/test_explain.py` writes the file for review."""
    return "\n\n".join(f"=== {name}\n{text_of(make())}" for name, make in STATES.items()) + "\n"


def test_every_state_is_put_into_words() -> None:
    """The words for each kind of state are exactly the reviewed ones."""
    assert everything() == GOLDEN.read_text(encoding="utf-8")


@given(world=eventful_histories())
def test_every_state_can_be_explained(world: World) -> None:
    """At every position of any history there are words, which name all open nodes."""
    record = RunRecord.begin(world.record.state.plan, world.record.started)
    for position, fact in enumerate(world.facts, 1):
        record = record if position == 1 else record.apply(fact)
        told = explain(record, world.facts[:position], fact.as_of_ms)
        named = {each.name for each in told.open}
        assert {*record.current, *(() if record.state.closed else open_for_decision(record.state))} <= named
        assert {getattr(each, "node", "") for each in decide(record.state, fact.as_of_ms)} <= {"", *named}
        assert bool(told.open or told.run_next) or record.state.closed
        said = "\n".join(line for _, lines in sections(told, fact.as_of_ms, UTC) for line in lines)
        assert all(name in said for name in named)
        assert all(command.startswith("amends ") and record.run_id in command for command, _ in told.commands)
        assert told.to_json()["status"] == record.state.status.value


# ---- the command


def test_a_stuck_run_is_explained_at_the_command_line(amends: Amends) -> None:
    """The open nodes, their owner and the commands to type are printed, and no text of users upsets the terminal."""
    answer = amends("explain", "order-stuck")
    assert answer.code == 0
    assert answer.out.startswith("order-stuck  place-order  NEEDS_ATTENTION\n")
    assert "reserve_stock is undo exhausted; next: a decision by an operator" in answer.out
    assert "owner: stock team, runbook: https://wiki.example/[stock]" in answer.out
    assert '  amends retry order-stuck reserve_stock --reason "..."\n' in answer.out
    assert all(line.isprintable() for line in answer.out.splitlines())


def test_json_has_the_same(amends: Amends) -> None:
    """With `--json` the explanation is complete, as data."""
    told = amends("explain", "order-stuck", "--json").json
    assert [each["node"] for each in told["open"]] == ["reserve_stock"]
    assert told["open"][0]["owner"] == "stock team"
    assert told["in_doubt"] == []  # a transaction, whose failed undos were rolled back
    assert told["last"]["fact"] == "AttentionRequested"


@pytest.mark.parametrize("columns", ["30", "80"])
def test_narrow_screens_show_everything(amends: Amends, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are folded and not cut."""
    monkeypatch.setenv("COLUMNS", columns)
    answer = amends("explain", "order-mail")
    assert all(len(line) <= int(columns) for line in answer.out.splitlines())
    assert "amendsretryorder-mailsend_receipt" in "".join(answer.out.split())


def test_a_run_is_explained_without_its_code(amends: Amends) -> None:
    """Without the modules only owner and runbook are missing, and a remark says so."""
    project_at(amends.folder, '["not_there"]')
    try:
        answer = amends("explain", "order-mail")
    finally:
        project_at(amends.folder, '["read_shop"]')
    assert answer.code == 0
    assert "send_receipt is in doubt" in answer.out
    assert "owners and runbooks are missing, because the project cannot be loaded" in answer.err


def test_an_unknown_run_ends_in_one_line(amends: Amends) -> None:
    """A run that does not exist is a usage error that names the nearest."""
    answer = amends("explain", "order-stuk")
    assert answer.code == 2
    assert "did you mean 'order-stuck'" in one_line(answer)


if __name__ == "__main__":
    GOLDEN.write_text(everything(), encoding="utf-8")
