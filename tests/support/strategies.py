"""Random plans, and random legal histories of them: a world that answers as unhelpfully as a real one.

`make_plan` and `make_history` take a `Chooser`, so that Hypothesis can choose (and shrink), and a seeded random number
generator can too. They build a history as a driver does: `decide`, act, write with `FactWriter`, and decide again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st

from amends.aggregates.errors import AmendsError
from amends.aggregates.run.facts import Fact, LateEffectObserved, SagaStarted, stream_of_run
from amends.aggregates.run.plan import Plan, PlanNode, RetryPolicy, Role, Stage, StepKind, UndoPolicy
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import Direction, RunState
from amends.sagas.engine.answers import fact_of_answer
from amends.sagas.engine.calls import generation_of
from amends.sagas.engine.decide import Conclusion, RunCompensation, RunProbe, RunStep, WaitUntil, Work, decide
from amends.sagas.engine.fact_writer import FactWriter
from amends.sagas.engine.interventions import Intervention, InterventionKind, fact_of
from amends.sagas.engine.outcome import Failed, NotFound, Outcome, Postponed, Refused, Succeeded

T = TypeVar("T")

Chooser = Callable[[Sequence[Any]], Any]
"""Takes one of several options."""


def next_of(options: Sequence[Any]) -> Any:  # noqa: ANN401 - as above
    """Choose the first of several options."""
    return options[0]


RUN = "run-1"
LEASE_MS = 1_000
PATIENCE = 3
"""Bad answers per node and direction, after which the world relents; without it, unlimited retries would not end."""

_DIRECTIONS = {RunStep: Direction.DO, RunCompensation: Direction.UNDO, RunProbe: Direction.PROBE}


def retry_policy(max_attempts: int | None = 3, *, first_ms: int = 10) -> RetryPolicy:
    """Create a policy whose delays double up to a second."""
    return RetryPolicy(max_attempts=max_attempts, first_ms=first_ms, factor=2, longest_ms=1_000)


def undo_policy(max_attempts: int | None = 2, kind: StepKind = StepKind.EFFECT) -> UndoPolicy:
    """Create a compensation's policy."""
    return UndoPolicy(retry=retry_policy(max_attempts), timeout_ms=LEASE_MS if kind is StepKind.EFFECT else None)


def plan_node(name: str, *, undo: UndoPolicy | bool = True, **changes: Any) -> PlanNode:  # noqa: ANN401 - any field
    """Create a compensatable effect, unless the arguments differ; `undo=True` stands for a default policy."""
    kind = changes.get("kind", StepKind.EFFECT)
    fields: dict[str, Any] = {
        "name": name,
        "step": name,
        "kind": kind,
        "role": Role.COMPENSATABLE,
        "retry": retry_policy(),
        "timeout_ms": LEASE_MS if kind is StepKind.EFFECT else None,
        "undo": undo if isinstance(undo, UndoPolicy) else undo_policy(kind=kind) if undo else None,
    }
    return PlanNode(**{**fields, **changes})


def plan_of(*stages: Stage | PlanNode) -> Plan:
    """Create a plan of stages and single nodes."""
    parts = tuple(part if isinstance(part, Stage) else Stage(nodes=(part,)) for part in stages)
    return Plan(saga="a-saga", input_type="Order", stages=parts)


def make_plan(choose: Chooser) -> Plan:
    """Create any plan that the catalog would accept: `compensatable* pivot? retriable*`."""
    before = choose(range(4))
    pivot = choose([False, True])
    after = choose(range(3)) if pivot else choose(range(1 if before else 2))
    roles = [Role.COMPENSATABLE] * before + [Role.PIVOT] * pivot + [Role.RETRIABLE] * after
    stages: list[Stage] = []
    for index, role in enumerate(roles or [Role.COMPENSATABLE]):
        size = 1 if role is Role.PIVOT else choose([1, 1, 2, 3])
        nodes = tuple(_any_node(f"{role[0]}{index}{'abc'[member]}", role, choose) for member in range(size))
        stages.append(Stage(nodes=nodes, ordered=size > 1 and choose([False, True])))
    return plan_of(*stages)


def _any_node(name: str, role: Role, choose: Chooser) -> PlanNode:
    kind = choose([StepKind.EFFECT, StepKind.TRANSACTION])
    undo, irreversible, read_only = choose(
        [(True, None, False), (True, None, False), (False, "it stays", False), (False, None, True)]
        + ([] if role is Role.COMPENSATABLE else [(False, None, False)])
    )
    attempts = choose([None, 1, 2] if role is Role.RETRIABLE else [1, 2, 3])
    return plan_node(
        name,
        kind=kind,
        role=role,
        retry=retry_policy(attempts, first_ms=choose([0, 10])),
        undo=undo_policy(choose([1, 2, None]), kind) if undo else False,
        irreversible=irreversible,
        read_only=read_only,
        probe=kind is StepKind.EFFECT and not read_only and choose([False, True]),
    )


def started(plan: Plan, *, as_of_ms: int = 0) -> SagaStarted:
    """Create the first fact of a run."""
    return SagaStarted(
        originator_id=stream_of_run(RUN),
        originator_version=1,
        as_of_ms=as_of_ms,
        recorded_at_ms=5,
        correlation_id=RUN,
        causation_id=None,
        actor="tests",
        saga=plan.saga,
        fingerprint=plan.fingerprint,
        input={"order": 1},
        keys={},
        store_id="store",
        driver="tests",
        epoch=1,
        guarantees=plan.guarantees,
    )


@dataclass(frozen=True)
class CallInFlight:
    """A call whose answer has not come yet, and may never come."""

    node: str
    direction: Direction
    attempt: int
    generation: int


class AnyResults:
    """A substitute for a registry that accepts every value: operators need only the types of results from it."""

    def result_codec(self, step: str) -> "AnyResults":
        """Return the codec of a step's results."""
        del step
        return self

    def load(self, value: Any) -> Any:  # noqa: ANN401 - as above
        """Read a result."""
        return value

    def dump(self, value: Any) -> Any:  # noqa: ANN401 - as above
        """Write a result."""
        return value


@dataclass
class World:
    """The driver of one run, together with a world that acts and answers as the chooser decides.

    Attributes:
        record: The run so far.
        facts: Its facts.
        now_ms: The driver's time.
        calls: Calls without an answer.
        bad: The number of bad answers so far, by node and direction.
        paused: Calls whose worker is paused: no driver waits for them any more, and their answers come when it resumes.
        present: Effects that exist in the world, by node: the truth that the journal must reach.
        answers: The answers that participants remember: a repeated call under an answered key gets the same answer and
            does not act.
        dropped: Late answers that were definite, and for which the code under test wrote nothing.
        eventful: Whether a participant's effects can appear late; where they cannot, a late call has no effect.
        events: How many more things may happen that no driver asked for.
        verbs: The verbs that operators may use.
    """

    record: RunRecord
    facts: list[Fact]
    now_ms: int = 0
    calls: list[CallInFlight] = field(default_factory=list)
    bad: dict[tuple[str, Direction], int] = field(default_factory=dict)
    paused: list[CallInFlight] = field(default_factory=list)
    present: set[str] = field(default_factory=set)
    answers: dict[tuple[str, bool, int], Outcome] = field(default_factory=dict)
    dropped: list[tuple[RunState, CallInFlight, Outcome]] = field(default_factory=list)
    eventful: bool = False
    events: int = 0
    verbs: tuple[InterventionKind, ...] = ()

    @classmethod
    def begin(cls, plan: Plan) -> "World":
        """Accept a run."""
        first = started(plan)
        return cls(RunRecord.begin(plan, first), [first], eventful=True)

    @property
    def writer(self) -> FactWriter:
        """The writer of the next fact."""
        return FactWriter(self.record, self.now_ms, 7)

    @property
    def closed(self) -> bool:
        """Whether no work remains."""
        return self.record.state.closed

    def append(self, fact: Fact) -> None:
        """Append a fact to the run's stream."""
        self.record = self.record.apply(fact)
        self.facts.append(fact)

    def conclude(self) -> None:
        """Append every conclusion that needs no I/O."""
        while found := [each for each in decide(self.record.state, self.now_ms) if isinstance(each, Conclusion)]:
            self.append(self.writer.conclusion(found[0]))

    def work(self) -> list[Work]:
        """Return the work that is due and not in flight already, unless its claim is over."""
        return [
            each
            for each in decide(self.record.state, self.now_ms)
            if isinstance(each, Work) and self._in_flight(each) not in self.calls
        ]

    def _in_flight(self, work: Work) -> CallInFlight:
        direction = _DIRECTIONS[type(work)]
        generation = generation_of(self.record.state.node(work.node), direction)
        return CallInFlight(work.node, direction, work.attempt, generation)

    def call(self, work: Work) -> CallInFlight:
        """Declare the intent, where the call needs one, and call."""
        node = self.record.state.plan.nodes[work.node]
        direction = _DIRECTIONS[type(work)]
        if direction is not Direction.PROBE and node.kind is StepKind.EFFECT:
            self.append(self.writer.intent(node, direction, work.attempt, "worker", self.now_ms + LEASE_MS))
        self.calls.append(self._in_flight(work))
        return self.calls[-1]

    def answer(self, call: CallInFlight, outcome: Outcome) -> None:
        """Record an answer if it still adds information."""
        self.calls.remove(call)
        self._settle(call, outcome)

    def resume(self, call: CallInFlight, choose: Chooser = next_of) -> None:
        """Resume the paused worker of a call, which finishes its work and reports the result."""
        self.paused.remove(call)
        key = call.node, call.direction is Direction.UNDO, call.generation
        if call.direction is Direction.PROBE:
            known = self.answers.get(key)
            self._settle(call, known if isinstance(known, Succeeded) else NotFound())
            return
        late = Succeeded({"late": call.node} if call.direction is Direction.DO else None)
        self._settle(call, self.answers.get(key) or choose([late, late, Refused("too late")]))

    def _settle(self, call: CallInFlight, outcome: Outcome) -> None:
        node = self.record.state.plan.nodes[call.node]
        key = call.node, call.direction is Direction.UNDO, call.generation
        if isinstance(outcome, Succeeded) and not isinstance(self.answers.get(key), Succeeded):
            (self.present.discard if call.direction is Direction.UNDO else self.present.add)(call.node)
        if isinstance(outcome, Succeeded) or (isinstance(outcome, Refused) and call.direction is not Direction.PROBE):
            self.answers[key] = outcome
        if node.kind is StepKind.TRANSACTION:  # runs inside the unit that asks for it
            self.append(self.writer.outcome(node, call.direction, call.attempt, outcome))
        elif (fact := fact_of_answer(self.record, call, outcome, self.writer).fact) is None:
            self.dropped.append((self.record.state, call, outcome))
        elif self.eventful or not isinstance(fact, LateEffectObserved):
            self.append(fact)

    def decisions(self) -> list[Fact]:
        """Return every fact that an operator could add now."""
        wishes = [
            Intervention(kind=verb, actor="op", reason="because", evidence="seen", node=node, output={"op": node})
            for verb in self.verbs
            for node in ([None] if verb is InterventionKind.CANCEL else self.record.state.nodes)
        ]
        found: list[Fact] = []
        for wish in wishes:
            try:
                fact = fact_of(AnyResults(), self.record, wish, self.now_ms, 7)  # type: ignore[arg-type]  # all it needs
            except AmendsError:
                continue
            found += [] if fact is None else [fact]
        return found

    def outcomes(self, call: CallInFlight) -> list[Outcome]:
        """List the answers that a call may get; only the good one when the world has been unhelpful for long."""
        good = Succeeded({"by": call.node} if call.direction is not Direction.UNDO else None)
        if self.bad.get((call.node, call.direction), 0) >= PATIENCE:
            return [good]
        known = self.answers.get((call.node, call.direction is Direction.UNDO, call.generation))
        if known is not None and self._kind(call) is StepKind.EFFECT:
            return [known]
        bad: list[Outcome] = [
            Failed("TimeoutError", "no answer"),
            Failed("ValueError", "not storable", final=True),
            Postponed("plan", "it asks for a step of other code", "deploy it"),
        ]
        if call.direction is Direction.PROBE:
            return [good, NotFound(), Refused("never heard of it"), *bad]
        return [*[good] * 5, Refused("no"), *bad]

    def due_times(self) -> list[int]:
        """List the times at which there will be something to decide although nothing happens before."""
        return [each.due_ms for each in decide(self.record.state, self.now_ms) if isinstance(each, WaitUntil)]

    def act(self, choose: Chooser) -> None:
        """Do one thing that can happen next.

        Raises:
            AssertionError: Nothing can happen, although the run is open.
        """
        transactions = [call for call in self.calls if self._kind(call) is StepKind.TRANSACTION]
        if transactions:  # runs inside the unit that found it out, so nothing comes in between
            self._answer(transactions[0], choose)
            return
        moves: list[tuple[str, Any]] = [("call", work) for work in self.work()]
        moves += [("answer", call) for call in self.calls] + [("lose", call) for call in self.calls]
        if due := self.due_times():
            moves.append(("wait", min(due)))
        moves += self.happenings()
        assert moves, f"open, but nothing can happen: {self.record.state}"
        move, subject = choose(moves)
        if move == "call":
            self.call(subject)
        elif move == "answer":
            self._answer(subject, choose)
        elif move in {"late", "operator"}:
            self.happen(move, subject, choose)
        elif move == "lose":
            self.calls.remove(subject)
            if self.events:
                self.paused.append(subject)
            self.bad[subject.node, subject.direction] = self.bad.get((subject.node, subject.direction), 0) + 1
        else:
            self.now_ms = subject

    def happenings(self) -> list[tuple[str, Any]]:
        """List all events that can happen without a driver."""
        if not self.events:
            return []
        return [("late", call) for call in self.paused] + [("operator", fact) for fact in self.decisions()]

    def happen(self, move: str, subject: Any, choose: Chooser) -> None:  # noqa: ANN401 - a call or a fact
        """Resume a paused worker, or write an operator's decision."""
        self.events -= 1
        if move == "late":
            self.resume(subject, choose)
        else:
            self.append(subject)

    def _kind(self, call: CallInFlight) -> StepKind:
        return self.record.state.plan.nodes[call.node].kind

    def _answer(self, call: CallInFlight, choose: Chooser) -> None:
        outcome = choose(self.outcomes(call))
        if not isinstance(outcome, Succeeded):
            self.bad[call.node, call.direction] = self.bad.get((call.node, call.direction), 0) + 1
        self.answer(call, outcome)


BOUND = 2_000
"""More moves than any random plan can need."""


def make_history(
    plan: Plan, choose: Chooser, *, events: int = 0, verbs: tuple[InterventionKind, ...] = tuple(InterventionKind)
) -> World:
    """Drive a run of a plan to its end.

    Args:
        plan: The plan.
        choose: Chooses each next event.
        events: How many other things may happen, also after the run was closed: operators decide, paused workers
            resume.
            Workers that are still paused at the end then resume as well.
        verbs: The verbs that the operators use.

    Raises:
        AssertionError: An open state decides nothing, or the run does not end within the bound.
    """
    world = World.begin(plan)
    world.eventful, world.events, world.verbs = events > 0, events, verbs
    for _ in range(BOUND):
        world.conclude()
        decisions = decide(world.record.state, world.now_ms)
        assert bool(decisions) is not world.closed, f"{world.record.state.status}: {decisions}"
        if not world.closed:
            world.act(choose)
        elif world.paused and not (world.events and choose([True, False])):
            world.resume(world.paused[0], choose)
        elif (happenings := world.happenings()) and choose([True, False]):
            move, subject = choose(happenings)
            world.happen(move, subject, choose)
        else:
            return world
    raise AssertionError(f"not closed after {BOUND} moves: {world.record.state}")


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Generate any plan that the catalog would accept."""
    return make_plan(lambda options: draw(st.sampled_from(options)))


@st.composite
def histories(draw: st.DrawFn) -> World:
    """Generate any plan with any legal history of it, driven to its end."""
    plan = draw(plans())
    # One seed instead of a draw per move: a run may take hundreds of moves, and shrinking the plan helps the most.
    chooser = draw(st.randoms(use_true_random=False))
    return make_history(plan, chooser.choice)


@st.composite
def eventful_histories(draw: st.DrawFn, verbs: tuple[InterventionKind, ...] = tuple(InterventionKind)) -> World:
    """Generate any plan with any legal history, in which workers are paused and resume, and operators decide."""
    plan = draw(plans())
    chooser = draw(st.randoms(use_true_random=False))
    return make_history(plan, chooser.choice, events=draw(st.integers(1, 6)), verbs=verbs)
