"""The next step is decided once, always in the same way, and every run reaches a status that its nodes bear out."""

import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import strategies
from hypothesis import given, settings
from property_parts import try_out
from runs.decided import EFFECT, LOST
from strategies import World, histories, make_history, make_plan, plan_node, plan_of

from amends.aggregates.run.facts import (
    AttentionRequested,
    CompensationAttemptFailed,
    CompensationPostponed,
    CompensationStarted,
    Fact,
    NodeFact,
    SagaFailed,
    StepAttemptFailed,
    StepPostponed,
    StepStarted,
    StepSucceeded,
)
from amends.aggregates.run.plan import Plan, Role, Stage, StepKind
from amends.aggregates.run.state import Direction, NodeState, NodeStatus, RunState, RunStatus
from amends.aggregates.run.transitions import begin, evolve
from amends.sagas.engine.calls import key_of
from amends.sagas.engine.decide import (
    CloseCompensated,
    CloseCompleted,
    Conclusion,
    Decision,
    DoubtStep,
    ExhaustCompensation,
    ExpireClaim,
    FailSaga,
    FailStep,
    RequestAttention,
    RunCompensation,
    RunProbe,
    RunStep,
    WaitUntil,
    Work,
    decide,
)

NOW = 100
RUNNING, COMPENSATING = RunStatus.RUNNING, RunStatus.COMPENSATING
PROBED = plan_node("a", probe=True)
TRANSACTION = plan_node("a", kind=StepKind.TRANSACTION)
READS = plan_node("a", undo=False, read_only=True)
PIVOT = plan_node("a", role=Role.PIVOT, undo=False)
RETRIABLE = plan_node("a", role=Role.RETRIABLE)
NEXT = plan_node("b")
PAIR = Stage(nodes=(EFFECT, NEXT))
ORDERED = Stage(nodes=(EFFECT, NEXT), ordered=True)


def state_of(
    plan: Plan, run: RunStatus = RUNNING, cursor: int = 0, /, **nodes: str | tuple[str, int, int | None]
) -> RunState:
    """Create a state out of statuses, or of (status, attempt, due time), by node, in the order of their first facts."""
    made = {}
    for position, (name, given_) in enumerate(nodes.items(), 2):
        status, attempt, due_ms = given_ if isinstance(given_, tuple) else (given_, 1, None)
        made[name] = NodeState(NodeStatus(status), attempt, due_ms, 0, position)
    return RunState(plan, run, len(nodes) + 1, made, cursor, 0, 0)


CASES: list[tuple[str, RunState, tuple[Decision, ...]]] = [
    ("a new run attempts its first stage", state_of(plan_of(EFFECT, NEXT)), (RunStep("a", 1),)),
    ("all members of a stage run side by side", state_of(plan_of(PAIR)), (RunStep("a", 1), RunStep("b", 1))),
    ("the next stage follows", state_of(plan_of(EFFECT, NEXT), RUNNING, 1, a="succeeded"), (RunStep("b", 1),)),
    ("no stage is left", state_of(plan_of(EFFECT), RUNNING, 1, a="succeeded"), (CloseCompleted(),)),
    ("a live claim is waited for", state_of(plan_of(EFFECT), a=("started", 1, 101)), (WaitUntil("a", 101),)),
    ("a claim ends at its time", state_of(plan_of(EFFECT), a=("started", 2, 100)), (ExpireClaim("a", 2, undo=False),)),
    ("a retry waits", state_of(plan_of(EFFECT), a=("waiting", 1, 101)), (WaitUntil("a", 101),)),
    ("a retry is due at its time", state_of(plan_of(EFFECT), a=("waiting", 1, 100)), (RunStep("a", 2),)),
    ("a spent read-only effect took none", state_of(plan_of(READS), a="spent"), (FailStep("a"),)),
    ("a spent transaction took no effect", state_of(plan_of(TRANSACTION), a="spent"), (FailStep("a"),)),
    ("a spent effect is in doubt", state_of(plan_of(EFFECT), a="spent"), (DoubtStep("a"),)),
    ("a probe is asked first", state_of(plan_of(PROBED), a=("spent", 3, None)), (RunProbe("a", 1),)),
    ("a probe is asked again", state_of(plan_of(PROBED), a=("probe waiting", 1, 100)), (RunProbe("a", 2),)),
    ("but not before its time", state_of(plan_of(PROBED), a=("probe waiting", 1, 101)), (WaitUntil("a", 101),)),
    ("a probe without an answer leaves doubt", state_of(plan_of(PROBED), a="probe spent"), (DoubtStep("a"),)),
    ("a refusal turns the run", state_of(plan_of(EFFECT), a="rejected"), (FailSaga("a"),)),
    ("a failure turns the run", state_of(plan_of(TRANSACTION), a="failed"), (FailSaga("a"),)),
    ("doubt turns the run", state_of(plan_of(EFFECT), a="in doubt"), (FailSaga("a"),)),
    ("a refused pivot turns the run", state_of(plan_of(PIVOT), a="rejected"), (FailSaga("a"),)),
    ("a pivot in doubt is nobody's to guess", state_of(plan_of(PIVOT), a="in doubt"), (RequestAttention(("a",)),)),
    (
        "a pivot in doubt that can be undone is undone",
        state_of(plan_of(plan_node("a", role=Role.PIVOT)), a="in doubt"),
        (FailSaga("a"),),
    ),
    (
        "behind the pivot a failure needs an operator",
        state_of(plan_of(PIVOT, plan_node("b", role=Role.RETRIABLE)), RUNNING, 1, a="succeeded", b="rejected"),
        (RequestAttention(("b",)),),
    ),
    ("a retriable step needs no pivot for that", state_of(plan_of(RETRIABLE), a="failed"), (RequestAttention(("a",)),)),
    (
        "one in flight is waited for before turning",
        state_of(plan_of(PAIR), a="rejected", b=("started", 1, 101)),
        (WaitUntil("b", 101),),
    ),
    ("one not begun is left alone", state_of(plan_of(PAIR), a="rejected"), (FailSaga("a"),)),
    (
        "one waiting for a retry is given up",
        state_of(plan_of(PAIR), a="rejected", b=("waiting", 1, 999)),
        (DoubtStep("b"),),
    ),
    (
        "a read-only one waiting for a retry is given up as without effect",
        state_of(plan_of(Stage(nodes=(EFFECT, plan_node("b", undo=False, read_only=True)))), a="rejected", b="waiting"),
        (FailStep("b"),),
    ),
    (
        "a waiting transaction is given up as without effect",
        state_of(
            plan_of(Stage(nodes=(EFFECT, plan_node("b", kind=StepKind.TRANSACTION)))),
            a="rejected",
            b=("waiting", 1, 999),
        ),
        (FailStep("b"),),
    ),
    ("the first to fail is named", state_of(plan_of(PAIR), b="rejected", a="in doubt"), (FailSaga("b"),)),
    ("a mere consequence is not named", state_of(plan_of(PAIR), b="failed", a="rejected"), (FailSaga("a"),)),
    (
        "the last is undone first",
        state_of(plan_of(PAIR), COMPENSATING, 0, b="succeeded", a="in doubt"),
        (RunCompensation("a", 1), RunCompensation("b", 1)),
    ),
    (
        "ordered ones one by one",
        state_of(plan_of(ORDERED), COMPENSATING, 0, b="succeeded", a="succeeded"),
        (RunCompensation("a", 1),),
    ),
    (
        "an undo in flight",
        state_of(plan_of(EFFECT), COMPENSATING, 0, a=("undo started", 1, 101)),
        (WaitUntil("a", 101),),
    ),
    (
        "an undo whose claim is over",
        state_of(plan_of(EFFECT), COMPENSATING, 0, a=("undo started", 3, 100)),
        (ExpireClaim("a", 3, undo=True),),
    ),
    (
        "an undo is attempted again",
        state_of(plan_of(EFFECT), COMPENSATING, 0, a=("undo waiting", 1, 100)),
        (RunCompensation("a", 2),),
    ),
    (
        "an undo waits for its time",
        state_of(plan_of(EFFECT), COMPENSATING, 0, a=("undo waiting", 1, 101)),
        (WaitUntil("a", 101),),
    ),
    (
        "a spent undo is given up",
        state_of(plan_of(EFFECT), COMPENSATING, 0, a="undo spent"),
        (ExhaustCompensation("a"),),
    ),
    ("all undone", state_of(plan_of(EFFECT), COMPENSATING, -1, a="undone"), (CloseCompensated(),)),
    ("something left", state_of(plan_of(EFFECT), COMPENSATING, -1, a="undo exhausted"), (RequestAttention(("a",)),)),
    ("completed", state_of(plan_of(EFFECT), RunStatus.COMPLETED, 1, a="succeeded"), ()),
    ("compensated", state_of(plan_of(EFFECT), RunStatus.COMPENSATED, -1, a="undone"), ()),
    ("needs attention", state_of(plan_of(EFFECT), RunStatus.NEEDS_ATTENTION, 0, a="in doubt"), ()),
]


@pytest.mark.parametrize(("state", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_given_a_state_this_is_next(state: RunState, expected: tuple[Decision, ...]) -> None:
    """In each kind of situation exactly these decisions follow, in this order."""
    assert decide(state, NOW) == expected


@given(world=histories())
def test_every_run_ends_and_its_end_says_the_truth(world: World) -> None:
    """Every run closes, for all answers of the world, and its nodes bear out the status in which it closed."""
    state = world.record.state
    nodes = {name: state.node(name).status for name in state.plan.nodes}
    open_nodes = tuple(name for name in state.nodes if not _accounted_for(state, name))
    last = world.facts[-1]
    if state.status is RunStatus.COMPLETED:
        assert set(nodes.values()) == {NodeStatus.SUCCEEDED}
    elif state.status is RunStatus.COMPENSATED:
        assert open_nodes == ()
    else:
        assert isinstance(last, AttentionRequested)
        turned = any(isinstance(fact, SagaFailed) for fact in world.facts)
        bad = {NodeStatus.REJECTED, NodeStatus.FAILED, NodeStatus.IN_DOUBT}
        stuck = open_nodes if turned else tuple(name for name in nodes if nodes[name] in bad)
        assert set(last.nodes) == set(stuck) != set()
        assert len(last.nodes) == len(stuck)


def _accounted_for(state: RunState, name: str) -> bool:
    plan, status = state.plan.nodes[name], state.node(name).status
    if status is NodeStatus.SUCCEEDED:
        return plan.read_only or plan.irreversible is not None
    return status in {NodeStatus.REJECTED, NodeStatus.FAILED, NodeStatus.UNDONE, NodeStatus.PENDING}


@given(world=histories())
def test_a_pivot_that_succeeded_is_never_undone(world: World) -> None:
    """After the pivot has succeeded, and from the first retriable step on, nothing turns round or is compensated."""
    forward_only = False
    for fact in world.facts:
        if isinstance(fact, NodeFact):
            role = world.record.state.plan.nodes[fact.node].role
            forward_only |= role is Role.RETRIABLE or (role is Role.PIVOT and isinstance(fact, StepSucceeded))
        assert not (forward_only and (fact.kind.startswith("Compensation") or isinstance(fact, SagaFailed))), fact


@given(world=histories())
def test_compensations_run_in_reverse_order(world: World) -> None:
    """Stages are undone from the last to the first, and the members of an ordered stage one by one, latest first."""
    plan = world.record.state.plan
    first: dict[str, int] = {}
    undos: list[tuple[int, str, str]] = []
    for fact in world.facts:
        if isinstance(fact, NodeFact):
            first.setdefault(fact.node, fact.position)
            if fact.kind.startswith("Compensation"):
                undos.append((plan.stage_of[fact.node], fact.node, fact.kind))
    stages = [stage for stage, _, _ in undos]
    assert stages == sorted(stages, reverse=True)
    for index, stage in enumerate(plan.stages):
        if stage.ordered:
            members = [name for at, name, _ in undos if at == index]
            order = list(dict.fromkeys(members))
            assert members == sorted(members, key=order.index), "two members of an ordered stage were undone at once"
            assert order == sorted(order, key=first.__getitem__, reverse=True)


@given(world=histories())
def test_a_parallel_group_settles_before_the_run_turns(world: World) -> None:
    """When a run turns, no member of the stage is in flight, waiting or being probed."""
    state = begin(world.record.state.plan, world.facts[0].head)
    for fact in world.facts[1:]:
        if isinstance(fact, SagaFailed | AttentionRequested) and state.status is RUNNING:
            stage = state.plan.stages[state.cursor]
            settled = {NodeStatus.PENDING, NodeStatus.SUCCEEDED, NodeStatus.REJECTED, NodeStatus.FAILED}
            assert {state.node(node.name).status for node in stage.nodes} <= settled | {NodeStatus.IN_DOUBT}
        state = evolve(state, fact.head)


@given(world=histories())
def test_attempts_keep_to_their_policies(world: World) -> None:
    """Attempts are numbered without gaps, never more than the policy allows and never earlier than they are due.

    A postponed call does not count as an attempt.
    """
    plan = world.record.state.plan
    attempts: Counter[tuple[str, type[Fact]]] = Counter()
    due: dict[tuple[str, bool], int | None] = {}
    for fact in world.facts:
        if isinstance(fact, StepStarted | CompensationStarted):
            attempts[fact.node, type(fact)] += 1
            assert fact.attempt == attempts[fact.node, type(fact)]
            undo = plan.nodes[fact.node].undo
            retry = plan.nodes[fact.node].retry if isinstance(fact, StepStarted) else undo.retry if undo else None
            assert retry is not None
            assert retry.max_attempts is None or fact.attempt <= retry.max_attempts
            assert fact.as_of_ms >= (due.pop((fact.node, isinstance(fact, CompensationStarted)), None) or 0)
        elif isinstance(fact, StepAttemptFailed | CompensationAttemptFailed):
            due[fact.node, isinstance(fact, CompensationAttemptFailed)] = fact.retry_at_ms
        elif isinstance(fact, StepPostponed | CompensationPostponed):
            started = StepStarted if isinstance(fact, StepPostponed) else CompensationStarted
            attempts[fact.node, started] -= plan.nodes[fact.node].kind is StepKind.EFFECT
            due[fact.node, isinstance(fact, CompensationPostponed)] = fact.retry_at_ms


@given(world=histories())
def test_keys_are_the_same_for_every_attempt_and_another_for_the_undo(world: World) -> None:
    """All attempts of a step carry one key, those of its compensation another one, and no two nodes share any."""
    keys: dict[tuple[str, type[Fact]], set[str]] = {}
    for fact in world.facts:
        if isinstance(fact, StepStarted | CompensationStarted):
            keys.setdefault((fact.node, type(fact)), set()).add(fact.key)
    assert all(len(found) == 1 for found in keys.values())
    assert len(set.union(set(), *keys.values())) == len(keys)


def test_a_key_names_run_node_direction_and_generation() -> None:
    """Keys differ in run, node, direction and generation; a probe has the key of its call; the text form is fixed."""
    assert key_of("run-1", "charge", Direction.DO, 0) == "run-1/charge/do/0"
    assert key_of("run-1", "charge", Direction.UNDO, 0) == "run-1/charge/undo/0"
    assert key_of("run-1", "charge", Direction.DO, 1) == "run-1/charge/do/1"
    assert key_of("run-1", "charge", Direction.PROBE, 1) == key_of("run-1", "charge", Direction.DO, 1)


@given(world=histories())
def test_the_facts_of_a_run_lead_back_to_its_start(world: World) -> None:
    """Times never go back, every fact is caused by an earlier one, and all share one correlation."""
    times = [fact.as_of_ms for fact in world.facts]
    assert times == sorted(times)
    ids = [fact.id for fact in world.facts]
    assert [fact.causation_id for fact in world.facts] == [None, *ids[:-1]]
    assert {fact.correlation_id for fact in world.facts} == {"run-1"}
    assert [fact.position for fact in world.facts] == list(range(1, len(ids) + 1))


def test_a_clock_that_goes_back_does_not_turn_time_back() -> None:
    """A driver whose clock is behind writes the time of the fact before, so times in a stream never fall."""
    world = World.begin(plan_of(EFFECT))
    world.now_ms = 500
    call = world.call(RunStep("a", 1))
    world.now_ms = 100
    world.answer(call, LOST)
    failed = world.facts[-1]
    assert isinstance(failed, StepAttemptFailed)
    assert (failed.as_of_ms, failed.retry_at_ms) == (500, 110)


def fingerprint_of_decisions(seeds: range) -> str:
    """Digest all decisions along some histories, as text."""
    found = hashlib.sha256()
    for seed in seeds:
        choose = random.Random(seed).choice  # noqa: S311 - not for secrets
        world = make_history(make_plan(choose), choose)
        state = begin(world.record.state.plan, world.facts[0].head)
        for fact in world.facts[1:]:
            for now_ms in (fact.as_of_ms, fact.as_of_ms + 5, 10**6):
                found.update(repr(decide(state, now_ms)).encode())
            state = evolve(state, fact.head)
        found.update(state.plan.fingerprint.encode())
    return found.hexdigest()


def test_decisions_do_not_depend_on_the_hash_seed() -> None:
    """The same journals and times give the same decisions in processes with different hash seeds."""
    digests = set()
    for seed in ("0", "4711"):
        program = "import test_decide; print(test_decide.fingerprint_of_decisions(range(12)))"
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(strategies.__file__).parent)},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert digests == {fingerprint_of_decisions(range(12)) + "\n"}


@given(world=histories())
@settings(max_examples=try_out(15))
def test_deciding_changes_nothing_and_time_only_ends_waits(world: World) -> None:
    """Deciding twice gives the same answer; later in time, only waits have become work."""
    state = begin(world.record.state.plan, world.facts[0].head)
    for fact in world.facts[1:]:
        now = decide(state, fact.as_of_ms)
        assert decide(state, fact.as_of_ms) == now
        later = decide(state, 10**9)
        assert not any(isinstance(each, WaitUntil) for each in later)
        assert [each for each in now if isinstance(each, Work)] == [
            each for each, before in zip(later, now, strict=True) if isinstance(before, Work)
        ]
        assert all(isinstance(each, Work | Conclusion) for each in later)
        state = evolve(state, fact.head)
