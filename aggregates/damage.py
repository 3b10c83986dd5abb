"""Damage in the journal as a value: the run or stream, the position, the problem and the remedy. Pure.

Code that reads many runs returns a `Damage` for each unreadable run, and continues with the others.
"""

from dataclasses import dataclass

__all__ = ["RESTORE", "Damage"]

RESTORE = "restore the rows of this stream from a backup (how-to: Repair a run by hand), then run `amends recover`"
"""The remedy for lost or changed rows."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One unreadable place in the journal.

    Attributes:
        run_id: The run whose stream is damaged; `None` for another stream.
        stream: The stream, such as `run/order-1`.
        position: Position of the event in the stream; `None` when the damage is not at one event.
        problem: The fault, without a remedy.
        remedy: The steps that an operator can take.
        version: Whether the only fault is that this program is older than the program that wrote the event.
    """

    run_id: str | None
    stream: str
    position: int | None
    problem: str
    remedy: str
    version: bool = False

    def __str__(self) -> str:
        subject = "" if self.run_id is None else f"run {self.run_id!r} cannot be read: "
        place = "" if self.position is None else f" position {self.position}"
        return f"{subject}stream {self.stream!r}{place}: {self.problem}; {self.remedy}"
