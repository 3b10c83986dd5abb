"""Every error of the domain, under one root.

Messages are one line each: what was wrong, its value, what to do. The command line prints them as they are.
"""

from amends.aggregates.damage import Damage

__all__ = [
    "AmendsError",
    "AppendConflictError",
    "BusyError",
    "CannotContinueError",
    "ChangedEventError",
    "DamagedRunError",
    "DefinitionError",
    "EventError",
    "InputError",
    "JournalError",
    "KeyConflictError",
    "MissingCodeError",
    "NewerFactError",
    "NotFoundError",
    "RefusedError",
    "Rejected",
    "StartConflictError",
    "StoreBehindError",
    "TransitionError",
    "UnitLost",
    "UnitOfWorkError",
    "UnknownTopicError",
    "UnreachableError",
    "WrongDriverError",
    "WrongStoreError",
]


class AmendsError(Exception):
    """Root of every error that Amends raises on purpose."""


class DefinitionError(AmendsError):
    """A saga, step or module is defined wrongly; found before anything runs."""


class InputError(AmendsError):
    """A value that came from outside (input, id, result, setting) cannot be accepted.

    Args:
        message: The message; it may quote the value.
        fault: The same for texts that travel, without any value; `None` where nobody wrote one.
    """

    def __init__(self, message: str, *, fault: str | None = None) -> None:
        super().__init__(message)
        self.fault = fault


class NotFoundError(AmendsError):
    """The named run, saga, step, plan or aggregate does not exist."""


class MissingCodeError(NotFoundError):
    """A run in flight needs a step, compensation, probe or mapping that this process has not loaded."""


class CannotContinueError(MissingCodeError):
    """A run in flight cannot go on with the code that this process has loaded: it waits, and no attempt is used.

    Code may be missing, or stored data may not fit it. The message goes to logs and to Temporal, so it quotes no value.

    Args:
        run_id: The run.
        node: The node at which it waits.
        kind: The kind of thing that is missing or does not fit, a word such as `mapping`.
        why: The cause, as the end of a sentence; without any value of the user's.
        remedy: The command or the change that lets the run go on.
    """

    def __init__(self, run_id: str, node: str, *, kind: str, why: str, remedy: str) -> None:
        super().__init__(f"run {run_id!r} waits at step {node!r}: {why}; {remedy}")
        self.run_id = run_id
        self.node = node
        self.kind = kind
        self.why = why
        self.remedy = remedy


class StartConflictError(AmendsError):
    """A run with this id exists already, with another saga or another input."""


class UnitOfWorkError(AmendsError):
    """A step went on after one of its statements had failed, or used its unit of work after its end."""


class KeyConflictError(AmendsError):
    """An idempotency key came again with another operation or content than the first time; nothing was done."""


class TransitionError(AmendsError):
    """A fact does not follow from the state it was to be folded into."""


class JournalError(AmendsError):
    """The journal's content or schema is not what this version can work with."""


class EventError(JournalError):
    """A stored event cannot be read.

    Args:
        stream: The stream.
        position: Position in the stream.
        problem: The fault, without a remedy.
        remedy: The steps that an operator can take.
    """

    def __init__(self, stream: str, position: int, problem: str, remedy: str) -> None:
        super().__init__(f"stream {stream!r} position {position}: {problem}; {remedy}")
        self.stream = stream
        self.position = position
        self.problem = problem
        self.remedy = remedy


class ChangedEventError(EventError):
    """A stored event does not fit its checksum: it was changed behind the journal's back.

    Args:
        stream: The stream.
        position: Position in the stream.
        problem: The fault, without a remedy.
        remedy: The steps that an operator can take.
        notification_id: Id of the event in the notification log; `None` when it was not read from there.
    """

    def __init__(
        self, stream: str, position: int, problem: str, remedy: str, *, notification_id: int | None = None
    ) -> None:
        super().__init__(stream, position, problem, remedy)
        self.notification_id = notification_id


class UnknownTopicError(EventError):
    """A stored event names a topic that is not on the allow-list; nothing was imported."""


class NewerFactError(EventError):
    """A stored event was written by a newer version than the one that is reading it."""


class DamagedRunError(JournalError):
    """A run's facts cannot all be read, so nothing can be done about the run until they are restored.

    Args:
        damage: The first place that cannot be read.
    """

    def __init__(self, damage: Damage) -> None:
        super().__init__(str(damage))
        self.damage = damage


class AppendConflictError(JournalError):
    """An append did not continue its stream at head + 1; nothing was written.

    Args:
        stream: The stream that was appended to.
        expected: The position that the stream's head must have had.
        actual: The position that it has.
    """

    def __init__(self, stream: str, *, expected: int, actual: int) -> None:
        super().__init__(
            f"stream {stream!r}: expected its head at position {expected}, found {actual}; "
            f"read it again and decide anew"
        )
        self.stream = stream
        self.expected = expected
        self.actual = actual


class UnreachableError(AmendsError):
    """A part that is needed (store, Temporal, worker) could not be reached."""


class WrongStoreError(AmendsError):
    """The run belongs to another store than the one that this process is connected to."""


class WrongDriverError(AmendsError):
    """The run is advanced by another driver than this one."""


class StoreBehindError(AmendsError):
    """The store is older than what Temporal knows of a run: it was restored from a copy, or is another one."""


class RefusedError(AmendsError):
    """What an operator wants to decide does not fit the state of the run; nothing was written."""


class BusyError(UnreachableError):
    """The node is being worked on; what an operator wants to decide has to wait for the end of the claim.

    Args:
        message: What to say.
        until_ms: When the claim ends by itself, in milliseconds since the epoch.
    """

    def __init__(self, message: str, *, until_ms: int) -> None:
        super().__init__(message)
        self.until_ms = until_ms


class UnitLost(BaseException):
    """The transaction of a unit is gone: the unit is run again, whatever its code was doing.

    Not an `Exception`, because a step's code must not take it for a failure of the step.
    """


class Rejected(Exception):  # noqa: N818 - a participant's answer, not a fault of the program
    """The participant said no, and nothing happened.

    Raised by a step, it is the only way to say that the step took no effect: the saga then compensates what was done
    before, and the step itself is neither retried nor compensated.

    Args:
        reason: Why, in words that an operator understands; stored in the journal.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
