"""Transitions of a run: how each fact changes its state.

Theory of operation: a run's state is the left fold of `evolve` over the heads of its facts, in order, beginning with
`SagaStarted`. `NODE_TRANSITIONS` lists, for each status of a node, the facts that it accepts and the statuses that
follow. `RUN_TRANSITIONS` does the same for the run, and `WHILE` lists the statuses of the run in which a fact about a
node can come. `evolve` refuses every other fact with `TransitionError`. The tables are therefore complete, and the
diagrams in the documentation are drawn from them.

1. A failed attempt leads to a *waiting* status when the fact carries a due time and to a *spent* one when it does not.
   A postponed attempt leads to the same *waiting* status, always with a due time, and keeps the number of attempts.
2. A turn or a close needs evidence in the state, so no code path can write it early. `evolve` refuses `SagaFailed`
   while an effect may still act, while no node has failed (unless a cancel was requested), and behind the pivot;
   `SagaCompleted` while a node has not succeeded; `SagaCompensated` while a node that may have acted is not accounted
   for (undone, declared to stay, or kept by an operator); `AttentionRequested` while the run has automatic work left.
   An effect can fail (which means: it took no effect) only if a probe or an operator can find that out, or if it is
   read-only. A read-only effect is never in doubt.
3. `cursor` moves with the facts: forward when a stage has succeeded, backward when a stage has nothing left to undo,
   and forward again when a later stage has to be undone after all. The cost of a fact therefore does not depend on the
   number of stages. Other facts about nodes of other stages are refused, so steps and compensations keep their order.
4. Decisions of operators and late effects open a closed run again (`REOPENING`); it continues in the direction that it
   had. If the pivot succeeds after a cancel was requested, the cancel has no effect and the run goes forward again.
5. Each node knows which of its keys have a definite outcome (`Answers`). `evolve` refuses a claim under such a key, and
   also a second success or a second refusal. It accepts an answer that only adds to this knowledge (`told_only`) in
   every status.

The module is pure: it reads no user data, no clock and no random number.
"""

from collections.abc import Callable, Iterable, Mapping

from amends.aggregates.errors import TransitionError
from amends.aggregates.run.fact import FactKind, Head
from amends.aggregates.run.plan import Plan, PlanNode, StepKind
from amends.aggregates.run.state import (
    CLOSED,
    SETTLED_BADLY,
    SETTLED_WELL,
    UNDO_STATUSES,
    Answers,
    NodeState,
    NodeStatus,
    RunState,
    RunStatus,
    doubtful_pivots,
    open_undo,
    undo_open_nodes,
    unsettled_effects,
)

__all__ = [
    "NODE_TRANSITIONS",
    "REOPENING",
    "RUN_TRANSITIONS",
    "TOLD_ONLY",
    "WHILE",
    "begin",
    "evolve",
    "fold",
    "told_only",
]

_N = NodeStatus
_R = RunStatus

_K = FactKind
_Table = Mapping[str, NodeStatus]
_ATTEMPT: _Table = {
    _K.STEP_STARTED: _N.STARTED,
    _K.STEP_SUCCEEDED: _N.SUCCEEDED,
    _K.STEP_REJECTED: _N.REJECTED,
    _K.STEP_ATTEMPT_FAILED: _N.WAITING,
    _K.STEP_POSTPONED: _N.WAITING,
}
_PROBED: _Table = {
    _K.STEP_SUCCEEDED: _N.SUCCEEDED,
    _K.PROBE_ATTEMPT_FAILED: _N.PROBE_WAITING,
    _K.PROBE_POSTPONED: _N.PROBE_WAITING,
    _K.STEP_FAILED: _N.FAILED,
    _K.STEP_IN_DOUBT: _N.IN_DOUBT,
}
_UNDO: _Table = {
    _K.COMPENSATION_STARTED: _N.UNDO_STARTED,
    _K.COMPENSATION_SUCCEEDED: _N.UNDONE,
    _K.COMPENSATION_REJECTED: _N.UNDO_REJECTED,
    _K.COMPENSATION_ATTEMPT_FAILED: _N.UNDO_WAITING,
    _K.COMPENSATION_POSTPONED: _N.UNDO_WAITING,
}
# Answers of an undo that the run gave up: the participant may have carried it out, or refused it, all the same.
_UNDO_LATE: _Table = {_K.COMPENSATION_SUCCEEDED: _N.UNDONE, _K.COMPENSATION_REJECTED: _N.UNDO_REJECTED}
# Late answers by which the step took no effect.
_NOT_DONE: _Table = {_K.STEP_REJECTED: _N.REJECTED, _K.STEP_FAILED: _N.FAILED}
_LATE: _Table = {_K.LATE_EFFECT_OBSERVED: _N.SUCCEEDED}
# Decisions that operators may make: about a step, and about an undo.
_DECIDED: _Table = {_K.STEP_SKIPPED: _N.SKIPPED, _K.STEP_RESOLVED: _N.SUCCEEDED}
_RULED_OUT: _Table = {_K.STEP_RULED_OUT: _N.FAILED}
_UNDO_DECIDED: _Table = {_K.COMPENSATION_SKIPPED: _N.UNDO_SKIPPED, _K.COMPENSATION_RESOLVED: _N.UNDONE}

# Kinds that the functions below name. A lookup in an enumeration costs more than one in the module.
_REJECTED, _FAILED, _IN_DOUBT = _K.STEP_REJECTED, _K.STEP_FAILED, _K.STEP_IN_DOUBT
_UNDO_SUCCEEDED, _UNDO_REJECTED = _K.COMPENSATION_SUCCEEDED, _K.COMPENSATION_REJECTED
_EXHAUSTED, _RETRY, _SKIP = _K.COMPENSATION_EXHAUSTED, _K.RETRY_REQUESTED, _K.STEP_SKIPPED
_SUCCESSES = frozenset({_K.STEP_SUCCEEDED, _K.LATE_EFFECT_OBSERVED})
_PROBING = frozenset({_K.PROBE_ATTEMPT_FAILED, _K.PROBE_POSTPONED})
# The intents to call, and whether the call is an undo.
_CLAIMS: Mapping[str, bool] = {_K.STEP_STARTED: False, _K.COMPENSATION_STARTED: True}

NODE_TRANSITIONS: Mapping[NodeStatus, _Table] = {
    # A transaction goes from pending to its outcome in one fact; an effect writes its intent first.
    _N.PENDING: _ATTEMPT,
    # The same attempt may still answer, although a worker may have claimed a later one meanwhile.
    _N.STARTED: {k: v for k, v in _ATTEMPT.items() if k != _K.STEP_STARTED},
    # A waiting node is probed or given up when another member of its stage has failed: it gets no further attempt.
    _N.WAITING: {**_ATTEMPT, **_PROBED, _K.RETRY_REQUESTED: _N.WAITING, **_DECIDED, **_RULED_OUT},
    # Attempts are spent: the probe, if there is one, or a late refusal reveals their outcome.
    _N.SPENT: {**_PROBED, **_NOT_DONE},
    _N.PROBE_WAITING: {**_PROBED, **_NOT_DONE, _K.RETRY_REQUESTED: _N.PROBE_WAITING, **_DECIDED, **_RULED_OUT},
    _N.PROBE_SPENT: {_K.STEP_IN_DOUBT: _N.IN_DOUBT},
    # If the step has no compensation, an operator decides how it ends.
    _N.SUCCEEDED: {**_UNDO, **_UNDO_DECIDED},
    _N.SKIPPED: {**_UNDO, **_UNDO_DECIDED},
    # A node in doubt is undone like one that succeeded; its compensation gets no result and must cope with no effect.
    _N.IN_DOUBT: {
        **_UNDO,
        **_UNDO_DECIDED,
        _K.RETRY_REQUESTED: _N.WAITING,
        **_DECIDED,
        **_RULED_OUT,
        **_NOT_DONE,
        **_LATE,
    },
    _N.REJECTED: {_K.RETRY_REQUESTED: _N.WAITING, **_DECIDED, **_LATE},
    _N.FAILED: {_K.RETRY_REQUESTED: _N.WAITING, **_DECIDED, **_LATE},
    _N.UNDO_STARTED: {**{k: v for k, v in _UNDO.items() if k != _K.COMPENSATION_STARTED}, **_LATE},
    _N.UNDO_WAITING: {**_UNDO, _K.RETRY_REQUESTED: _N.UNDO_WAITING, **_UNDO_DECIDED, **_LATE},
    # An undo that the run gave up may still answer.
    _N.UNDO_SPENT: {_K.COMPENSATION_EXHAUSTED: _N.UNDO_EXHAUSTED, **_UNDO_LATE, **_LATE},
    _N.UNDO_EXHAUSTED: {**_UNDO_LATE, _K.RETRY_REQUESTED: _N.UNDO_WAITING, **_UNDO_DECIDED, **_LATE},
    # An earlier attempt under the same key may have taken effect and answer late.
    _N.UNDO_REJECTED: {
        _K.COMPENSATION_SUCCEEDED: _N.UNDONE,
        _K.RETRY_REQUESTED: _N.UNDO_WAITING,
        **_UNDO_DECIDED,
        **_LATE,
    },
    # A step that acts after its undo has to be undone again.
    _N.UNDONE: _LATE,
    _N.UNDO_SKIPPED: {},
}
"""By status of a node and kind of fact: the status that follows."""

SPENT_WITHOUT_DUE: Mapping[NodeStatus, NodeStatus] = {
    _N.WAITING: _N.SPENT,
    _N.PROBE_WAITING: _N.PROBE_SPENT,
    _N.UNDO_WAITING: _N.UNDO_SPENT,
}
"""The status after a failed attempt whose fact carries no due time."""

RUN_TRANSITIONS: Mapping[RunStatus, Mapping[str, RunStatus]] = {
    _R.RUNNING: {
        _K.CANCEL_REQUESTED: _R.CANCELLING,
        _K.SAGA_FAILED: _R.COMPENSATING,
        _K.SAGA_COMPLETED: _R.COMPLETED,
        _K.ATTENTION_REQUESTED: _R.NEEDS_ATTENTION,
        _K.DRIVER_TAKEN: _R.RUNNING,
    },
    _R.CANCELLING: {
        _K.SAGA_FAILED: _R.COMPENSATING,
        _K.ATTENTION_REQUESTED: _R.NEEDS_ATTENTION,
        _K.DRIVER_TAKEN: _R.CANCELLING,
    },
    _R.COMPENSATING: {
        _K.SAGA_COMPENSATED: _R.COMPENSATED,
        _K.ATTENTION_REQUESTED: _R.NEEDS_ATTENTION,
        _K.DRIVER_TAKEN: _R.COMPENSATING,
    },
    _R.COMPLETED: {},
    _R.COMPENSATED: {},
    _R.NEEDS_ATTENTION: {_K.DRIVER_TAKEN: _R.NEEDS_ATTENTION},
}
"""By status of a run and kind of fact about the run: the status that follows."""

_FORWARD = frozenset({_R.RUNNING, _R.CANCELLING})
_BACKWARD = frozenset({_R.COMPENSATING})
_ATTENTION = frozenset({_R.NEEDS_ATTENTION})

WHILE: Mapping[str, frozenset[RunStatus]] = {
    **dict.fromkeys([*_ATTEMPT, *_PROBED], _FORWARD),
    **dict.fromkeys([*_UNDO, _K.COMPENSATION_EXHAUSTED], _BACKWARD),
    # A late refusal may come in any of these statuses; most statuses of the node accept it only while going forward.
    **dict.fromkeys(_NOT_DONE, _FORWARD | _BACKWARD | _ATTENTION),
    **dict.fromkeys(_UNDO_LATE, _BACKWARD | _ATTENTION),
    _K.LATE_EFFECT_OBSERVED: frozenset(_R),
    _K.RETRY_REQUESTED: _FORWARD | _BACKWARD | _ATTENTION,
    _K.STEP_SKIPPED: _FORWARD | _ATTENTION,
    _K.STEP_RESOLVED: frozenset(_R) - {_R.COMPLETED},
    _K.STEP_RULED_OUT: _FORWARD | _BACKWARD | _ATTENTION,
    **dict.fromkeys(_UNDO_DECIDED, _BACKWARD | _ATTENTION),
}
"""By kind of fact about a node: the statuses of the run in which it can come."""

REOPENING = frozenset({kind for kind, statuses in WHILE.items() if statuses & CLOSED})
"""Facts about a node that open a closed run again; the run continues in the direction that it had."""

# Answers of an undo that has begun are accepted at every stage, because a late effect may have moved the run.
_ANSWERED_LATE: Mapping[NodeStatus, frozenset[str]] = {
    _N.UNDO_STARTED: frozenset(_UNDO),
    **dict.fromkeys((_N.UNDO_WAITING, _N.UNDO_SPENT, _N.UNDO_EXHAUSTED, _N.UNDO_REJECTED), frozenset(_UNDO_LATE)),
}

# By kind of fact: the part of `Answers` to which the fact adds its generation.
_ANSWERS: Mapping[str, str] = {
    **dict.fromkeys((_K.STEP_SUCCEEDED, _K.STEP_RESOLVED, _K.LATE_EFFECT_OBSERVED), "acted"),
    **dict.fromkeys((_K.STEP_REJECTED, _K.STEP_FAILED, _K.STEP_RULED_OUT), "refused"),
    **dict.fromkeys((_K.COMPENSATION_SUCCEEDED, _K.COMPENSATION_RESOLVED), "undone"),
    _K.COMPENSATION_REJECTED: "undo_refused",
}

TOLD_ONLY: Mapping[NodeStatus, frozenset[str]] = {
    **dict.fromkeys(UNDO_STATUSES, frozenset(_NOT_DONE)),
    _N.SKIPPED: frozenset(_NOT_DONE) | {_K.LATE_EFFECT_OBSERVED},
    _N.UNDO_SKIPPED: frozenset(_NOT_DONE) | frozenset(_UNDO_LATE) | {_K.LATE_EFFECT_OBSERVED},
}
"""By status of a node: late answers that add to the knowledge about its keys and change nothing else."""


def begin(plan: Plan, head: Head) -> RunState:
    """Return the state of a run that was just accepted.

    Args:
        plan: The plan that `SagaStarted` names.
        head: The head of `SagaStarted`, at position 1.

    Raises:
        TransitionError: The head is not that of a `SagaStarted` at position 1.
    """
    if head.kind != _K.SAGA_STARTED or head.position != 1:
        raise TransitionError(f"a run begins with SagaStarted at position 1, not with {head.kind} at {head.position}")
    return RunState(plan, RunStatus.RUNNING, 1, {}, 0, head.as_of_ms, head.as_of_ms)


def evolve(state: RunState, head: Head) -> RunState:
    """Return the state of a run after one more fact.

    Args:
        state: The state at position n.
        head: The head of the fact at position n + 1.

    Raises:
        TransitionError: The position is not the next one, the node is not in the plan, the transition is not in the
            tables, or the state lacks the evidence for it.
    """
    if head.position != state.position + 1:
        raise TransitionError(f"expected the fact at position {state.position + 1}, got {head.kind} at {head.position}")
    if head.kind in WHILE:
        return _evolve_node(state, head)
    return _evolve_run(state, head)


def fold(state: RunState, heads: Iterable[Head]) -> RunState:
    """Return the state after more heads, skipping heads that the state contains already."""
    for head in heads:
        if head.position > state.position:
            state = evolve(state, head)
    return state


def _evolve_node(state: RunState, head: Head) -> RunState:
    plan = state.plan.nodes.get(head.node)
    if plan is None:
        raise TransitionError(f"{head.kind} at {head.position}: the plan has no node {head.node!r}")
    node = state.node(head.node)
    if why_not := _known(node, head):
        raise TransitionError(f"{head.kind} at {head.position} does not follow: node {head.node!r} {why_not}")
    if told_only(state, head):
        nodes = {**state.nodes, head.node: node._replace(answers=_answered(node.answers, head))}
        return RunState(state.plan, state.status, head.position, nodes, state.cursor, state.started_ms, head.as_of_ms)
    status = NODE_TRANSITIONS[node.status].get(head.kind)
    if status is None or state.status not in WHILE[head.kind]:
        raise TransitionError(
            f"{head.kind} at {head.position} does not follow: node {head.node!r} is {node.status}, "
            f"the run is {state.status}"
        )
    if why_not := _against_plan(state, plan, node, head.kind):
        raise TransitionError(f"{head.kind} at {head.position} does not follow: node {head.node!r} {why_not}")
    if head.due_ms is None:
        status = SPENT_WITHOUT_DUE.get(status, status)
    nodes = {**state.nodes, head.node: _changed(node, status, head)}
    cursor = _moved_cursor(state, nodes, head.node, status)
    run = _followed(state, head.kind, cursor)
    return RunState(state.plan, run, head.position, nodes, cursor, state.started_ms, head.as_of_ms)


def told_only(state: RunState, head: Head) -> bool:
    """Check whether a late answer only adds to the knowledge about a key: it moves no node and opens no run.

    This holds in three cases:

    - The answer is for the key of a former generation, and the step or its undo has begun under another one since.
    - An operator decided to continue without the step, or to keep its effect: the decision stands.
    - The answer is that the step took no effect, but its undo has begun: the undo goes on, as the step may have acted.

    Args:
        state: The run before the fact.
        head: The head of the fact.
    """
    node = state.node(head.node)
    if head.kind in TOLD_ONLY.get(node.status, ()):
        return True
    if head.kind in _LATE:
        return head.generation < node.generation
    return head.kind in _UNDO_LATE and head.generation < node.undo_generation


def _known(node: NodeState, head: Head) -> str | None:
    """Return why a fact repeats a known outcome of a key, or a call with a known outcome; `None` if it does not."""
    answers, kind, generation = node.answers, head.kind, head.generation
    if kind in _CLAIMS:
        undo = _CLAIMS[kind]
        if answers.of(generation, undo=undo):
            return f"has a definite answer {'to its undo ' * undo}under generation {generation}"
        if generation < (node.undo_generation if undo else node.generation):
            return f"is not called under the former generation {generation} again"
    elif kind in _SUCCESSES and generation in answers.acted:
        return f"is known to have acted under generation {generation}"
    elif kind == _REJECTED and answers.of(generation, undo=False):
        return f"has a definite answer under generation {generation}"
    elif kind == _UNDO_SUCCEEDED and generation in answers.undone:
        return f"is known to be undone under generation {generation}"
    elif kind == _UNDO_REJECTED and answers.of(generation, undo=True):
        return f"has a definite answer to its undo under generation {generation}"
    return None


def _answered(answers: Answers, head: Head) -> Answers:
    """Return the answers with the outcome that a fact gives its key."""
    name = _ANSWERS.get(head.kind)
    known: tuple[int, ...] = () if name is None else getattr(answers, name)
    if name is None or head.generation in known:
        return answers
    return answers._replace(**{name: (*known, head.generation)})


def _changed(node: NodeState, status: NodeStatus, head: Head) -> NodeState:
    # Generations never fall, because under a former key a participant would repeat its former answer.
    generation, undo_generation = node.generation, node.undo_generation
    if head.kind in _LATE:
        # The new undo needs a new key, or the participant takes it for a repetition of the undo before the late effect.
        undo_generation += node.status in UNDO_STATUSES
    elif status in UNDO_STATUSES:
        undo_generation = max(undo_generation, head.generation)
    else:
        generation = max(generation, head.generation)
    first = node.first_position or head.position
    answers = _answered(node.answers, head)
    return NodeState(status, head.attempt, head.due_ms, generation, first, undo_generation, answers)


def _followed(state: RunState, kind: str, cursor: int) -> RunStatus:
    """Return the status of the run after a fact about a node."""
    if state.closed and kind in REOPENING:
        return RunStatus.COMPENSATING if state.backward else RunStatus.RUNNING
    if state.status is RunStatus.CANCELLING and state.plan.forward_only(cursor):
        return RunStatus.RUNNING
    return state.status


def _against_plan(state: RunState, plan: PlanNode, node: NodeState, kind: str) -> str | None:
    """Return why the plan or the direction of the run forbids a fact that the table allows; `None` if neither does."""
    undoing = kind in _UNDO or kind == _EXHAUSTED
    if undoing and plan.undo is None:
        return "has no compensation"
    if kind in _PROBING and not plan.probe:
        return "has no probe"
    if kind == _IN_DOUBT and plan.read_only:
        return "is read-only; it changes nothing, so it is not in doubt"
    if kind == _FAILED and plan.kind is StepKind.EFFECT and not (plan.probe or plan.read_only):
        return "is an effect that may have acted; only a probe can rule that out"
    redo = kind == _RETRY and node.status not in UNDO_STATUSES
    if kind in _NOT_DONE and state.status not in _FORWARD and node.status is not NodeStatus.IN_DOUBT:
        return "was not in doubt, and a run that is being undone attempts no step"
    if state.backward and (redo or kind == _SKIP):
        return "must not be attempted, because the run is being undone"
    if not state.backward and kind in _UNDO_DECIDED:
        return "cannot be undone, because the run is not being undone"
    stage = state.plan.stage_of[plan.name]
    anywhere = (state.backward and kind not in _UNDO) or kind in _ANSWERED_LATE.get(node.status, ())
    if stage != state.cursor and not anywhere:
        return f"belongs to stage {stage}, the run is at stage {state.cursor}"
    return None


def _moved_cursor(state: RunState, nodes: Mapping[str, NodeState], name: str, status: NodeStatus) -> int:
    stage = state.plan.stage_of[name]
    if state.backward:
        return _undo_cursor(state.plan, nodes, max(stage, state.cursor))
    members = state.plan.stages[stage].nodes
    if status in SETTLED_WELL and all(
        each.name in nodes and nodes[each.name].status in SETTLED_WELL for each in members
    ):
        return stage + 1
    return state.cursor


def _undo_cursor(plan: Plan, nodes: Mapping[str, NodeState], cursor: int) -> int:
    """Return the cursor after stepping back over the stages that have nothing left to undo."""
    while cursor >= 0 and not any(
        member.name in nodes and open_undo(member, nodes[member.name]) for member in plan.stages[cursor].nodes
    ):
        cursor -= 1
    return cursor


def _evolve_run(state: RunState, head: Head) -> RunState:
    status = RUN_TRANSITIONS[state.status].get(head.kind)
    if status is None:
        raise TransitionError(f"{head.kind} at {head.position} does not follow: the run is {state.status}")
    if why_not := _EVIDENCE.get(head.kind, _none_needed)(state):
        raise TransitionError(f"{head.kind} at {head.position}: {why_not}")
    cursor = state.cursor
    if status is RunStatus.COMPENSATING and state.status is not status:
        cursor = _undo_cursor(state.plan, state.nodes, min(cursor, len(state.plan.stages) - 1))
    return RunState(state.plan, status, head.position, state.nodes, cursor, state.started_ms, head.as_of_ms)


def _none_needed(_: RunState) -> str | None:
    return None


def _not_completed(state: RunState) -> str | None:
    return f"stage {state.cursor} has not succeeded" if state.cursor < len(state.plan.stages) else None


def _not_compensated(state: RunState) -> str | None:
    left = undo_open_nodes(state)
    return f"not undone yet: {', '.join(left)}" if left else None


def _not_cancellable(state: RunState) -> str | None:
    return f"stage {state.cursor} is past the pivot" if state.plan.forward_only(state.cursor) else None


def _not_failed(state: RunState) -> str | None:
    if unsettled := unsettled_effects(state):
        return f"may still act: {', '.join(unsettled)}"
    if state.status is not RunStatus.CANCELLING and not _bad(state):
        return f"no node of stage {state.cursor} has failed"
    return _not_cancellable(state)


def _not_stuck(state: RunState) -> str | None:
    """Return the automatic work that the run has left; `None` if it has none."""
    if state.backward:
        if state.cursor >= 0:
            return f"stage {state.cursor} can still be undone"
        return None if undo_open_nodes(state) else "no step is open"
    if unsettled := unsettled_effects(state):
        return f"may still act: {', '.join(unsettled)}"
    if not _bad(state):
        return f"no node of stage {state.cursor} has failed"
    if doubtful_pivots(state) or state.plan.forward_only(state.cursor):
        return None
    return "the steps that acted can still be compensated"


def _bad(state: RunState) -> bool:
    stage = state.plan.stages[state.cursor].nodes if state.cursor < len(state.plan.stages) else ()
    return any(state.node(member.name).status in SETTLED_BADLY for member in stage)


_EVIDENCE: Mapping[str, Callable[[RunState], str | None]] = {
    _K.CANCEL_REQUESTED: _not_cancellable,
    _K.SAGA_FAILED: _not_failed,
    _K.SAGA_COMPLETED: _not_completed,
    _K.SAGA_COMPENSATED: _not_compensated,
    _K.ATTENTION_REQUESTED: _not_stuck,
}
