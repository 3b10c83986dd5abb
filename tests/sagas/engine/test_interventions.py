"""Operators, cancels and late answers: the record reaches the truth, whatever happens outside of the plan."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from property_parts import try_out
from runs.decided import LOST
from runs.operated import AFTER, PIVOT, REGISTRY, do, kinds, open_nodes, operate, status, unanswered, wish
from strategies import CallInFlight, World, eventful_histories, make_history, make_plan, plan_node, plan_of, undo_policy

from amends.aggregates.errors import AmendsError, BusyError, InputError, RefusedError, TransitionError
from amends.aggregates.run.facts import (
    AttentionRequested,
    CancelRequested,
    CompensationStarted,
    Fact,
    Head,
    LateEffectObserved,
    NodeFact,
    OperatorFact,
    SagaFailed,
    StepStarted,
)
from amends.aggregates.run.plan import Role, Stage, StepKind
from amends.aggregates.run.record import RunRecord, fold_facts
from amends.aggregates.run.state import SETTLED_WELL, Direction, NodeStatus, RunStatus
from amends.aggregates.run.transitions import begin, evolve
from amends.sagas.engine.decide import RunCompensation, RunStep, decide
from amends.sagas.engine.interventions import Intervention, InterventionKind, fact_of, open_for_decision, preview
from amends.sagas.engine.outcome import Failed, Postponed, Refused, Succeeded

HONEST = (InterventionKind.RETRY, InterventionKind.CANCEL)


@given(world=eventful_histories())
def test_every_eventful_run_ends_and_folds_alike(world: World) -> None:
    """With operators, cancels and late answers every run still closes, and its facts fold to the state decided on."""
    state = begin(world.record.state.plan, world.facts[0].head)
    for fact in world.facts[1:]:
        state = evolve(state, fact.head)
    assert state == world.record.state
    assert state.closed


@given(world=eventful_histories(HONEST))
def test_a_compensated_run_has_left_nothing_behind(world: World) -> None:
    """When every paused worker has resumed, no run with the status compensated has left an effect."""
    state = world.record.state
    left = {
        name
        for name in world.present
        if not state.plan.nodes[name].read_only and state.plan.nodes[name].irreversible is None
    }
    if state.status is RunStatus.COMPENSATED:
        assert left == set()
    elif state.status is RunStatus.NEEDS_ATTENTION and state.backward:
        assert left <= set(world.record.current)
    elif state.status is RunStatus.COMPLETED:
        assert world.present >= {node.name for node in state.plan.nodes.values() if node.kind is StepKind.EFFECT}


@given(world=eventful_histories())
def test_what_is_done_again_after_a_definite_answer_has_a_new_key(world: World) -> None:
    """A step's key lasts until it was refused or failed, its undo's until it acted again or the undo was refused."""
    keys: dict[tuple[str, type[Fact]], list[str]] = {}
    for fact in world.facts:
        if isinstance(fact, StepStarted | CompensationStarted):
            found = keys.setdefault((fact.node, type(fact)), [])
            if fact.key not in found:
                found.append(fact.key)
            assert fact.key == found[-1], "a former key was used again"
    for (node, kind), found in keys.items():
        again = {"RetryRequested"} if kind is StepStarted else {"LateEffectObserved", "RetryRequested"}
        reasons = [fact for fact in world.facts if fact.kind in again and getattr(fact, "node", "") == node]
        assert len(found) <= 1 + len(reasons)


ANSWERED: dict[str, bool] = {
    **dict.fromkeys(["StepSucceeded", "StepResolved", "LateEffectObserved", "StepRejected", "StepFailed"], False),
    **dict.fromkeys(["CompensationSucceeded", "CompensationResolved", "CompensationRejected"], True),
    "StepRuledOut": False,
}
"""Facts that hold a definite outcome under a key, and whether the key is the undo's."""


@settings(max_examples=try_out(60))
@given(world=eventful_histories())
def test_no_key_is_asked_again_when_its_outcome_is_known(world: World) -> None:
    """No call is claimed under a key whose success or refusal is in the journal, in any attempt."""
    known: set[tuple[str, bool, int]] = set()
    for fact in world.facts:
        if isinstance(fact, StepStarted | CompensationStarted):
            assert (fact.node, isinstance(fact, CompensationStarted), fact.generation) not in known
        elif isinstance(fact, NodeFact) and fact.kind in ANSWERED:
            known.add((fact.node, ANSWERED[fact.kind], fact.generation))


@settings(max_examples=try_out(60))
@given(world=eventful_histories())
def test_what_is_known_is_no_news_and_what_is_not_is_not_lost(world: World) -> None:
    """Each success is recorded once per key; the run omits a definite answer only if its outcome is known."""
    acted: set[tuple[str, int]] = set()
    for fact in world.facts:
        if isinstance(fact, LateEffectObserved):
            assert (fact.node, fact.generation) not in acted
        if isinstance(fact, NodeFact) and fact.kind in {"StepSucceeded", "StepResolved", "LateEffectObserved"}:
            acted.add((fact.node, fact.generation))
    for state, call, outcome in world.dropped:
        at, undo = state.node(call.node), call.direction is Direction.UNDO
        success = at.answers.undone if undo else at.answers.acted
        known = (
            call.generation in success if isinstance(outcome, Succeeded) else at.answers.of(call.generation, undo=undo)
        )
        asked_before = call.direction is Direction.PROBE and at.status is NodeStatus.STARTED
        assert known or isinstance(outcome, Failed | Postponed) or asked_before, (at, call, outcome)


@settings(max_examples=try_out(60))
@given(world=eventful_histories())
def test_the_fold_refuses_a_claim_under_an_answered_key(world: World) -> None:
    """No code path can write a claim, or a second success, under a key whose outcome is known, at any position."""
    state = begin(world.record.state.plan, world.facts[0].head)
    for fact in world.facts[1:]:
        state = evolve(state, fact.head)
        for name, node in state.nodes.items():
            told = [("StepStarted", each) for each in (*node.answers.acted, *node.answers.refused)]
            told += [("LateEffectObserved", each) for each in node.answers.acted]
            told += [("CompensationStarted", each) for each in (*node.answers.undone, *node.answers.undo_refused)]
            for kind, generation in told:
                with pytest.raises(TransitionError):
                    evolve(state, Head(state.position + 1, kind, 0, name, 1, 99, generation))


@given(world=eventful_histories(HONEST))
def test_what_acted_after_its_undo_had_begun_is_undone_under_another_key(world: World) -> None:
    """A participant repeats its answer under a known key; so the second undo must not carry the first's key."""
    used: dict[str, set[str]] = {}
    barred: dict[str, set[str]] = {}
    for fact in world.facts:
        if isinstance(fact, CompensationStarted):
            used.setdefault(fact.node, set()).add(fact.key)
            assert fact.key not in barred.get(fact.node, set())
        elif isinstance(fact, LateEffectObserved):
            barred[fact.node] = set(used.get(fact.node, set()))


@given(world=eventful_histories())
def test_the_generations_of_a_key_never_fall(world: World) -> None:
    """A fact that names no generation leaves it as it was, for every fact that a history can have."""
    state = begin(world.record.state.plan, world.facts[0].head)
    for fact in world.facts[1:]:
        before, state = state, evolve(state, fact.head)
        for name, node in state.nodes.items():
            assert node.generation >= before.node(name).generation
            assert node.undo_generation >= before.node(name).undo_generation


@given(world=eventful_histories())
def test_attention_names_exactly_what_is_open(world: World) -> None:
    """A run that waits for an operator names nodes that an operator can decide about, and the possible decisions."""
    if world.record.state.status is RunStatus.NEEDS_ATTENTION:
        assert isinstance(
            next(f for f in reversed(world.facts) if isinstance(f, AttentionRequested)), AttentionRequested
        )
        assert world.record.current
        assert set(world.record.current) <= set(open_for_decision(world.record.state))


@given(world=eventful_histories((InterventionKind.CANCEL,)))
def test_a_cancel_turns_the_run_or_comes_too_late(world: World) -> None:
    """A cancelled run begins nothing new before it turns; only its pivot, when it was in flight, overtakes it."""
    state = begin(world.record.state.plan, world.facts[0].head)
    for fact in world.facts[1:]:
        if state.status is RunStatus.CANCELLING:
            assert not isinstance(fact, StepStarted)
        state = evolve(state, fact.head)
    cancelled = any(isinstance(fact, CancelRequested) for fact in world.facts)
    turned = any(isinstance(fact, SagaFailed) for fact in world.facts)
    if cancelled and not turned:
        pivots = [n.name for n in state.plan.nodes.values() if n.role is Role.PIVOT]
        passed = state.plan.forward_only(state.cursor) and pivots
        assert passed or state.status is RunStatus.NEEDS_ATTENTION


@given(world=eventful_histories())
def test_a_preview_is_what_happens(world: World) -> None:
    """A preview shows the decision's actual consequence, at every state and for every verb."""
    for verb in InterventionKind:
        for node in [None] if verb is InterventionKind.CANCEL else [*world.record.state.plan.nodes]:
            intervention = wish(verb, node)
            try:
                shown = preview(REGISTRY, world.record, intervention, world.now_ms)
            except AmendsError:
                continue
            if shown.fact is None:
                assert shown.after == world.record
            else:
                assert shown.after == world.record.apply(shown.fact)
                assert shown.next == decide(shown.after.state, world.now_ms)


def accepted(record: RunRecord, node: str) -> bool:
    """Check whether any decision about a node is possible now."""
    for kind in set(InterventionKind) - {InterventionKind.CANCEL}:
        with suppress(RefusedError, BusyError):
            fact_of(REGISTRY, record, wish(kind, node), record.state.updated_ms, 7)
            return True
    return False


@given(world=eventful_histories())
def test_the_nodes_that_are_open_for_a_decision_accept_one(world: World) -> None:
    """No open node refuses every decision; a run that waits for an operator offers each one that accepts one."""
    record = fold_facts(world.record.state.plan, world.facts[:1])
    for fact in world.facts[1:]:
        record = record.apply(fact)
        offered = set(open_for_decision(record.state))
        possible = {node for node in record.state.plan.nodes if accepted(record, node)}
        assert offered <= possible
        if record.state.status is RunStatus.NEEDS_ATTENTION:
            settled = {*SETTLED_WELL, NodeStatus.IN_DOUBT}
            assert offered >= possible & {name for name, at in record.state.nodes.items() if at.status in settled}
        if record.state.status is RunStatus.COMPLETED:
            assert not offered


def test_eventful_histories_cover_what_can_happen() -> None:
    """The histories of these property tests contain every kind of operator's fact and of late answers."""
    import random  # noqa: PLC0415 - only here

    found: set[str] = set()
    for seed in range(150):
        choose = random.Random(seed).choice  # noqa: S311 - not for secrets
        found |= {fact.kind for fact in make_history(make_plan(choose), choose, events=6).facts}
    wanted = {cls.__name__ for cls in OperatorFact.__subclasses__()} | {"LateEffectObserved", "CancelRequested"}
    assert wanted <= found


def test_a_refused_step_behind_the_pivot_is_redone_under_a_new_key() -> None:
    """A participant repeats a refusal under its key, so a redo asks under another key."""
    world = World.begin(plan_of(PIVOT, AFTER))
    do(world, "pivot", Succeeded(None))
    do(world, "after", Refused("closed today"))
    assert status(world) is RunStatus.NEEDS_ATTENTION
    operate(world, InterventionKind.RETRY)
    assert decide(world.record.state, world.now_ms) == (RunStep("after", 1),)
    do(world, "after", Succeeded(None))
    assert status(world) is RunStatus.COMPLETED
    assert [fact.key for fact in world.facts if isinstance(fact, StepStarted)][1:] == [
        "run-1/after/do/0",
        "run-1/after/do/1",
    ]


def test_a_redone_step_that_is_in_doubt_is_tried_again_under_its_new_key() -> None:
    """Under the key of the refused try the participant would refuse again, even after an effect of the redo."""
    world = World.begin(plan_of(PIVOT, AFTER))
    do(world, "pivot", Succeeded(None))
    do(world, "after", Refused("closed today"))
    operate(world, InterventionKind.RETRY)
    do(world, "after", Failed("TimeoutError", "no answer", final=True))
    assert kinds(world)[-2:] == ["StepInDoubt", "AttentionRequested"]
    operate(world, InterventionKind.RETRY)
    do(world, "after", Succeeded(None))
    keys = [fact.key for fact in world.facts if isinstance(fact, StepStarted) and fact.node == "after"]
    assert keys == ["run-1/after/do/0", "run-1/after/do/1", "run-1/after/do/1"]


def test_an_exhausted_undo_is_tried_again_under_its_key() -> None:
    """An operator's retry gives an exhausted compensation a new budget and the key that the participant knows."""
    world = World.begin(plan_of(plan_node("a"), PIVOT))
    do(world, "a", Succeeded(None))
    do(world, "pivot", Refused("no"))
    do(world, "a", Failed("TimeoutError", "gone", final=True))
    assert open_nodes(world) == ("a",)
    operate(world, InterventionKind.RETRY, "a")
    assert open_nodes(world) == ()
    assert decide(world.record.state, world.now_ms) == (RunCompensation("a", 1),)
    do(world, "a", Succeeded(None))
    assert status(world) is RunStatus.COMPENSATED
    assert {fact.key for fact in world.facts if isinstance(fact, CompensationStarted)} == {"run-1/a/undo/0"}


def test_a_retry_keeps_the_count_of_a_waiting_undo_and_restarts_that_of_an_exhausted_one() -> None:
    """A waiting undo is called at once as its next attempt; once its attempts are spent, a retry restarts at 1."""
    world = World.begin(plan_of(plan_node("a", undo=undo_policy(2)), PIVOT))
    do(world, "a", Succeeded(None))
    do(world, "pivot", Refused("no"))
    do(world, "a", Failed("TimeoutError", "gone"))
    operate(world, InterventionKind.RETRY, "a")
    assert decide(world.record.state, world.now_ms) == (RunCompensation("a", 2),)
    do(world, "a", Failed("TimeoutError", "gone"))
    assert open_nodes(world) == ("a",)
    operate(world, InterventionKind.RETRY, "a")
    assert decide(world.record.state, world.now_ms) == (RunCompensation("a", 1),)


def test_a_retry_of_a_refused_undo_restarts_the_count() -> None:
    """A new key has a new budget, even if the participant refused the last attempt of the former one."""
    world = World.begin(plan_of(plan_node("a", undo=undo_policy(2)), PIVOT))
    do(world, "a", Succeeded(None))
    do(world, "pivot", Refused("no"))
    do(world, "a", Failed("TimeoutError", "gone"))
    operate(world, InterventionKind.RETRY, "a")
    do(world, "a", Refused("closed"))
    operate(world, InterventionKind.RETRY, "a")
    assert decide(world.record.state, world.now_ms) == (RunCompensation("a", 1),)


def test_a_retry_of_a_waiting_step_keeps_its_count() -> None:
    """The operator shortens the wait; the budget of attempts stays as it was."""
    world = World.begin(plan_of(plan_node("a"), PIVOT))
    do(world, "a", Failed("TimeoutError", "gone"))
    operate(world, InterventionKind.RETRY, "a")
    assert decide(world.record.state, world.now_ms) == (RunStep("a", 2),)


@pytest.mark.parametrize(
    ("verb", "fact"),
    [(InterventionKind.SKIP, "CompensationSkipped"), (InterventionKind.RESOLVE, "CompensationResolved")],
)
def test_an_exhausted_undo_can_be_left_or_be_done_by_hand(verb: InterventionKind, fact: str) -> None:
    """Either decision closes the run, and the journal has its author and the reason."""
    world = World.begin(plan_of(plan_node("a"), PIVOT))
    do(world, "a", Succeeded(None))
    do(world, "pivot", Refused("no"))
    do(world, "a", Refused("never"))
    written = operate(world, verb)
    assert isinstance(written, OperatorFact)
    assert (written.kind, written.actor, written.reason, written.evidence) == (fact, "op", "because", "seen")
    assert kinds(world)[-2:] == [fact, "SagaCompensated"]


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        (InterventionKind.RESOLVE, RunStatus.COMPLETED),
        (InterventionKind.SKIP, RunStatus.COMPLETED),
        (InterventionKind.RULE_OUT, RunStatus.COMPENSATED),
    ],
)
def test_a_pivot_in_doubt_goes_as_the_operator_found_out(verb: InterventionKind, expected: RunStatus) -> None:
    """A pivot in doubt waits until an operator finds out whether it happened: then the run continues, or turns back."""
    world = World.begin(plan_of(plan_node("a"), PIVOT.model_copy(update={"retry": plan_node("x").retry})))
    do(world, "a", Succeeded(None))
    do(world, "pivot", Failed("ValueError", "what?", final=True))
    assert open_nodes(world) == ("pivot",)
    operate(world, verb, output="receipt")
    while not world.closed:
        do(world, "a", Succeeded(None))
    assert status(world) is expected
    assert ("pivot" in world.record.results) is (verb is not InterventionKind.RULE_OUT)


def test_a_cancel_waits_for_what_is_in_flight_and_undoes_it() -> None:
    """A call in flight settles, then everything is undone; a second cancel changes nothing."""
    world = World.begin(plan_of(Stage(nodes=(plan_node("a"), plan_node("b"))), PIVOT))
    do(world, "a", Succeeded(None))
    call = world.call(RunStep("b", 1))
    operate(world, InterventionKind.CANCEL)
    assert status(world) is RunStatus.CANCELLING
    assert operate(world, InterventionKind.CANCEL) is None
    world.answer(call, Succeeded(None))
    world.conclude()
    assert status(world) is RunStatus.COMPENSATING
    assert world.record.error == "cancelled by op: because"
    assert operate(world, InterventionKind.CANCEL) is None
    assert set(decide(world.record.state, 0)) == {RunCompensation("a", 1), RunCompensation("b", 1)}


def test_a_cancel_while_a_step_waits_works_at_once() -> None:
    """A cancel does not await the next attempt of a step: the step is in doubt, and undone."""
    world = World.begin(plan_of(plan_node("a"), PIVOT))
    do(world, "a", LOST)
    operate(world, InterventionKind.CANCEL)
    assert kinds(world)[-3:] == ["CancelRequested", "StepInDoubt", "SagaFailed"]


def test_a_pivot_in_flight_overtakes_a_cancel() -> None:
    """When the pivot succeeds after all, the cancel came too late and the run goes forward."""
    world = World.begin(plan_of(PIVOT, AFTER))
    call = world.call(RunStep("pivot", 1))
    operate(world, InterventionKind.CANCEL)
    world.answer(call, Succeeded(None))
    world.conclude()
    assert status(world) is RunStatus.RUNNING
    assert decide(world.record.state, 0) == (RunStep("after", 1),)
    with pytest.raises(RefusedError, match="has passed its pivot and cannot be cancelled"):
        operate(world, InterventionKind.CANCEL)


def undone_before_its_answer() -> tuple[World, CallInFlight]:
    """Cancel a run whose first attempt has no answer yet, and undo its step; return the attempt's call as well."""
    world, call = unanswered()
    operate(world, InterventionKind.CANCEL)
    do(world, "a", Succeeded(None))
    return world, call


def test_a_late_effect_opens_a_compensated_run_and_is_undone_under_a_new_key() -> None:
    """The second undo has a new key: the participant must not mistake it for a repetition of the first."""
    world, first = undone_before_its_answer()
    assert status(world) is RunStatus.COMPENSATED
    world.answer(first, Succeeded({"late": True}))
    assert isinstance(world.facts[-1], LateEffectObserved)
    assert status(world) is RunStatus.COMPENSATING
    do(world, "a", Succeeded(None))
    assert status(world) is RunStatus.COMPENSATED
    undos = [fact.key for fact in world.facts if isinstance(fact, CompensationStarted)]
    assert undos == ["run-1/a/undo/0", "run-1/a/undo/1"]
    assert world.record.results["a"] == {"late": True}


def test_an_exhausted_second_undo_is_tried_again_under_the_second_key() -> None:
    """Under the first undo's key the participant would repeat its answer from before the step acted again."""
    world, first = undone_before_its_answer()
    world.answer(first, Succeeded(None))
    do(world, "a", Failed("TimeoutError", "gone", final=True))
    assert open_nodes(world) == ("a",)
    operate(world, InterventionKind.RETRY)
    do(world, "a", Succeeded(None))
    undos = [fact.key for fact in world.facts if isinstance(fact, CompensationStarted)]
    assert undos == ["run-1/a/undo/0", "run-1/a/undo/1", "run-1/a/undo/1"]


def test_a_refused_undo_is_asked_again_under_a_new_key() -> None:
    """A participant that refused to undo under a key goes on refusing; the others are undone meanwhile."""
    world = World.begin(plan_of(plan_node("a"), plan_node("b"), PIVOT))
    for name in ("a", "b"):
        do(world, name, Succeeded(None))
    do(world, "pivot", Refused("no"))
    do(world, "b", Refused("the day is being closed"))
    do(world, "a", Succeeded(None))
    assert kinds(world)[-1] == "AttentionRequested"
    assert (open_nodes(world), world.record.state.node("b").status) == (("b",), NodeStatus.UNDO_REJECTED)
    operate(world, InterventionKind.RETRY)
    do(world, "b", Succeeded(None))
    assert status(world) is RunStatus.COMPENSATED
    undos = [fact.key for fact in world.facts if isinstance(fact, CompensationStarted) and fact.node == "b"]
    assert undos == ["run-1/b/undo/0", "run-1/b/undo/1"]


def test_nobody_decides_about_a_node_that_is_being_worked_on() -> None:
    """The refusal names the live claim and its remaining time."""
    world = World.begin(plan_of(plan_node("a"), PIVOT))
    world.call(RunStep("a", 1))
    with pytest.raises(BusyError, match=r"'a' has a call in flight, whose claim ends in 1 s") as busy:
        operate(world, InterventionKind.RETRY, "a")
    assert busy.value.until_ms == 1_000
    with pytest.raises(BusyError, match=r"'a' has a call in flight"):
        operate(world, InterventionKind.RETRY)


@pytest.mark.parametrize(
    ("intervention", "error", "message"),
    [
        (wish(InterventionKind.RETRY, "z"), InputError, "has no step 'z'; it has a, pivot"),
        (wish(InterventionKind.RETRY, reason=" "), InputError, "needs a reason"),
        (wish(InterventionKind.RETRY), RefusedError, "there is nothing to decide"),
        (wish(InterventionKind.RETRY, "a"), RefusedError, "'a' is succeeded, so there is nothing to retry"),
        (wish(InterventionKind.SKIP, "a"), RefusedError, "cannot skip node 'a'"),
        (wish(InterventionKind.RESOLVE, "a"), RefusedError, "cannot resolve node 'a'"),
        (wish(InterventionKind.RESOLVE, "a", evidence=None), InputError, "need evidence"),
        (wish(InterventionKind.RULE_OUT, "a", evidence=""), InputError, "need evidence"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    intervention: Intervention, error: type[AmendsError], message: str
) -> None:
    """Each refusal names the present state, and nothing is written."""
    world = World.begin(plan_of(plan_node("a"), PIVOT))
    do(world, "a", Succeeded(None))
    with pytest.raises(error) as refused:
        fact_of(REGISTRY, world.record, intervention, 0, 0)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_of_several_open_nodes_one_has_to_be_named() -> None:
    """The message names the open nodes."""
    world = World.begin(plan_of(Stage(nodes=(plan_node("a"), plan_node("b"))), PIVOT))
    for name in ("a", "b"):
        do(world, name, Succeeded(None))
    do(world, "pivot", Refused("no"))
    for name in ("a", "b"):
        do(world, name, Refused("never"))
    with pytest.raises(InputError, match="several open steps; name one of them: a, b"):
        operate(world, InterventionKind.RETRY)


def test_a_completed_run_cannot_be_cancelled() -> None:
    """Only another business process takes back the effects of a finished one."""
    world = World.begin(plan_of(plan_node("a")))
    do(world, "a", Succeeded(None))
    with pytest.raises(RefusedError, match="is COMPLETED and cannot be cancelled"):
        operate(world, InterventionKind.CANCEL)
