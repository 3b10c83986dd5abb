"""The messages that go through Temporal: ids, positions, times and heads; never user data."""

from dataclasses import dataclass
from typing import Any

from amends.aggregates.errors import StoreBehindError, WrongStoreError
from amends.aggregates.run.facts import Head
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import RunState, dump_state, load_state
from amends.aggregates.run.transitions import fold

__all__ = [
    "ADVANCE",
    "JOIN",
    "WAKE",
    "AdvanceRequest",
    "CallRequest",
    "Progress",
    "RunArguments",
    "RunEnd",
    "check_known",
    "check_seen",
    "check_store",
    "older_store",
]

ADVANCE = "advance"
"""Activity type that appends conclusions and runs transactions; every other activity type is a step's name."""

JOIN = "claim/join"
"""Activity type that waits for a claim that another workflow made; no step's name contains a `/`."""

WAKE = "wake"
"""Signal that wakes the workflow, so that it reads the journal now."""


MOST_HEADS = 16
"""The most heads in the answer of a call; with more, the work for parallel calls would grow as a square."""


@dataclass(frozen=True, slots=True)
class RunArguments:
    """The only argument of a saga's workflow.

    Attributes:
        run_id: The run.
        store_id: The store that accepted it; a worker on another store refuses it.
    """

    run_id: str
    store_id: str


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The result of a saga's workflow.

    Attributes:
        status: The status in which the run closed.
        position: Position of the fact that closed the run; a store that holds fewer facts is an older copy.
    """

    status: str
    position: int


@dataclass(frozen=True, slots=True)
class AdvanceRequest:
    """A request to append conclusions and to run transactions.

    Attributes:
        run_id: The run.
        store_id: The store that accepted it.
        known: Position up to which the workflow knows the stream; 0 if it knows no fact.
        as_of_ms: The workflow's time, in milliseconds since the epoch.
        cancel: Whether Temporal received a request to cancel the workflow, which means to undo the run.
        seen: The furthest position that the workflow has learned of; it may lack the heads up to there.
    """

    run_id: str
    store_id: str
    known: int
    as_of_ms: int
    cancel: bool = False
    seen: int = 0


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A request to call an effect, its compensation or its probe.

    Attributes:
        run_id: The run.
        store_id: The store that accepted it.
        node: The node.
        direction: `do`, `undo` or `probe`.
        attempt: The attempt that the workflow decided on.
        known: Position up to which the workflow knows the stream.
        as_of_ms: The workflow's time, in milliseconds since the epoch.
    """

    run_id: str
    store_id: str
    node: str
    direction: str
    attempt: int
    known: int
    as_of_ms: int


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """A request to wait until a claim that another workflow made is settled, or its lease ends.

    Attributes:
        run_id: The run.
        store_id: The store that accepted it.
        node: The node.
        direction: `do` or `undo`.
        lease_until_ms: The end of the claim's lease, in milliseconds since the epoch; it identifies the claim.
        known: Position up to which the workflow knows the stream.
        as_of_ms: The workflow's time, in milliseconds since the epoch.
    """

    run_id: str
    store_id: str
    node: str
    direction: str
    lease_until_ms: int
    known: int
    as_of_ms: int


@dataclass(frozen=True, slots=True)
class Progress:
    """News for the workflow: heads, or a whole state, or only a position if there are too many heads.

    Attributes:
        heads: Heads after the known position, as rows.
        state: A state as `dump_state` writes it; `None` if the heads suffice.
        waits: Whether the run waits for other code, because the deployed code cannot do some of the due work.
        reached: The position of the run if the heads are omitted and the workflow must ask for them; else 0.
    """

    heads: list[list[Any]]
    state: dict[str, Any] | None = None
    waits: bool = False
    reached: int = 0

    @classmethod
    def since(cls, record: RunRecord, known: int, *, waits: bool = False) -> "Progress":
        """Return the news about a run after a position.

        Raises:
            StoreBehindError: The store has not reached the position, because it was restored from an older copy.
        """
        check_seen(record.run_id, record.state.position, known)
        heads = record.heads_after(known) if known else None
        if heads is None:
            return cls([], dump_state(record.state), waits)
        return cls([list(head) for head in heads], None, waits)

    @classmethod
    def of_call(cls, record: RunRecord, known: int) -> "Progress":
        """Return the news for the answer of a call: the heads, or only the new position if there are too many heads.

        Parallel calls start at nearly the same position, so each answer would contain the facts of all of them.

        Raises:
            StoreBehindError: The store has not reached the position, because it was restored from an older copy.
        """
        if record.state.position > known + MOST_HEADS:
            return cls([], reached=record.state.position)
        return cls.since(record, known)

    def apply(self, state: RunState | None) -> RunState:
        """Bring a state up to date.

        Raises:
            TransitionError: The heads do not continue the state: journal and workflow disagree.
        """
        if self.state is not None:
            fresh = load_state(self.state)
            return fresh if state is None or fresh.position > state.position else state
        if state is None:
            raise ValueError("a workflow without the state of its run received only new facts")
        return fold(state, (Head(*row) for row in self.heads))


def check_seen(run_id: str, position: int, seen: int) -> None:
    """Refuse to advance a run of which Temporal has seen more than the store holds.

    Call this before any other work on the run, because a fact that is appended first would hide the missing ones.

    Args:
        run_id: The run.
        position: The position of the run in the store.
        seen: The furthest position that Temporal has seen.

    Raises:
        StoreBehindError: The store was restored from an older copy.
    """
    if seen > position:
        raise StoreBehindError(older_store(run_id, position, str(seen)))


def check_store(request: AdvanceRequest | CallRequest | JoinRequest, store_id: str) -> None:
    """Check that a request is for the store of this worker.

    Raises:
        WrongStoreError: The run belongs to another store.
    """
    if request.store_id != store_id:
        raise WrongStoreError(
            f"run {request.run_id!r} belongs to store {request.store_id}, this worker writes to store {store_id}; "
            f"give worker and client the same store_url"
        )


def check_known(request: AdvanceRequest | CallRequest, record: RunRecord | None) -> None:
    """Refuse to advance a run of which Temporal has seen more than the store holds.

    Args:
        request: The request of a workflow, which names the furthest position that Temporal has seen.
        record: The run in the store; `None` if there is no such run.

    Raises:
        StoreBehindError: The store was restored from an older copy.
    """
    if record is not None:
        seen = max(request.known, request.seen) if isinstance(request, AdvanceRequest) else request.known
        check_seen(request.run_id, record.state.position, seen)


def older_store(run_id: str, position: int, seen: str) -> str:
    """Return the error that Temporal has seen more of a run than the store holds.

    Args:
        run_id: The run.
        position: The position of the run in the store.
        seen: The position that Temporal has seen, in words.
    """
    return (
        f"run {run_id!r} is at position {position} in the store, but Temporal has seen position {seen}: "
        f"the store is an older copy; restore a newer one, or decide about the run by hand"
    )
