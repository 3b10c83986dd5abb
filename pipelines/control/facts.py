"""The facts about a pipeline that are no message: its declaration, its modes, and the decisions of operators. Pure."""

from pydantic import BaseModel, ConfigDict, JsonValue

from amends.pipelines.intake.modes import Mode

__all__ = [
    "PIPELINE_FACTS",
    "LossesAccepted",
    "MessageSkipped",
    "MessagesLost",
    "MessagesReleased",
    "ModeChanged",
    "PipelineDeclared",
    "PipelineFact",
    "PipelinePaused",
    "PipelineResumed",
    "PositionSought",
    "SourceReplaced",
    "SourceRestored",
]


class PipelineFact(BaseModel):
    """The fields of every fact about a pipeline.

    Attributes:
        as_of_ms: Time of the decision or the observation, in milliseconds since the epoch.
        actor: Name of the person or program that decided or observed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of_ms: int
    actor: str


class PipelineDeclared(PipelineFact):
    """The store reads messages with this definition; a second declaration changes it.

    Attributes:
        declaration: The parts of the definition that decide the effect of a message.
        fingerprint: The fingerprint of the declaration.
        mode: The mode in which the pipeline begins; a second declaration does not change the mode.
    """

    declaration: dict[str, JsonValue]
    fingerprint: str
    mode: Mode


class PipelinePaused(PipelineFact):
    """The pipeline takes no further messages.

    Attributes:
        reason: Reason of the pause.
        automatic: Whether the pipeline paused on its own, for example because every key failed.
    """

    reason: str
    automatic: bool


class PipelineResumed(PipelineFact):
    """The pipeline takes messages again."""


class ModeChanged(PipelineFact):
    """A share of the keys has another mode from now on.

    Attributes:
        mode: The mode.
        share: The keys that have it, in percent of all, 0 to 100; the others keep the former mode.
        positions: For each partition, the position from which the mode holds; 0 for a partition that is not named.
        reason: Reason that the person gave.
    """

    mode: Mode
    share: int
    positions: dict[str, int]
    reason: str


class PositionSought(PipelineFact):
    """A person moved the position of a partition.

    Attributes:
        partition: The partition.
        former: The former position; the messages from `former` up to `to` are passed over if `to` is greater.
        to: The position from which the pipeline reads on.
        epoch: The number of times that the position was moved, this time included.
        incarnation: Identity of the topic, stream or file that the positions belong to from now on.
        reason: Reason that the person gave.
    """

    partition: str
    former: int
    to: int
    epoch: int
    incarnation: str
    reason: str


class SourceReplaced(PipelineFact):
    """The topic, stream or file of a partition is another one than the pipeline has read, so the partition stops.

    Attributes:
        partition: The partition.
        expected: The incarnation that the pipeline has read.
        found: The incarnation that it found.
    """

    partition: str
    expected: str
    found: str


class SourceRestored(PipelineFact):
    """The topic, stream or file that the pipeline has read is there again.

    Attributes:
        partition: The partition.
    """

    partition: str


class MessagesLost(PipelineFact):
    """The source no longer has messages that the pipeline has not read.

    Attributes:
        partition: The partition.
        first: Position of the first lost message.
        last: Position of the last one.
    """

    partition: str
    first: int
    last: int


class LossesAccepted(PipelineFact):
    """A person has dealt with the lost messages of a partition.

    Attributes:
        partition: The partition.
        reason: Reason that the person gave.
    """

    partition: str
    reason: str


class MessageSkipped(PipelineFact):
    """A person decided that a held message has no effect.

    Attributes:
        partition: Its partition.
        position: Its position.
        key: Its key; empty if it is unknown.
        message_id: Its id; empty if it is unknown.
        reason: Reason that the person gave.
    """

    partition: str
    position: int
    key: str
    message_id: str
    reason: str


class MessagesReleased(PipelineFact):
    """A person had held messages applied.

    Attributes:
        key: Their key; empty if it is unknown.
        applied: The number of messages that took effect.
        held: The number of messages of the key that are still held.
        reason: Reason that the person gave.
    """

    key: str
    applied: int
    held: int
    reason: str


PIPELINE_FACTS: dict[str, type[PipelineFact]] = {
    cls.__name__: cls
    for cls in (
        PipelineDeclared,
        PipelinePaused,
        PipelineResumed,
        ModeChanged,
        PositionSought,
        SourceReplaced,
        SourceRestored,
        MessagesLost,
        LossesAccepted,
        MessageSkipped,
        MessagesReleased,
    )
}
"""Every kind of fact about a pipeline, by its name."""
