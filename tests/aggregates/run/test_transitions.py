"""A state changes as the tables state and only on evidence; any other change is refused, after every history."""

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import World, histories, make_history, make_plan, plan_node, plan_of

from amends.aggregates.errors import TransitionError
from amends.aggregates.run import facts
from amends.aggregates.run.facts import FACTS, FactKind, Head, NodeFact, OperatorFact
from amends.aggregates.run.plan import Plan, Role, Stage, StepKind
from amends.aggregates.run.state import (
    CLOSED,
    NO_ANSWERS,
    SETTLED_BADLY,
    Direction,
    NodeState,
    NodeStatus,
    RunState,
    RunStatus,
    dump_state,
    load_state,
)
from amends.aggregates.run.transitions import (
    NODE_TRANSITIONS,
    REOPENING,
    RUN_TRANSITIONS,
    SPENT_WITHOUT_DUE,
    TOLD_ONLY,
    WHILE,
    begin,
    evolve,
    fold,
)
from amends.sagas.engine.outcome import Failed, Succeeded

NODE_KINDS = sorted(kind for kind, cls in FACTS.items() if issubclass(cls, NodeFact))
RUN_KINDS = sorted(FACTS.keys() - set(NODE_KINDS) - {"SagaStarted"})
FULL = plan_of(plan_node("a", probe=True), plan_node("b"))


def at(status: NodeStatus, run: RunStatus, plan: Plan = FULL, *, cursor: int = 0) -> RunState:
    """Create the state of a run whose first node has some status."""
    nodes = {"a": NodeState(status, 1, None, 0, 2)} if status is not NodeStatus.PENDING else {}
    return RunState(plan, run, 9, nodes, cursor, 0, 0)


def head(kind: str, node: str = "", *, position: int = 10, due_ms: int | None = 99) -> Head:
    """Create the head of a fact of some kind."""
    return Head(position, kind, 1, node, 1 if node else 0, due_ms)


def states(world: World) -> Iterable[RunState]:
    """Yield the state after each fact of a run."""
    state = begin(world.record.state.plan, world.facts[0].head)
    yield state
    for fact in world.facts[1:]:
        state = evolve(state, fact.head)
        yield state


def test_every_fact_has_a_kind() -> None:
    """Each class of facts that no other class extends has the kind of its name, and each kind has a class."""
    classes = [each for each in vars(facts).values() if isinstance(each, type) and issubclass(each, facts.Fact)]
    assert {each.__name__ for each in classes if not each.__subclasses__()} == set(FactKind) == set(FACTS)
    assert all(cls.kind is FactKind(name) for name, cls in FACTS.items())


def test_the_tables_cover_every_fact_and_every_status() -> None:
    """Each kind of fact stands in a table or begins the run, and each status has a row."""
    in_tables = {kind for row in (*NODE_TRANSITIONS.values(), *RUN_TRANSITIONS.values()) for kind in row}
    assert in_tables | {"SagaStarted"} == set(FACTS)
    assert set(NODE_TRANSITIONS) == set(NodeStatus)
    assert set(RUN_TRANSITIONS) == set(RunStatus)
    assert {kind for row in NODE_TRANSITIONS.values() for kind in row} == set(NODE_KINDS)
    assert {kind for row in RUN_TRANSITIONS.values() for kind in row} == set(RUN_KINDS)


def test_every_status_can_be_reached() -> None:
    """Following the tables from the start leads to every status of a node and of a run."""
    nodes, runs = {NodeStatus.PENDING}, {RunStatus.RUNNING}
    for _ in NodeStatus:
        nodes |= {after for status in nodes for after in NODE_TRANSITIONS[status].values()}
        nodes |= {SPENT_WITHOUT_DUE[status] for status in nodes if status in SPENT_WITHOUT_DUE}
        runs |= {after for status in runs for after in RUN_TRANSITIONS[status].values()}
    assert nodes == set(NodeStatus)
    assert runs == set(RunStatus)


def test_only_late_effects_and_operators_open_a_closed_run() -> None:
    """No fact about the run leads out of a closed status, and of those about a node only these do."""
    for status in CLOSED:
        assert set(RUN_TRANSITIONS[status].values()) <= {status}
    operators = {cls.__name__ for cls in OperatorFact.__subclasses__()}
    late = {"LateEffectObserved", "StepRejected", "StepFailed", "CompensationSucceeded", "CompensationRejected"}
    assert operators | late == REOPENING
    assert {kind for kind, statuses in WHILE.items() if RunStatus.COMPLETED in statuses} == {"LateEffectObserved"}
    assert {kind for kind, statuses in WHILE.items() if RunStatus.COMPENSATED in statuses} == {
        "LateEffectObserved",
        "StepResolved",
    }


GUARDS = (
    "must not be attempted, because the run is being undone",
    "cannot be undone, because the run is not being undone",
    "was not in doubt, and a run that is being undone attempts no step",
)


@pytest.mark.parametrize("status", NodeStatus)
def test_a_node_moves_as_its_table_says(status: NodeStatus) -> None:
    """Every kind of fact in every status of the run: the table's result, or a refusal that names all of them."""
    for kind, run, due_ms in product(NODE_KINDS, RunStatus, (None, 99)):
        state = at(status, run)
        expected = NODE_TRANSITIONS[status].get(kind)
        fact = head(kind, "a", due_ms=due_ms)
        if kind in TOLD_ONLY.get(status, ()):
            told = evolve(state, fact)
            assert told.node("a")._replace(answers=NO_ANSWERS) == state.node("a")
            assert told.node("a").answers.of(0, undo=kind.startswith("Compensation"))
            assert replace(told, nodes=state.nodes) == replace(state, position=10, updated_ms=fact.as_of_ms)
            continue
        if expected is None or run not in WHILE[kind]:
            with pytest.raises(TransitionError) as refused:
                evolve(state, fact)
            assert str(refused.value) == f"{kind} at 10 does not follow: node 'a' is {status}, the run is {run}"
            continue
        if _direction_forbids(kind, status, state):
            with pytest.raises(TransitionError, match="|".join(GUARDS)):
                evolve(state, fact)
            continue
        after = evolve(state, fact)
        assert after.node("a").status is (expected if due_ms else SPENT_WITHOUT_DUE.get(expected, expected))
        assert after.node("a").due_ms == due_ms
        assert after.node("a").first_position == (2 if status is not NodeStatus.PENDING else 10)
        goes_on = RunStatus.COMPENSATING if state.backward else RunStatus.RUNNING
        assert after.status is (goes_on if run in CLOSED else run)


def _direction_forbids(kind: str, status: NodeStatus, state: RunState) -> bool:
    """Check whether a fact that the table allows goes against the direction of the run."""
    if kind in {"StepRejected", "StepFailed"} and status is not NodeStatus.IN_DOUBT:
        return state.backward or state.closed
    if kind in {"CompensationSkipped", "CompensationResolved"}:
        return not state.backward
    return state.backward and kind == "RetryRequested" and not status.startswith("undo")


@pytest.mark.parametrize(("cursor", "run"), [(0, RunStatus.RUNNING), (-1, RunStatus.COMPENSATING)])
def test_operators_decide_in_the_direction_of_the_run(cursor: int, run: RunStatus) -> None:
    """Going forward, operators cannot decide about an undo; going back, they cannot attempt or skip a step."""
    forward = {("RetryRequested", NodeStatus.REJECTED), ("StepSkipped", NodeStatus.REJECTED)}
    backward = {("CompensationSkipped", NodeStatus.IN_DOUBT), ("CompensationResolved", NodeStatus.IN_DOUBT)}
    for kind, status in forward | backward:
        state = at(status, RunStatus.NEEDS_ATTENTION, cursor=cursor)
        if (kind, status) in (forward if run is RunStatus.RUNNING else backward):
            assert evolve(state, head(kind, "a")).status is run
        else:
            with pytest.raises(TransitionError, match="|".join(GUARDS)):
                evolve(state, head(kind, "a"))


@pytest.mark.parametrize(("run", "kind"), list(product(RunStatus, [*RUN_KINDS, "SagaStarted", "Unheard"])))
def test_a_run_moves_as_its_table_says(run: RunStatus, kind: str) -> None:
    """Every status of a run and kind of fact: the table's result where evidence allows it, else a refusal."""
    evidence = {
        "SagaFailed": (NodeStatus.REJECTED, 0),
        "SagaCompleted": (NodeStatus.SUCCEEDED, 2),
        "SagaCompensated": (NodeStatus.UNDONE, -1),
        "AttentionRequested": (
            (NodeStatus.UNDO_EXHAUSTED, -1) if run is RunStatus.COMPENSATING else (NodeStatus.IN_DOUBT, 0)
        ),
    }
    status, cursor = evidence.get(kind, (NodeStatus.PENDING, 0))
    pivot = plan_of(plan_node("a", role=Role.PIVOT, undo=False), plan_node("b", role=Role.RETRIABLE))
    plan = pivot if kind == "AttentionRequested" and run is not RunStatus.COMPENSATING else FULL
    state = at(status, run, plan, cursor=cursor)
    expected = RUN_TRANSITIONS[run].get(kind)
    if expected is None:
        with pytest.raises(TransitionError) as refused:
            evolve(state, head(kind))
        assert str(refused.value) == f"{kind} at 10 does not follow: the run is {run}"
    else:
        assert evolve(state, head(kind)).status is expected


EFFECT = plan_node("a")
TRANSACTION = plan_node("a", kind=StepKind.TRANSACTION)
BARE = plan_node("a", undo=False)
STAYS = plan_node("a", undo=False, irreversible="it stays")
READS = plan_node("a", undo=False, read_only=True)
RETRIABLE = plan_node("a", undo=False, role=Role.RETRIABLE)


@pytest.mark.parametrize(
    ("plan", "status", "run", "fact", "message"),
    [
        (
            plan_of(plan_node("x"), EFFECT),
            "pending",
            "RUNNING",
            "StepStarted",
            "belongs to stage 1, the run is at stage 0",
        ),
        (plan_of(BARE), "succeeded", "COMPENSATING", "CompensationStarted", "node 'a' has no compensation"),
        (plan_of(EFFECT), "spent", "RUNNING", "ProbeAttemptFailed", "node 'a' has no probe"),
        (plan_of(EFFECT), "spent", "RUNNING", "StepFailed", "an effect that may have acted; only a probe can rule"),
        (plan_of(EFFECT), "probe waiting", "RUNNING", "StepFailed", "an effect that may have acted"),
        (plan_of(READS), "spent", "RUNNING", "StepInDoubt", "node 'a' is read-only; it changes nothing"),
        (plan_of(READS), "waiting", "CANCELLING", "StepInDoubt", "node 'a' is read-only; it changes nothing"),
        (plan_of(EFFECT), "started", "RUNNING", "SagaFailed", "SagaFailed at 10: may still act: a"),
        (plan_of(EFFECT), "waiting", "RUNNING", "SagaFailed", "may still act: a"),
        (plan_of(EFFECT), "spent", "RUNNING", "SagaFailed", "may still act: a"),
        (plan_of(EFFECT), "probe waiting", "RUNNING", "SagaFailed", "may still act: a"),
        (plan_of(EFFECT), "probe spent", "RUNNING", "SagaFailed", "may still act: a"),
        (plan_of(EFFECT), "pending", "RUNNING", "SagaFailed", "no node of stage 0 has failed"),
        (plan_of(EFFECT), "pending", "RUNNING", "SagaCompleted", "SagaCompleted at 10: stage 0 has not succeeded"),
        (plan_of(EFFECT), "rejected", "RUNNING", "SagaCompleted", "stage 0 has not succeeded"),
        (
            plan_of(EFFECT),
            "succeeded",
            "COMPENSATING",
            "SagaCompensated",
            "SagaCompensated at 10: not undone yet: a",
        ),
        (plan_of(EFFECT), "in doubt", "COMPENSATING", "SagaCompensated", "not undone yet: a"),
        (plan_of(EFFECT), "undo started", "COMPENSATING", "SagaCompensated", "not undone yet: a"),
        (plan_of(EFFECT), "undo waiting", "COMPENSATING", "SagaCompensated", "not undone yet: a"),
        (plan_of(EFFECT), "undo spent", "COMPENSATING", "SagaCompensated", "not undone yet: a"),
        (plan_of(EFFECT), "undo exhausted", "COMPENSATING", "SagaCompensated", "not undone yet: a"),
        (plan_of(TRANSACTION), "succeeded", "COMPENSATING", "SagaCompensated", "not undone yet: a"),
        (plan_of(BARE), "succeeded", "COMPENSATING", "SagaCompensated", "not undone yet: a"),
        (plan_of(STAYS), "in doubt", "COMPENSATING", "SagaCompensated", "not undone yet: a"),
        (plan_of(EFFECT), "started", "RUNNING", "AttentionRequested", "may still act: a"),
        (plan_of(EFFECT), "pending", "RUNNING", "AttentionRequested", "no node of stage 0 has failed"),
        (plan_of(EFFECT), "rejected", "RUNNING", "AttentionRequested", "the steps that acted can still be compensated"),
        (
            plan_of(EFFECT),
            "in doubt",
            "CANCELLING",
            "AttentionRequested",
            "the steps that acted can still be compensated",
        ),
        (plan_of(EFFECT), "succeeded", "COMPENSATING", "AttentionRequested", "stage 0 can still be undone"),
        (plan_of(RETRIABLE), "pending", "RUNNING", "CancelRequested", "stage 0 is past the pivot"),
    ],
)
def test_what_evidence_does_not_bear_out_is_refused(plan: Plan, status: str, run: str, fact: str, message: str) -> None:
    """No turn or close, and no claim that nothing happened, can be folded before its evidence is there."""
    state = at(NodeStatus(status), RunStatus(run), plan)
    with pytest.raises(TransitionError) as refused:
        evolve(state, head(fact, "a" if fact in NODE_KINDS else ""))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("plan", "status"),
    [(plan_of(STAYS), "succeeded"), (plan_of(READS), "succeeded"), (plan_of(READS), "in doubt")],
)
def test_what_was_declared_to_stay_does_not_hinder_the_close(plan: Plan, status: str) -> None:
    """An irreversible step that succeeded and a read-only one count as accounted for."""
    closed = evolve(at(NodeStatus(status), RunStatus.COMPENSATING, plan, cursor=-1), head("SagaCompensated"))
    assert closed.status is RunStatus.COMPENSATED


@pytest.mark.parametrize("role", [Role.PIVOT, Role.RETRIABLE])
def test_a_run_never_turns_behind_its_pivot(role: Role) -> None:
    """After the pivot, and from the first retriable step on, `SagaFailed` is refused after any failure."""
    behind = plan_node("b", role=Role.RETRIABLE)
    plan = plan_of(plan_node("a", role=role), behind)
    nodes = {
        "a": NodeState(NodeStatus.SUCCEEDED, 1, None, 0, 2),
        "b": NodeState(NodeStatus.REJECTED, 1, None, 0, 3),
    }
    with pytest.raises(TransitionError, match="SagaFailed at 10: stage 1 is past the pivot"):
        evolve(RunState(plan, RunStatus.RUNNING, 9, nodes, 1, 0, 0), head("SagaFailed"))


def test_a_run_that_has_done_everything_cannot_fail() -> None:
    """When the cursor is past the last stage, only completing is possible."""
    with pytest.raises(TransitionError, match="no node of stage 2 has failed"):
        evolve(at(NodeStatus.SUCCEEDED, RunStatus.RUNNING, cursor=2), head("SagaFailed"))


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        (head("StepSucceeded", "a", position=9), "expected the fact at position 10, got StepSucceeded at 9"),
        (head("StepSucceeded", "a", position=11), "expected the fact at position 10, got StepSucceeded at 11"),
        (head("StepSucceeded", "z"), "StepSucceeded at 10: the plan has no node 'z'"),
        (head("StepSucceeded"), "StepSucceeded at 10: the plan has no node ''"),
    ],
)
def test_a_fact_out_of_place_is_refused(fact: Head, message: str) -> None:
    """The error names a gap, a repetition and a node that the plan does not have, with their values."""
    with pytest.raises(TransitionError) as refused:
        evolve(at(NodeStatus.PENDING, RunStatus.RUNNING), fact)
    assert str(refused.value) == message


@pytest.mark.parametrize("first", [Head(2, "SagaStarted", 0), Head(1, "SagaCompleted", 0)])
def test_a_run_begins_with_its_acceptance(first: Head) -> None:
    """Only `SagaStarted` at position 1 begins a state."""
    with pytest.raises(TransitionError, match="a run begins with SagaStarted at position 1, not with"):
        begin(FULL, first)


@given(world=histories(), cuts=st.lists(st.integers(0, 60)), overlap=st.integers(0, 3))
def test_a_fold_does_not_depend_on_batches(world: World, cuts: list[int], overlap: int) -> None:
    """Any batches of facts, with any repeated deliveries, give the same state."""
    heads = [fact.head for fact in world.facts]
    state = begin(world.record.state.plan, heads[0])
    edges = sorted({0, *(cut for cut in cuts if cut < len(heads)), len(heads)})
    for low, high in pairwise(edges):
        state = fold(state, heads[max(low - overlap, 0) : high])
    assert state == world.record.state


@given(world=histories())
def test_no_state_of_any_history_lets_a_close_through_early(world: World) -> None:
    """At every position of every history, each close and turn is accepted only on the evidence that it claims."""
    for state in states(world):
        nodes = {name: state.node(name).status for name in state.plan.nodes}
        accepted = {kind for kind in RUN_KINDS if _accepts(state, kind)}
        if "SagaCompleted" in accepted:
            assert set(nodes.values()) == {NodeStatus.SUCCEEDED}
        if "SagaFailed" in accepted:
            pivot = next((n.name for n in state.plan.nodes.values() if n.role is Role.PIVOT), None)
            assert pivot is None or nodes[pivot] is not NodeStatus.SUCCEEDED
            assert SETTLED_BADLY & set(nodes.values()) or state.status is RunStatus.CANCELLING
        if "SagaCompensated" in accepted:
            for name, status in nodes.items():
                plan = state.plan.nodes[name]
                assert status is not NodeStatus.IN_DOUBT
                if status is NodeStatus.SUCCEEDED:
                    assert plan.read_only or plan.irreversible
                    assert plan.undo is None
                else:
                    assert status in {
                        NodeStatus.PENDING,
                        NodeStatus.REJECTED,
                        NodeStatus.FAILED,
                        NodeStatus.UNDONE,
                        NodeStatus.UNDO_SKIPPED,
                    } or (plan.kind is StepKind.TRANSACTION and status in {NodeStatus.WAITING, NodeStatus.SPENT})


def _accepts(state: RunState, kind: str) -> bool:
    try:
        evolve(state, head(kind, position=state.position + 1))
    except TransitionError:
        return False
    return True


@given(world=histories())
def test_a_state_travels_as_json(world: World) -> None:
    """Every state of every history is the same after a journey as JSON text, and continues in the same way."""
    *_, before, last = [*states(world)][-2:] * 2
    for state in (before, last):
        there = load_state(json.loads(json.dumps(dump_state(state), allow_nan=False)))
        assert there == state
        assert list(there.nodes) == list(state.nodes)
        assert there.plan.fingerprint == state.plan.fingerprint
    assert fold(load_state(dump_state(before)), [world.facts[-1].head]) == last


def test_a_dumped_state_holds_no_user_data() -> None:
    """The dump contains the plan, statuses, counts and times: no input, result, reason or error text."""
    marked = "user-data-that-must-not-travel"
    world = World.begin(plan_of(Stage(nodes=(plan_node("a"), plan_node("b")))))
    writer = world.writer
    nodes = world.record.state.plan.nodes
    world.append(writer.outcome(nodes["a"], Direction.DO, 1, Succeeded({"x": marked})))
    world.append(world.writer.outcome(nodes["b"], Direction.DO, 1, Failed(marked, marked)))
    assert marked not in json.dumps(dump_state(world.record.state))
    assert marked in world.facts[-1].model_dump_json()


def test_histories_cover_every_kind_of_fact() -> None:
    """The random histories of these property tests contain every kind of fact and every close."""
    kinds: set[str] = set()
    for seed in range(300):
        choose = random.Random(seed).choice  # noqa: S311 - not for secrets
        kinds |= {fact.kind for fact in make_history(make_plan(choose), choose, events=seed % 2 * 6).facts}
    assert kinds | {"DriverTaken"} == set(FACTS)
