"""The state of a pipeline: the fold of its facts, and the stream that holds them. Pure."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from eventsourcing.domain import event
from pydantic import BaseModel, ConfigDict

from amends.aggregates.events.fact_stream import FactStream
from amends.aggregates.journal import StepWork
from amends.pipelines.control.facts import (
    PIPELINE_FACTS,
    LossesAccepted,
    MessageSkipped,
    MessagesLost,
    MessagesReleased,
    ModeChanged,
    PipelineDeclared,
    PipelineFact,
    PipelinePaused,
    PipelineResumed,
    PositionSought,
    SourceReplaced,
    SourceRestored,
)
from amends.pipelines.intake.modes import Mode

__all__ = ["ALL", "Losses", "PipelineControl", "PipelineState", "control_of", "percentile_of", "state_in"]

ALL = 100
"""The share of a mode that every key has, in percent."""


class Losses(BaseModel):
    """Messages of a partition that the source lost before the pipeline read them.

    Attributes:
        count: The number of lost positions.
        first: The first of them.
        last: The last of them.
    """

    model_config = ConfigDict(frozen=True)

    count: int
    first: int
    last: int


class PipelineState(BaseModel):
    """The current state of a pipeline.

    Attributes:
        declared: The fact that declares it; `None` if it has never run.
        paused: The fact that pauses it; `None` if it is not paused.
        mode: The mode of the keys within the share.
        share: The percentage of keys in that mode.
        former: The mode of the other keys.
        mode_changed: The fact that changed the mode last; `None` if it has the mode in which it began.
        replaced: The partitions that stopped because their source is another one.
        losses: Lost messages that nobody has dealt with, by partition.
        lost: The number of all messages that were lost.
        skipped: The number of held messages that persons skipped.
        released: The number of held messages that persons had applied.
    """

    model_config = ConfigDict(frozen=True)

    declared: PipelineDeclared | None = None
    paused: PipelinePaused | None = None
    mode: Mode = Mode.EXACTLY_ONCE
    share: int = ALL
    former: Mode = Mode.EXACTLY_ONCE
    mode_changed: ModeChanged | None = None
    replaced: dict[str, SourceReplaced] = {}
    losses: dict[str, Losses] = {}
    lost: int = 0
    skipped: int = 0
    released: int = 0

    @property
    def uniform_mode(self) -> Mode | None:
        """The mode that every key has; `None` if there are two."""
        if self.mode is self.former or self.share == ALL:
            return self.mode
        return self.former if self.share == 0 else None

    @property
    def modes(self) -> frozenset[Mode]:
        """The modes that keys have."""
        uniform = self.uniform_mode
        return frozenset({self.mode, self.former} if uniform is None else {uniform})

    def mode_of(self, key: str) -> Mode:
        """Return the mode of the messages of a key."""
        uniform = self.uniform_mode
        if uniform is not None:
            return uniform
        return self.mode if percentile_of(key) < self.share else self.former

    def mode_since(self, partition: str) -> int | None:
        """Return the position of a partition from which the modes hold; `None` if they have held from its beginning."""
        return None if self.mode_changed is None else self.mode_changed.positions.get(partition, 0)

    @property
    def attention(self) -> tuple[str, ...]:
        """The conditions that a person has to deal with, a line each."""
        lines = [f"paused automatically: {self.paused.reason}"] if self.paused and self.paused.automatic else []
        lines += [
            f"partition {partition} stopped: its source is another one than the pipeline has read"
            for partition in self.replaced
        ]
        lines += [
            f"partition {partition}: the source lost {each.count} messages, positions {each.first} to {each.last}"
            for partition, each in self.losses.items()
        ]
        return tuple(lines)

    def apply(self, fact: PipelineFact) -> "PipelineState":
        """Fold one more fact."""
        return self.model_copy(update=_changes(fact, self))


def percentile_of(key: str) -> int:
    """Return the place of a key among all keys, 0 to 99; it never changes."""
    hashed = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, person=b"amends mode").digest()
    return int.from_bytes(hashed) % ALL


def _changes(fact: PipelineFact, state: PipelineState) -> dict[str, Any]:
    match fact:
        case PipelineDeclared():
            begins = {"mode": fact.mode, "former": fact.mode} if state.declared is None else {}
            return {"declared": fact, **begins}
        case PipelinePaused():
            return {"paused": fact}
        case PipelineResumed():
            return {"paused": None}
        case ModeChanged():
            return {"mode": fact.mode, "share": fact.share, "former": _former(fact, state), "mode_changed": fact}
        case MessageSkipped():
            return {"skipped": state.skipped + 1}
        case MessagesReleased():
            return {"released": state.released + fact.applied}
        case _:
            return _changes_of_partition(fact, state)


def _changes_of_partition(fact: PipelineFact, state: PipelineState) -> dict[str, Any]:
    match fact:
        case PositionSought() | SourceRestored():
            return {"replaced": _without(state.replaced, fact.partition)}
        case SourceReplaced():
            return {"replaced": {**state.replaced, fact.partition: fact}}
        case MessagesLost():
            count = fact.last - fact.first + 1
            known = state.losses.get(fact.partition, Losses(count=0, first=fact.first, last=fact.last))
            losses = Losses(count=known.count + count, first=known.first, last=fact.last)
            return {"lost": state.lost + count, "losses": {**state.losses, fact.partition: losses}}
        case LossesAccepted():
            return {"losses": _without(state.losses, fact.partition)}
        case _:
            return {}


def _former(fact: ModeChanged, state: PipelineState) -> Mode:
    """Return the mode of the keys outside of the share."""
    if fact.mode is state.mode and state.uniform_mode is None:
        return state.former
    return state.uniform_mode or state.mode


def _without(partitions: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in partitions.items() if each != name}


class PipelineControl(FactStream, facts=PIPELINE_FACTS.values(), folds="state"):
    """The stream of a pipeline; its id is the pipeline's name."""

    CATEGORY = "pipeline"
    # Raise it whenever `PipelineState` folds differently: snapshots know only the code of this class.
    FOLD = 1

    @event("PipelineOpened")
    def __init__(self, id: str, state: PipelineState) -> None:  # noqa: A002, ARG002 - the signature of aggregates
        # The event carries the empty value so that snapshots know its type.
        self.state = state


def state_in(control: PipelineControl | None) -> PipelineState:
    """Return the state in a pipeline's stream; the empty one if the store has no such stream."""
    return PipelineState() if control is None else control.state


def control_of(uow: StepWork, pipeline: str) -> PipelineControl:
    """Load a pipeline's stream, or create it."""
    return uow.find(PipelineControl, pipeline) or uow.add(PipelineControl(id=pipeline, state=PipelineState()))
