"""What travels through Temporal: ids, positions, times and heads; never user data."""

from dataclasses import dataclass
from typing import Any

from amends.aggregates.errors import StoreBehindError
from amends.aggregates.run.facts import Head
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import RunState, dump_state, load_state
from amends.aggregates.run.transitions import fold

__all__ = [
    "ADVANCE",
    "DRIVER",
    "JOIN",
    "NUDGE",
    "AdvanceRequest",
    "CallRequest",
    "Progress",
    "RunArguments",
    "RunEnd",
    "activity_name",
    "check_seen",
    "older_store",
]

DRIVER = "temporal"
"""Name of this driver, as `SagaStarted` and `DriverTaken` have it."""

ADVANCE = "advance"
"""Activity type that appends what needs no call; every other activity type is a step's name."""

JOIN = "claim/join"
"""Activity type that waits for a claim which the workflow has not asked for; no step's name has a `/`."""

NUDGE = "nudge"
"""Signal that says: look at the journal."""


MOST_HEADS = 16
"""How many heads the answer of a call brings, at most; with more, the work for calls side by side grows as a square."""


@dataclass(frozen=True, slots=True)
class RunArguments:
    """The only argument of a saga's workflow.

    Attributes:
        run_id: The run.
        store_id: The store that accepted it; a worker on another one refuses it.
    """

    run_id: str
    store_id: str


@dataclass(frozen=True, slots=True)
class RunEnd:
    """What a saga's workflow returns.

    Attributes:
        status: The status in which the run closed.
        position: Position of the fact that closed it; a store that has not come that far is an older copy.
    """

    status: str
    position: int


@dataclass(frozen=True, slots=True)
class AdvanceRequest:
    """Asks to append what follows without a call.

    Attributes:
        run_id: The run.
        store_id: The store that accepted it.
        known: Position up to which the workflow knows the stream; 0 for nothing.
        as_of_ms: The workflow's time, in milliseconds since the epoch.
        cancel: Whether Temporal was asked to cancel the workflow, which is to ask for the run to be undone.
        seen: The furthest position that the workflow was told of, whose heads it may lack.
    """

    run_id: str
    store_id: str
    known: int
    as_of_ms: int
    cancel: bool = False
    seen: int = 0


@dataclass(frozen=True, slots=True)
class CallRequest:
    """Asks to call an effect, its compensation or its probe.

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
    """Asks to wait until a claim that somebody else has made is settled, or has ended.

    Attributes:
        run_id: The run.
        store_id: The store that accepted it.
        node: The node.
        direction: `do` or `undo`.
        lease_until_ms: When the claim ends, in milliseconds since the epoch; it tells one claim from another.
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
    """What the workflow does not know yet: heads, or a whole state, or only a position, when they would be too many.

    Attributes:
        heads: Heads after the known position, as rows.
        state: A state as `dump_state` writes it; `None` when it is not needed.
        waits: Whether the deployed code cannot do something that is due, so that the run waits for other code.
        reached: Where the run stands, when the heads are left out and are to be asked for; 0 when they are not.
    """

    heads: list[list[Any]]
    state: dict[str, Any] | None = None
    waits: bool = False
    reached: int = 0

    @classmethod
    def since(cls, record: RunRecord, known: int, *, waits: bool = False) -> "Progress":
        """Return how a run went on after a position.

        Raises:
            StoreBehindError: The run has not come that far in this store, which was restored from an older copy.
        """
        check_seen(record.run_id, record.state.position, known)
        heads = record.heads_after(known) if known else None
        if heads is None:
            return cls([], dump_state(record.state), waits)
        return cls([list(head) for head in heads], None, waits)

    @classmethod
    def of_call(cls, record: RunRecord, known: int) -> "Progress":
        """Return what the answer of a call says: how the run went on, or only how far when that is much.

        Of calls side by side, each began at nearly the same position. So each would bring what all of them wrote.

        Raises:
            StoreBehindError: The run has not come that far in this store, which was restored from an older copy.
        """
        if record.state.position > known + MOST_HEADS:
            return cls([], reached=record.state.position)
        return cls.since(record, known)

    def apply(self, state: RunState | None) -> RunState:
        """Bring a state up to date.

        Raises:
            TransitionError: The heads do not follow; the journal and this workflow have parted.
        """
        if self.state is not None:
            fresh = load_state(self.state)
            return fresh if state is None or fresh.position > state.position else state
        if state is None:
            raise ValueError("a workflow that knows nothing of its run was told only what is new")
        return fold(state, (Head(*row) for row in self.heads))


def check_seen(run_id: str, position: int, seen: int) -> None:
    """Refuse to go on with a run of which Temporal has seen more than the store holds.

    To be called before anything is done: what is appended first would hide what is missing.

    Args:
        run_id: The run.
        position: Where it stands in the store.
        seen: Where Temporal has seen it.

    Raises:
        StoreBehindError: The store was restored from an older copy.
    """
    if seen > position:
        raise StoreBehindError(older_store(run_id, position, str(seen)))


def older_store(run_id: str, position: int, seen: str) -> str:
    """Say that Temporal has seen more of a run than the store holds.

    Args:
        run_id: The run.
        position: Where it stands in the store.
        seen: The position that Temporal has seen, in words.
    """
    return (
        f"run {run_id!r} is at position {position} in the store, but Temporal has seen position {seen}: "
        f"the store is an older copy; restore a newer one, or decide about the run by hand"
    )


def activity_name(step: str, direction: str) -> str:
    """Name the activity type of one of a step's functions, so that Temporal's own pages read well."""
    return {"do": step, "undo": f"{step}.compensation", "probe": f"{step}.probe"}[direction]
