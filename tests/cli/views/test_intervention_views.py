"""Test the views of operators' decisions and of late answers, before they are written and after."""

from typing import Any

import pytest
from hypothesis import given
from runs.operated import AFTER, PIVOT, REGISTRY, do, wish
from strategies import World, eventful_histories, plan_node, plan_of, started

from amends.aggregates.errors import AmendsError
from amends.aggregates.run import facts
from amends.aggregates.run.state import NodeStatus
from amends.aggregates.values.strict_json import ascii_json
from amends.cli.views.facts import TIMELINE, node_views, on_decision, timeline_row
from amends.cli.views.interventions import Driven, plan_fields, preview_json, what_next
from amends.cli.views.recovery import Recovered
from amends.cli.views.table import node_style
from amends.sagas.engine.decide import RunStep
from amends.sagas.engine.interventions import Intervention, InterventionKind, fact_of, preview
from amends.sagas.engine.outcome import Failed, Refused, Succeeded

WORDS: dict[str, Any] = {
    "node": "a",
    "nodes": ("a",),
    "attempt": 2,
    "generation": 0,
    "key": "the key",
    "worker": "the worker",
    "lease_until_ms": 5,
    "error_type": "SomeError",
    "error": "the error",
    "retry_at_ms": 5,
    "reason": "the reason",
    "evidence": "the evidence",
    "result": "the result",
    "driver": "the driver",
    "epoch": 2,
}
"""A value for every field that a fact may have, besides the fields of all facts."""
SHOWN = {"worker", "error_type", "error", "reason", "evidence", "result", "driver"}
"""Fields whose value appears in a fact's detail; the others have columns of their own, or need none."""


def example(kind: str) -> facts.Fact:
    """Return a fact of a kind, with a word for every field."""
    first = started(plan_of(plan_node("a")))
    if kind == first.kind:
        return first
    common = first.model_dump(include={"originator_id", "recorded_at_ms", "correlation_id", "causation_id"})
    wanted = {name: value for name, value in WORDS.items() if name in facts.FACTS[kind].model_fields}
    return facts.FACTS[kind](**common, originator_version=2, as_of_ms=0, actor="the actor", **wanted)


def shown(world: World, intervention: Intervention) -> dict[str, str]:
    """Return the lines that describe a decision."""
    lines = plan_fields(preview(REGISTRY, world.record, intervention, world.now_ms), world.now_ms)
    return {name: str(text) for name, text in lines}


def stuck_undo() -> World:
    """Return a run whose undo is exhausted."""
    world = World.begin(plan_of(plan_node("a"), plan_node("b"), PIVOT))
    do(world, "a", Succeeded(None))
    do(world, "b", Succeeded(None))
    do(world, "pivot", Refused("no"))
    do(world, "b", Failed("TimeoutError", "gone", final=True))
    do(world, "a", Succeeded(None))
    return world


# ---- facts


@pytest.mark.parametrize("kind", facts.FACTS)
def test_a_fact_says_all_that_people_have_to_know(kind: str) -> None:
    """For every kind of fact, its row of the history has the detail, the reason and the evidence."""
    fact = example(kind)
    detail = timeline_row(fact, 0, whole=True)[len(TIMELINE) - 1]
    present = set(facts.FACTS[kind].model_fields) & SHOWN
    wanted = {WORDS[name] for name in present if kind != "SagaStarted"}
    assert [word for word in wanted if word not in detail] == []


@pytest.mark.parametrize(
    "kind", ["CancelRequested", "DriverTaken", *(c.__name__ for c in facts.OperatorFact.__subclasses__())]
)
def test_a_decision_says_who_decided(kind: str) -> None:
    """The name of the decider stands next to the reason."""
    assert "by the actor: the reason" in timeline_row(example(kind), 0, whole=True)[len(TIMELINE) - 1]


@pytest.mark.parametrize("status", [s for s in NodeStatus if s.value.endswith("skipped")])
def test_what_was_skipped_looks_unlike_what_goes_on(status: NodeStatus) -> None:
    """A node that somebody decided about is not drawn as active."""
    assert node_style(status) != node_style(NodeStatus.STARTED)


def test_a_node_says_who_decided_about_it() -> None:
    """In `show`, the decision replaces the error that led to it, until the next fact."""
    world = stuck_undo()
    fact = fact_of(REGISTRY, world.record, wish(InterventionKind.SKIP, "b"), world.now_ms, 7)
    assert fact is not None
    world.append(fact)
    view = next(each for each in node_views(world.record, world.facts) if each.node.name == "b")
    assert view.decided == view.said == "by op: because; evidence: seen"
    assert view.error == "TimeoutError: gone"


def test_a_step_that_succeeded_shows_its_result() -> None:
    """In `show`, the result of a step replaces the error of an earlier attempt."""
    world = World.begin(plan_of(plan_node("a"), PIVOT))
    do(world, "a", Failed("TimeoutError", "no reply"))
    (world.now_ms,) = world.due_times()
    do(world, "a", Succeeded("receipt"))
    view = next(each for each in node_views(world.record, world.facts) if each.node.name == "a")
    assert (view.said, view.error) == ('"receipt"', "TimeoutError: no reply")


def test_attempts_are_counted_anew_with_a_new_budget() -> None:
    """After a retry of the undo, the attempts of the step stay, and those of the undo start from one."""
    world = stuck_undo()
    fact = fact_of(REGISTRY, world.record, wish(InterventionKind.RETRY, "b"), world.now_ms, 7)
    assert fact is not None
    before = next(each for each in node_views(world.record, world.facts) if each.node.name == "b")
    world.append(fact)
    after = next(each for each in node_views(world.record, world.facts) if each.node.name == "b")
    assert (before.attempts, before.undo_attempts) == (1, 1)
    assert (after.attempts, after.undo_attempts) == (1, 0)


@given(world=eventful_histories())
def test_every_decision_has_words(world: World) -> None:
    """Every possible decision about a run in any state has a description, for people and programs."""
    for verb in InterventionKind:
        for node in [None] if verb is InterventionKind.CANCEL else [*world.record.state.plan.nodes]:
            try:
                seen = preview(REGISTRY, world.record, wish(verb, node), world.now_ms)
            except AmendsError:
                continue
            assert all(str(text) for _, text in plan_fields(seen, world.now_ms))
            assert ascii_json(preview_json(seen))
            assert all(on_decision(seen.after.state, each).what for each in seen.next)


# ---- plans


def test_the_plan_of_a_cancel_names_what_is_undone_in_order() -> None:
    """The last completed step is undone first."""
    world = World.begin(plan_of(plan_node("a"), plan_node("b"), plan_node("c"), PIVOT))
    do(world, "a", Succeeded(None))
    do(world, "b", Succeeded(None))
    assert shown(world, wish(InterventionKind.CANCEL)) == {
        "now": f"RUNNING at position {world.record.state.position}",
        "to write": "CancelRequested, by op: because",
        "then": "CANCELLING",
        "next": "the run turns back and undoes the steps that may have acted",
        "to undo": "b, then a",
    }


def test_the_plan_of_a_cancel_names_the_call_in_flight() -> None:
    """A call in flight may act, and is undone then; the plan says so before the operator agrees."""
    world = World.begin(plan_of(plan_node("a"), plan_node("b"), PIVOT))
    do(world, "a", Succeeded(None))
    world.call(RunStep("b", 1))
    assert (
        shown(world, wish(InterventionKind.CANCEL))["in flight"]
        == "b: Amends waits for the answer, and undoes the step if it may have acted"
    )


def test_the_plan_of_a_second_cancel_writes_nothing() -> None:
    """The plan of a repeated request states that nothing more can be requested."""
    world = World.begin(plan_of(plan_node("a"), PIVOT))
    world.call(RunStep("a", 1))
    fact = fact_of(REGISTRY, world.record, wish(InterventionKind.CANCEL), world.now_ms, 7)
    assert fact is not None
    world.append(fact)
    assert (
        shown(world, wish(InterventionKind.CANCEL))["to write"]
        == "nothing: the run is being undone, or was undone, already"
    )


def test_the_plan_of_a_step_behind_the_pivot_names_what_is_still_run() -> None:
    """A run that goes forward shows its next steps, and undoes nothing."""
    world = World.begin(plan_of(PIVOT, AFTER))
    do(world, "pivot", Succeeded(None))
    do(world, "after", Refused("closed today"))
    assert shown(world, wish(InterventionKind.RETRY)) == {
        "now": f"NEEDS_ATTENTION at position {world.record.state.position}",
        "to write": "RetryRequested for after (under a new key), by op: because; evidence: seen",
        "then": "RUNNING",
        "next": "after: attempt 1 of 3",
        "still to run": "after",
    }


def test_the_plan_of_asking_a_refused_undo_again_names_the_new_key() -> None:
    """A refused undo has not spent its attempts: the plan says that the retry carries a new key."""
    world = World.begin(plan_of(plan_node("b"), PIVOT))
    do(world, "b", Succeeded(None))
    do(world, "pivot", Refused("no"))
    do(world, "b", Refused("the day is being closed"))
    written = shown(world, wish(InterventionKind.RETRY))["to write"]
    assert written == "RetryRequested for b (under a new key), by op: because; evidence: seen"


def test_the_plan_of_leaving_an_undo_says_that_the_run_is_closed() -> None:
    """Nothing is undone any more, and the run counts as compensated by decision."""
    assert shown(stuck_undo(), wish(InterventionKind.SKIP, "b")) == {
        "now": f"NEEDS_ATTENTION at position {stuck_undo().record.state.position}",
        "to write": "CompensationSkipped for b, by op: because; evidence: seen",
        "then": "COMPENSATING",
        "next": "the run is closed as compensated",
    }


# ---- afterwards


def test_what_is_said_afterwards_names_who_goes_on() -> None:
    """An open run is continued by Temporal, by a worker that must be started, or by the process that drives it."""
    record = World.begin(plan_of(plan_node("a"))).record
    ours = type(record)(record.started, record.state, {}, None, driver="temporal")
    assert what_next(ours, Driven(woken=True)).endswith("Temporal continues the run; see: amends history run-1 --watch")
    assert "the run continues when a worker starts: nothing runs" in what_next(
        ours, Driven(woken=False, why_not="nothing runs")
    )
    other = type(record)(record.started, record.state, {}, None, driver="in-process")
    assert what_next(other, Driven(woken=False)).endswith("amends recover --take-over run-1")
    assert what_next(stuck_undo().record, Driven(woken=False)).endswith("open steps: b; see: amends show run-1")


def test_what_recovery_found_wrong_is_counted() -> None:
    """Refused and missing runs are problems; every other result is not."""
    found = Recovered(["t"], ["t", "s"], ["d"], {"r": "older"}, ["m"])
    assert found.wrong
    assert found.summary() == "4 unfinished: 2 started, 1 driven already, 1 refused; 1 missing in this store"
    assert [row[:2] for row in found.rows()] == [
        ("t", "taken over"),
        ("t", "started"),
        ("s", "started"),
        ("d", "driven already"),
        ("r", "refused"),
        ("m", "missing"),
    ]
    assert not Recovered(["t"], ["t"], ["d"], {}, []).wrong
