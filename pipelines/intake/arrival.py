"""A message that is ready for the unit of its batch: decoded, with the hash of its id and the run that it starts. Pure.

Everything that can be computed without the store is computed here, before the batch takes the writer's lock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amends.aggregates.errors import InputError
from amends.aggregates.intake import HeldKind
from amends.aggregates.values.error_report import ErrorReport, describe
from amends.pipelines.definition.decoding import Refused, decode
from amends.pipelines.definition.pipeline import Pipeline
from amends.pipelines.intake.remember import id_hash
from amends.pipelines.source import RawMessage

__all__ = ["Arrival", "Prepare", "arrive", "fault_of"]

Prepare = Callable[[str, Any], Any]
"""Function from the id and the content of a message to the subject of its work; it may raise anything."""


@dataclass(slots=True)
class Arrival:
    """A message that is ready for its batch.

    Attributes:
        raw: The message as it came.
        id: Its id; empty if it is unknown.
        key: Its key; empty if it is unknown.
        hash: 16 bytes: the hash of its id.
        digest: 8 bytes: the digest of its content.
        sequence: The number that its producer counts for each key; `None` if there is none.
        subject: The content for a handler, or the start of a run; `None` with a fault.
        fault: Reason for which it cannot be applied, in one line without content; empty if there is none.
        kind: Kind under which the store holds it because of its fault.
    """

    raw: RawMessage
    id: str
    key: str
    hash: bytes = b""
    digest: bytes = b""
    sequence: int | None = None
    subject: Any = None
    fault: str = ""
    kind: HeldKind = HeldKind.UNDECODABLE


def arrive(pipeline: Pipeline[Any], raw: RawMessage, prepare: Prepare | None = None) -> Arrival:
    """Decode a message and prepare its work.

    Args:
        pipeline: The pipeline.
        raw: The message as it came.
        prepare: Function that prepares its work; `None` if the work takes the content as it is.

    Raises:
        UnreachableError: The pipeline's `decode` cannot reach a part that it needs.
    """
    decoded = decode(pipeline, raw)
    if isinstance(decoded, Refused):
        return Arrival(raw, decoded.id, decoded.key, fault=decoded.reason)
    arrival = Arrival(
        raw, decoded.id, decoded.key, id_hash(decoded.id), decoded.digest, decoded.sequence, decoded.content
    )
    if prepare is not None:
        try:
            arrival.subject = prepare(decoded.id, decoded.content)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a user's function may raise anything
            arrival.subject, arrival.fault, arrival.kind = None, fault_of(error), HeldKind.FAILED
    return arrival


def fault_of(error: BaseException) -> str:
    """Return the class of an error and the place in the user's code that raised it, in one line; never raises.

    It quotes no message, because a message may quote content. Equal faults of two messages are equal text.
    """
    report: ErrorReport = describe(error)
    frames = report.chain[0].frames
    place = f" at {frames[-1]}" if frames else ""
    if isinstance(error, InputError) and error.fault:
        return f"{report.error_type}{place}: {error.fault}"
    return f"{report.error_type}{place}"
