"""The laws that hold in every story, each a small function with one sentence for users. Pure.

They are stated over the books, the facts and the plan, and not with the functions of the engine, so that a fault of the
engine cannot hide itself. There are four kinds: about a fact of the run, about a fact of a node, about one move, and
about a world in which every run has ended. `broken` checks the first three, and `broken_at_end` the last.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from amends.aggregates.run.facts import FactKind
from amends.aggregates.run.plan import PlanNode, RetryPolicy, Role, StepKind
from amends.aggregates.run.record import RunRecord, fold_facts
from amends.aggregates.run.state import Direction, NodeState, NodeStatus, RunStatus
from amends.sagas.engine.calls import key_of
from amends.sagas.engine.outcome import Refused, Succeeded
from amends.sagas.prove.books import Page
from amends.sagas.prove.memory import Appended
from amends.sagas.prove.moves import MoveKind
from amends.sagas.prove.units import Played, UnitFaultKind
from amends.sagas.prove.world import Listener, World, part_of

__all__ = ["ENDS", "INVARIANT", "LAWS", "NEVER_FAILS", "REPEATS", "Broken", "Law", "broken", "broken_at_end", "is_end"]

_N = NodeStatus
_OPEN_UNDO = frozenset({_N.SUCCEEDED, _N.IN_DOUBT, _N.UNDO_STARTED, _N.UNDO_WAITING, _N.UNDO_SPENT})
_WELL = frozenset({_N.SUCCEEDED, _N.SKIPPED})
_BADLY = frozenset({_N.REJECTED, _N.FAILED, _N.IN_DOUBT})
_IN_FLIGHT = frozenset({_N.STARTED, _N.WAITING, _N.SPENT, _N.PROBE_WAITING, _N.PROBE_SPENT})
_CLAIMS = frozenset({FactKind.STEP_STARTED, FactKind.COMPENSATION_STARTED})
_FAILURES = frozenset({FactKind.STEP_ATTEMPT_FAILED, FactKind.COMPENSATION_ATTEMPT_FAILED})
_BEGINNINGS = frozenset(
    {FactKind.STEP_STARTED, FactKind.STEP_SUCCEEDED, FactKind.STEP_REJECTED, FactKind.STEP_ATTEMPT_FAILED}
)
_CONCLUSIONS = frozenset({FactKind.STEP_FAILED, FactKind.STEP_IN_DOUBT, FactKind.COMPENSATION_EXHAUSTED})
_FIRST_ATTEMPT = frozenset({_N.PENDING, _N.SUCCEEDED, _N.SKIPPED, _N.IN_DOUBT})


class Law(NamedTuple):
    """One law.

    Attributes:
        name: A short name.
        statement: One sentence for users.
    """

    name: str
    statement: str


class Broken(NamedTuple):
    """A law that a story breaks.

    Attributes:
        law: The law.
        message: How the story breaks it.
    """

    law: Law
    message: str


NEVER_FAILS = Law("never fails", "No fact of a run is ever impossible, and no unit of the journal fails.")
REPEATS = Law("repeats", "A unit that runs twice, or an answer that is recorded twice, changes nothing again.")
WAITS_FOR_THREADS = Law("waits for threads", "A call that waits for a thread has not started, and uses no attempt.")
ENDS = Law("ends", "When no more faults happen, every run ends: it completes, is compensated, or asks an operator.")
INVARIANT = Law("invariant", "Your own invariant holds at every end.")

_UNIT_LAWS = {
    UnitFaultKind.FAILS: NEVER_FAILS,
    UnitFaultKind.REPEATS: REPEATS,
    UnitFaultKind.NO_THREAD: WAITS_FOR_THREADS,
}


class _Place(NamedTuple):
    """A fact about a node, with the node and its state before the fact."""

    step: Appended
    node: PlanNode
    at: NodeState


_FactCheck = Callable[[Appended], str | None]
_NodeCheck = Callable[[_Place, Played], str | None]
_MoveCheck = Callable[[Played], str | None]
_EndCheck = Callable[[World, int], str | None]

_FACT_LAWS: list[tuple[Law, _FactCheck]] = []
_NODE_LAWS: list[tuple[Law, _NodeCheck]] = []
_MOVE_LAWS: list[tuple[Law, _MoveCheck]] = []
_END_LAWS: list[tuple[Law, _EndCheck]] = []


def _fact_law(name: str, statement: str) -> Callable[[_FactCheck], _FactCheck]:
    def add(check: _FactCheck) -> _FactCheck:
        _FACT_LAWS.append((Law(name, statement), check))
        return check

    return add


def _node_law(name: str, statement: str) -> Callable[[_NodeCheck], _NodeCheck]:
    def add(check: _NodeCheck) -> _NodeCheck:
        _NODE_LAWS.append((Law(name, statement), check))
        return check

    return add


def _move_law(name: str, statement: str) -> Callable[[_MoveCheck], _MoveCheck]:
    def add(check: _MoveCheck) -> _MoveCheck:
        _MOVE_LAWS.append((Law(name, statement), check))
        return check

    return add


def _end_law(name: str, statement: str) -> Callable[[_EndCheck], _EndCheck]:
    def add(check: _EndCheck) -> _EndCheck:
        _END_LAWS.append((Law(name, statement), check))
        return check

    return add


def broken(played: Played) -> Iterator[Broken]:
    """Return the laws that a move breaks."""
    if played.fault is not None:
        yield Broken(_UNIT_LAWS[played.fault.kind], played.fault.message)
        return
    for step in played.appended:
        if (place := _place_of(step)) is not None:
            for law, of_node in _NODE_LAWS:
                if (message := of_node(place, played)) is not None:
                    yield Broken(law, message)
        else:
            for law, of_run in _FACT_LAWS:
                if (message := of_run(step)) is not None:
                    yield Broken(law, message)
    for law, of_move in _MOVE_LAWS:
        if (message := of_move(played)) is not None:
            yield Broken(law, message)


def broken_at_end(world: World) -> Iterator[Broken]:
    """Return the laws that the end of a story breaks."""
    for run in range(len(world.runs)):
        for law, check in _END_LAWS:
            if (message := check(world, run)) is not None:
                yield Broken(law, message)


def is_end(world: World) -> bool:
    """Check whether a story may stop here: every run has ended, and no worker holds an answer or waits for one."""
    return all(record.state.closed for record in world.runs) and not any(
        call.listener is Listener.PROMPT or (call.listener is Listener.LATE and call.answer is not None)
        for call in world.calls
    )


# ---- one fact


def _place_of(step: Appended) -> _Place | None:
    name, state = step.head.node, step.before.state
    return _Place(step, state.plan.nodes[name], state.node(name)) if name else None


def _policy(node: PlanNode, *, undo: bool) -> RetryPolicy:
    return node.undo.retry if undo and node.undo is not None else node.retry


@_node_law("stages in order", "A step starts only when every step of the stages before it has succeeded.")
def _stages_in_order(place: _Place, _: Played) -> str | None:
    step, node, at = place
    if step.head.kind not in _BEGINNINGS or at.status not in {_N.PENDING, _N.WAITING}:
        return None
    state = step.before.state
    stage = state.plan.stage_of[node.name]
    for earlier in state.plan.stages[:stage]:
        for member in earlier.nodes:
            if state.node(member.name).status not in _WELL:
                return f"{node.name!r} starts while {member.name!r} is {state.node(member.name).status}"
    return None


@_node_law("undo in reverse", "A step is undone only when every later step is undone; an ordered group likewise.")
def _undo_in_reverse(place: _Place, _: Played) -> str | None:
    step, node, at = place
    transacted = step.head.kind == FactKind.COMPENSATION_SUCCEEDED and node.kind is StepKind.TRANSACTION
    if not (step.head.kind == FactKind.COMPENSATION_STARTED or transacted):
        return None
    state = step.before.state
    stage = state.plan.stage_of[node.name]
    for index in range(stage, len(state.plan.stages)):
        for member in state.plan.stages[index].nodes:
            first = state.node(member.name).first_position > at.first_position
            later = index > stage or (state.plan.stages[stage].ordered and first)
            if later and member.undo is not None and state.node(member.name).status in _OPEN_UNDO:
                return f"{node.name!r} is undone while {member.name!r} is {state.node(member.name).status}"
    return None


@_fact_law("pivot decides", "A run turns back only if its pivot did not act, or is in doubt and can be undone.")
def _pivot_decides(step: Appended) -> str | None:
    if step.head.kind != FactKind.SAGA_FAILED:
        return None
    state = step.before.state
    if state.plan.forward_only(state.cursor):
        return f"the run turns back at stage {state.cursor}, behind its pivot"
    for node in state.plan.nodes.values():
        status = state.node(node.name).status
        if node.role is Role.PIVOT and (status in _WELL or (status is _N.IN_DOUBT and node.undo is None)):
            return f"the run turns back while its pivot {node.name!r} is {status}"
    return None


@_fact_law("settles first", "A run turns back only when no effect is under way and the outcome of each is settled.")
def _settles_first(step: Appended) -> str | None:
    if step.head.kind != FactKind.SAGA_FAILED:
        return None
    state = step.before.state
    for name, at in state.nodes.items():
        if at.status in _IN_FLIGHT and state.plan.nodes[name].kind is StepKind.EFFECT:
            return f"the run turns back while {name!r} is {at.status}"
    return None


@_node_law("attempts are counted", "Attempts follow one another, each when it is due, and never exceed the policy.")
def _attempts_are_counted(place: _Place, played: Played) -> str | None:
    head, node, at = place.step.head, place.node, place.at
    if head.kind not in _CLAIMS | _FAILURES:
        return None
    undo = head.kind.startswith("Compensation")
    most = _policy(node, undo=undo).max_attempts
    if most is not None and head.attempt > most:
        return f"attempt {head.attempt} of {node.name!r}, whose policy allows {most}"
    if head.kind not in _CLAIMS:
        claimed = at.status in {_N.STARTED, _N.UNDO_STARTED} and head.attempt != at.attempt
        return f"attempt {at.attempt} of {node.name!r} fails as attempt {head.attempt}" if claimed else None
    expected = 1 if at.status in _FIRST_ATTEMPT else at.attempt + 1
    if at.status in {_N.STARTED, _N.UNDO_STARTED} or head.attempt != expected:
        return f"{node.name!r} is {at.status} after attempt {at.attempt}, and attempt {head.attempt} starts"
    if at.due_ms is not None and at.due_ms > played.before.now_ms and at.status not in _FIRST_ATTEMPT:
        return f"attempt {head.attempt} of {node.name!r} starts {at.due_ms - played.before.now_ms} ms early"
    return None


@_node_law("known effects are no news", "The journal records once that an effect took place under a key.")
def _known_effects_are_no_news(place: _Place, _: Played) -> str | None:
    head, node = place.step.head, place.node
    if head.kind not in {FactKind.STEP_SUCCEEDED, FactKind.LATE_EFFECT_OBSERVED}:
        return None
    if node.kind is StepKind.EFFECT and head.generation in place.at.answers.acted:
        return f"the effect of {node.name!r} is known under generation {head.generation}, and is recorded again"
    return None


@_node_law("answered keys rest", "A key with a definite answer is never called again.")
def _answered_keys_rest(place: _Place, _: Played) -> str | None:
    head = place.step.head
    if head.kind not in _CLAIMS:
        return None
    if place.at.answers.of(head.generation, undo=head.kind == FactKind.COMPENSATION_STARTED):
        return f"{place.node.name!r} has an answer under generation {head.generation}, and is called under it again"
    return None


@_node_law("cancelled means no new step", "A run that is being cancelled starts no step.")
def _cancelled_means_no_new_step(place: _Place, _: Played) -> str | None:
    step, node = place.step, place.node
    if step.before.state.status is not RunStatus.CANCELLING:
        return None
    transaction = node.kind is StepKind.TRANSACTION and step.head.kind == FactKind.STEP_SUCCEEDED
    if step.head.kind == FactKind.STEP_STARTED or transaction:
        return f"{node.name!r} starts after somebody has cancelled the run"
    return None


@_node_law("claims are respected", "A claim ends by its answer, by its lease, or because its worker is replaced.")
def _claims_are_respected(place: _Place, played: Played) -> str | None:
    if getattr(place.step.fact, "error_type", "") != "WorkerLost":
        return None
    due_ms = place.at.due_ms
    replaced = played.move.kind in {MoveKind.TAKE_OVER_LIVE, MoveKind.REDELIVER}
    if not replaced and due_ms is not None and due_ms > played.before.now_ms:
        return f"the claim of {place.node.name!r} is ended {due_ms - played.before.now_ms} ms before its lease"
    return None


@_node_law("missing code changes nothing", "A release that lacks the code of a step uses no attempt of it.")
def _missing_code_changes_nothing(place: _Place, played: Played) -> str | None:
    head, node, lacks = place.step.head, place.node, played.before.lacks
    if not lacks or lacks != part_of(node) or played.move.kind not in {MoveKind.DRIVE, MoveKind.TRANSACTION}:
        return None
    expired = getattr(place.step.fact, "error_type", "") == "WorkerLost"
    if head.kind in _CONCLUSIONS or (head.kind in _FAILURES and expired):
        return None
    return f"the release lacks {lacks!r}, and writes {head.kind} of {node.name!r}"


# ---- one move


@_move_law("never undone twice", "No effect is undone more often than it took place.")
def _never_undone_twice(played: Played) -> str | None:
    for _, page in _changed_pages(played):
        if page.undone > page.acted:
            return f"{page.node!r} acted {_times(page.acted)} and was undone {_times(page.undone)}"
    return None


@_move_law("never acts twice", "A step has at most one effect that stands.")
def _never_acts_twice(played: Played) -> str | None:
    for _, page in _changed_pages(played):
        read_only = played.world.runs[page.run].state.plan.nodes[page.node].read_only
        standing = sum(max(0, each.standing) for each in played.world.books.of(page.run, page.node))
        if standing > 1 and not read_only:
            return f"{page.node!r} has acted {_times(standing)}, and all of its effects stand"
    return None


def _changed_pages(played: Played) -> Iterator[tuple[Page | None, Page]]:
    """Return each page that a move has changed, before and after it; a law holds for the others as it did before."""
    before, after = played.before.books, played.world.books
    if before is not after:
        for key, page in after.pages.items():
            if (former := before.pages.get(key)) != page:
                yield former, page


@_move_law("transactions are atomic", "A transaction and its outcome are written together, or not at all.")
def _transactions_are_atomic(played: Played) -> str | None:
    if played.move.kind not in {MoveKind.DRIVE, MoveKind.TRANSACTION}:
        return None
    nodes = played.before.runs[played.move.run].state.plan.nodes
    recorded = sum(
        step.head.kind in {FactKind.STEP_SUCCEEDED, FactKind.COMPENSATION_SUCCEEDED}
        and nodes[step.head.node].kind is StepKind.TRANSACTION
        for step in played.appended
    )
    done = sum(
        page.acted + page.undone - (0 if former is None else former.acted + former.undone)
        for former, page in _changed_pages(played)
        if played.world.runs[page.run].state.plan.nodes[page.node].kind is StepKind.TRANSACTION
    )
    return None if done == recorded else f"{done} transactions have written, and {recorded} are recorded"


@_move_law("answers are kept", "A definite answer is recorded whenever it comes.")
def _answers_are_kept(played: Played) -> str | None:
    settled = played.settled
    if settled is None or settled[0].direction is Direction.PROBE or not isinstance(settled[1], Succeeded | Refused):
        return None
    call, outcome = settled
    answers = played.world.runs[played.move.run].state.node(call.node).answers
    undo = call.direction is Direction.UNDO
    acted = call.generation in (answers.undone if undo else answers.acted)
    known = acted if isinstance(outcome, Succeeded) else answers.of(call.generation, undo=undo)
    return None if known else f"the answer of {call.key} is lost"


# ---- the end


@_end_law("completed means once", "In a completed run each step has acted exactly once.")
def _completed_means_once(world: World, run: int) -> str | None:
    state = world.runs[run].state
    if state.status is not RunStatus.COMPLETED:
        return None
    for node, at, pages in _accounts(world, run):
        acted, undone = sum(page.acted for page in pages), sum(page.undone for page in pages)
        if at.status is not _N.SKIPPED and (acted, undone) != (1, 0):
            return f"the run is completed; {node.name!r} acted {_times(acted)} and was undone {_times(undone)}"
    return None


@_end_law("compensated means undone", "In a compensated run each effect is undone, or stays by decision.")
def _compensated_means_undone(world: World, run: int) -> str | None:
    if world.runs[run].state.status is not RunStatus.COMPENSATED:
        return None
    for node, at, pages in _accounts(world, run):
        if _stays(node, at):
            continue
        if at.status in _OPEN_UNDO:
            return f"the run is compensated; {node.name!r} is {at.status}"
        if standing := sum(page.standing for page in pages):
            return f"the run is compensated; {node.name!r} has {standing} effect that stands"
    return None


@_end_law("attention names what is open", "A run that needs attention names exactly the open nodes.")
def _attention_names_what_is_open(world: World, run: int) -> str | None:
    record = world.runs[run]
    state = record.state
    if state.status is not RunStatus.NEEDS_ATTENTION:
        return None
    named = set(record.current)
    if state.cursor >= 0:
        bad = {node.name for node in state.plan.stages[state.cursor].nodes if state.node(node.name).status in _BADLY}
        return None if named == bad else f"open are {_names(bad)}; named are {_names(named)}"
    for node, at, pages in _accounts(world, run):
        if not _stays(node, at) and any(page.standing for page in pages) and node.name not in named:
            return f"{node.name!r} has an effect that stands, and is not named"
        if node.name in named and (_stays(node, at) or at.status in {_N.UNDONE, _N.FAILED, _N.REJECTED}):
            return f"{node.name!r} is {at.status}, and is named"
    return None


@_end_law("the journal is the truth", "Folding the facts again gives the same run.")
def _journal_is_truth(world: World, run: int) -> str | None:
    record = world.runs[run]
    again = fold_facts(record.state.plan, world.logs[run].facts())
    same = again.state == record.state and again.results == record.results and again.current == record.current
    return None if same else "the run that is folded from its facts differs"


def _accounts(world: World, run: int) -> Iterator[tuple[PlanNode, NodeState, list[Page]]]:
    """Return each node that changes something, with its pages.

    After an operator has had a step redone, only the pages of the present key count: nobody accounts for an effect of a
    former key that comes late (see the guarantees).
    """
    record = world.runs[run]
    for node in record.state.plan.nodes.values():
        if not node.read_only:
            at = record.state.node(node.name)
            pages = list(world.books.of(run, node.name))
            if at.generation and node.kind is StepKind.EFFECT:
                pages = [world.books.page(_do_key(record, node.name, at), run, node.name)]
            yield node, at, pages


def _do_key(record: RunRecord, node: str, at: NodeState) -> str:
    return key_of(record.run_id, node, Direction.DO, at.generation)


def _stays(node: PlanNode, at: NodeState) -> bool:
    return at.status is _N.UNDO_SKIPPED or (node.irreversible is not None and at.status is _N.SUCCEEDED)


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


LAWS: tuple[Law, ...] = (
    ENDS,
    NEVER_FAILS,
    REPEATS,
    WAITS_FOR_THREADS,
    *(law for law, _ in (*_END_LAWS, *_MOVE_LAWS, *_FACT_LAWS, *_NODE_LAWS)),
    INVARIANT,
)
"""All laws."""
