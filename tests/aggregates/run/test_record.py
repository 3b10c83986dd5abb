"""A record is the fold of a run's facts together with the results of its steps."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_parts import try_out
from strategies import RUN, World, eventful_histories, histories, plan_node, plan_of, retry_policy, started

from amends.aggregates.errors import JournalError, TransitionError
from amends.aggregates.run.facts import (
    AttentionRequested,
    CompensationSucceeded,
    Fact,
    LateEffectObserved,
    NodeFact,
    RetryRequested,
    SagaCompleted,
    SagaFailed,
    StepFailed,
    StepInDoubt,
    StepRejected,
    StepResolved,
    StepRuledOut,
    StepSkipped,
    StepSucceeded,
)
from amends.aggregates.run.plan import Stage
from amends.aggregates.run.record import RECENT, RunRecord, fold_facts
from amends.aggregates.run.state import Direction, RunStatus
from amends.aggregates.run.transitions import fold, told_only
from amends.sagas.engine.decide import RunCompensation, RunStep
from amends.sagas.engine.outcome import Failed, NotFound, Refused, Succeeded
from amends.sagas.engine.result import RunResult

PLAN = plan_of(Stage(nodes=(plan_node("a"), plan_node("b"))), plan_node("c"))


def after(*outcomes: tuple[str, Succeeded | Refused | Failed]) -> World:
    """Create a run whose steps have these outcomes, with every conclusion drawn."""
    world = World.begin(PLAN)
    for name, outcome in outcomes:
        world.append(world.writer.outcome(PLAN.nodes[name], Direction.DO, 1, outcome))
    world.conclude()
    return world


@given(world=histories())
def test_a_record_is_the_fold_of_its_facts(world: World) -> None:
    """Folding the stored facts again, as text, gives the record that the driver had."""
    stored = [type(fact).model_validate_json(fact.model_dump_json()) for fact in world.facts]
    assert fold_facts(world.record.state.plan, stored) == world.record


@given(world=histories())
def test_a_record_has_the_results_of_what_succeeded(world: World) -> None:
    """There is a result for every node that succeeded and for no other, also after it was undone."""
    expected = {f.node: f.result for f in world.facts if isinstance(f, StepSucceeded | LateEffectObserved)}
    assert world.record.results == expected


# Few histories have a step that is undone in doubt.
@settings(max_examples=try_out(100))
@given(world=eventful_histories())
def test_a_record_names_what_nobody_knows(world: World) -> None:
    """In doubt is, at every position, each node given up unanswered and neither found out nor tried again since."""
    record = RunRecord.begin(world.record.state.plan, world.record.started)
    plan, doubtful = record.state.plan, set[str]()
    for fact in world.facts[1:]:
        before, record = record, record.apply(fact)
        match fact:
            case StepInDoubt():
                doubtful.add(fact.node)
            case StepSucceeded() | StepSkipped() | StepResolved() | StepRuledOut() | StepRejected() | StepFailed():
                doubtful.discard(fact.node)
            case LateEffectObserved() if not told_only(before.state, fact.head):
                doubtful.discard(fact.node)
            case RetryRequested() if not before.state.backward:
                doubtful.discard(fact.node)
        assert record.in_doubt == tuple(
            name for name in plan.nodes if name in doubtful and not plan.nodes[name].read_only
        )


@pytest.mark.parametrize(
    ("answer", "in_doubt"), [(Failed("TimeoutError", "took too long"), ("a",)), (Succeeded(None), ())]
)
def test_a_run_that_was_undone_in_doubt_is_not_clean(answer: Succeeded | Failed, in_doubt: tuple[str, ...]) -> None:
    """A step that was undone without an answer is reported; the first node that failed is the reason of the turn."""
    once = retry_policy(1)
    world = World.begin(plan_of(Stage(nodes=(plan_node("a", retry=once), plan_node("b", retry=once)))))
    first, second = (world.call(work) for work in world.work())
    world.answer(first, answer)
    world.conclude()
    world.answer(second, Refused("no"))
    world.conclude()
    while not world.closed:
        world.answer(world.call(world.work()[0]), Succeeded(None))
        world.conclude()
    doubt = "a: TimeoutError: took too long; no attempt received an answer, and the step has no probe"
    assert (world.record.state.status, world.record.error) == (RunStatus.COMPENSATED, doubt if in_doubt else "b: no")
    assert RunResult(world.record).in_doubt == in_doubt


@given(world=histories(), position=st.integers(0, 80))
def test_recent_heads_bring_an_older_state_up_to_date(world: World, position: int) -> None:
    """A reader at some position gets exactly the heads after it, or the answer that they are too many."""
    facts, record = world.facts, world.record
    position = min(position, len(facts))
    heads = record.heads_after(position)
    assert heads == (tuple(fact.head for fact in facts[position:]) if len(facts) - position <= RECENT else None)
    if position and heads is not None:
        known = fold_facts(record.state.plan, facts[:position])
        assert fold(known.state, heads) == record.state


def test_a_record_keeps_a_bounded_number_of_heads() -> None:
    """A long run's record does not grow: it keeps the last heads, and reports when those are not enough."""
    plan = plan_of(*(plan_node(f"n{index}") for index in range(100)))
    world = World.begin(plan)
    for index in range(100):
        world.append(world.writer.outcome(plan.nodes[f"n{index}"], Direction.DO, 1, Succeeded(None)))
    assert len(world.record.recent) == RECENT
    assert world.record.heads_after(101 - RECENT - 1) is None
    assert world.record.heads_after(101 - RECENT) == world.record.recent
    assert world.record.heads_after(101) == ()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ([], "a run's stream begins with SagaStarted, found nothing"),
        (
            [after(("a", Succeeded(None))).facts[1]],
            "a run's stream begins with SagaStarted, found StepSucceeded",
        ),
    ],
    ids=["empty", "in the middle"],
)
def test_a_stream_without_a_beginning_is_refused(facts: Sequence[Fact], message: str) -> None:
    """A record cannot be created from half a stream."""
    with pytest.raises(JournalError) as refused:
        fold_facts(PLAN, facts)
    assert str(refused.value) == message


def test_a_second_beginning_is_refused() -> None:
    """`SagaStarted` begins a run and stands nowhere else."""
    with pytest.raises(TransitionError, match="expected the fact at position 2, got SagaStarted at 1"):
        fold_facts(PLAN, [started(PLAN), started(PLAN)])


def test_a_gap_in_a_stream_is_refused() -> None:
    """A lost fact is noticed where it is missing."""
    facts = after(("a", Succeeded(None)), ("b", Succeeded(None))).facts
    with pytest.raises(TransitionError, match="expected the fact at position 2, got StepSucceeded at 3"):
        fold_facts(PLAN, [facts[0], facts[2]])


@given(world=eventful_histories())
def test_the_error_names_the_node_that_turned_the_run_and_repeats_nothing(world: World) -> None:
    """The reason of the turn is an error of the node that failed, and a later error does not repeat it."""
    record = fold_facts(world.record.state.plan, world.facts[:1])
    for fact in world.facts[1:]:
        record = record.apply(fact)
        if isinstance(fact, SagaFailed) and fact.node and record.cancel is None:
            assert record.turned is not None
            assert record.turned.startswith(f"{fact.node}: ")
        first, then, last = (record.error or "").partition("; then ")
        assert not (then and last.startswith(first))


def test_each_node_keeps_its_own_error() -> None:
    """If two nodes of a stage fail, the error is that of the node that turned the run, with the answer of its probe."""
    nodes = (plan_node(name, retry=retry_policy(1), probe=True) for name in "ab")
    world = World.begin(plan_of(Stage(nodes=tuple(nodes))))
    for outcome in (Failed("TimeoutError", "away"), NotFound()):
        for call in [world.call(work) for work in world.work()]:
            world.answer(call, outcome)
            world.conclude()
    assert [fact.node for fact in world.facts if isinstance(fact, SagaFailed)] == ["a"]
    assert world.record.error == f"a: TimeoutError: away; the probe found nothing under {RUN}/a/do/0"


@pytest.mark.parametrize(
    ("outcomes", "error"),
    [
        ([("a", Succeeded(None))], None),
        ([("a", Refused("sold out"))], "a: sold out"),
        ([("a", Failed("TimeoutError", "took too long"))], "a: TimeoutError: took too long"),
        (
            [("a", Failed("TimeoutError", "took too long")), ("b", Refused("no"))],
            "a: TimeoutError: took too long; no attempt received an answer",
        ),
    ],
    ids=["none", "refusal", "failure", "the last of several"],
)
def test_the_last_error_is_told(outcomes: list[tuple[str, Succeeded | Refused | Failed]], error: str | None) -> None:
    """The error of a record is the last failure, with the node's name, in one line."""
    found = after(*outcomes).record.error
    assert found == error or (error is not None and found is not None and found.startswith(f"{error}, "))


def test_the_summary_is_what_lists_show() -> None:
    """The read model's row has the run's place, its time, and its error."""
    world = after(("a", Succeeded(None)), ("b", Succeeded(None)))
    row = world.record.summary
    assert (row.run_id, row.saga, row.status, row.position) == (RUN, "a-saga", RunStatus.RUNNING, 3)
    assert (row.current, row.error, row.driver, row.fingerprint) == ("c", None, "tests", PLAN.fingerprint)
    assert after().record.summary.current == "a,b"


def test_the_summary_of_a_closed_run_is_at_no_node() -> None:
    """The row of a completed run has no node."""
    done = after(("a", Succeeded(None)), ("b", Succeeded(None)), ("c", Succeeded(None)))
    assert isinstance(done.facts[-1], SagaCompleted)
    assert done.record.summary.current == ""


def test_the_summary_of_a_run_that_needs_attention_names_what_is_open() -> None:
    """The row lists only nodes that an operator has to decide about, at any stage of the run."""
    world = after(("a", Succeeded(None)), ("b", Succeeded(None)), ("c", Refused("no")))
    while not world.closed:
        work = world.work()[0]
        world.now_ms += 1_000
        assert isinstance(work, RunCompensation)
        outcome = Failed("E", "no") if work.node == "a" else Succeeded(None)
        world.append(world.writer.outcome(PLAN.nodes[work.node], Direction.UNDO, work.attempt, outcome))
        world.now_ms += 1_000
        world.conclude()
    last = world.facts[-1]
    assert isinstance(last, AttentionRequested)
    assert last.reason == "needs an operator: a is undo exhausted"
    assert world.record.summary.current == "a"
    assert [fact.node for fact in world.facts if isinstance(fact, CompensationSucceeded)] == ["b"]


def test_the_head_of_a_fact_says_what_decides_and_no_more() -> None:
    """Kind, position, time, node, attempt, due time and generation are in a head; user data is not."""
    world = World.begin(PLAN)
    world.call(RunStep("a", 1))
    fact = world.facts[-1]
    assert isinstance(fact, NodeFact)
    assert tuple(fact.head) == (2, "StepStarted", 0, "a", 1, 1_000, 0)
    assert fact.id == f"{RUN}:2"
    assert tuple(world.facts[0].head) == (1, "SagaStarted", 0, "", 0, None, 0)


def test_records_are_values() -> None:
    """Applying a fact creates another record and leaves the first as it was."""
    first = RunRecord.begin(PLAN, started(PLAN))
    second = first.apply(World.begin(PLAN).writer.outcome(PLAN.nodes["a"], Direction.DO, 1, Succeeded(1)))
    assert (first.results, first.state.position) == ({}, 1)
    assert (second.results, second.state.position) == ({"a": 1}, 2)
