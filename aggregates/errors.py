"""Every error of the domain, under one root.

Each message is one line: the problem, the value that caused it, and the remedy. The command line prints messages
unchanged.
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
    """A saga, step or module has a wrong definition; Amends detects it before anything runs."""


class InputError(AmendsError):
    """Amends cannot accept a value that came from outside (input, id, result, setting).

    Args:
        message: The message; it may quote the value.
        fault: The message without any value, for text that leaves the process; `None` when there is no such version.
    """

    def __init__(self, message: str, *, fault: str | None = None) -> None:
        super().__init__(message)
        self.fault = fault


class NotFoundError(AmendsError):
    """The named run, saga, step, plan or aggregate does not exist."""


class MissingCodeError(NotFoundError):
    """A run in flight needs a step, compensation, probe or mapping that this process has not loaded."""


class CannotContinueError(MissingCodeError):
    """A run in flight cannot go on with the code that this process has loaded. It waits and uses up no attempt.

    Code may be missing, or stored data may not fit it. The message goes to logs and to Temporal, so it quotes
    no value.

    Args:
        run_id: The run.
        node: The node at which it waits.
        kind: One word, such as `mapping`, for the thing that is missing or does not fit.
        why: The cause, as the end of a sentence; it contains no user data.
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
    """A step continued after one of its statements had failed, or used its unit of work after the step had ended."""


class KeyConflictError(AmendsError):
    """A call repeated an idempotency key with another operation or content than the first call; it had no effect."""


class TransitionError(AmendsError):
    """A fact does not follow from the state that it was applied to."""


class JournalError(AmendsError):
    """This version cannot work with the journal's content or schema."""


class EventError(JournalError):
    """This program cannot read a stored event.

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
    """A stored event does not match its checksum: something other than the journal changed it.

    Args:
        stream: The stream.
        position: Position in the stream.
        problem: The fault, without a remedy.
        remedy: The steps that an operator can take.
        notification_id: Id of the event in the notification log; `None` when the reader did not read that log.
    """

    def __init__(
        self, stream: str, position: int, problem: str, remedy: str, *, notification_id: int | None = None
    ) -> None:
        super().__init__(stream, position, problem, remedy)
        self.notification_id = notification_id


class UnknownTopicError(EventError):
    """A stored event names a topic that is not on the allow-list; the codec imported nothing."""


class NewerFactError(EventError):
    """A newer version than this one wrote the stored event."""


class DamagedRunError(JournalError):
    """Some facts of a run are unreadable, so no one can act on the run until the facts are restored.

    Args:
        damage: The first unreadable place.
    """

    def __init__(self, damage: Damage) -> None:
        super().__init__(str(damage))
        self.damage = damage


class AppendConflictError(JournalError):
    """An append did not continue its stream at head + 1; the journal wrote nothing.

    Args:
        stream: The stream.
        expected: The position of the stream's head that the writer assumed.
        actual: The real position of the head.
    """

    def __init__(self, stream: str, *, expected: int, actual: int) -> None:
        super().__init__(
            f"stream {stream!r}: expected its head at position {expected}, found {actual}; "
            f"read the stream again and repeat the decision"
        )
        self.stream = stream
        self.expected = expected
        self.actual = actual


class UnreachableError(AmendsError):
    """Amends could not reach a part that it needs (store, Temporal, worker)."""


class WrongStoreError(AmendsError):
    """The run belongs to another store than the one that this process is connected to."""


class WrongDriverError(AmendsError):
    """Another driver than this one advances the run."""


class StoreBehindError(AmendsError):
    """The store is older than Temporal's knowledge of a run: it was restored from a copy, or it is another store."""


class RefusedError(AmendsError):
    """An operator's decision does not fit the state of the run; the journal wrote nothing."""


class BusyError(UnreachableError):
    """A worker has claimed the node; the operator's decision has to wait until the claim ends.

    Args:
        message: The message.
        until_ms: Time at which the claim expires, in milliseconds since the epoch.
    """

    def __init__(self, message: str, *, until_ms: int) -> None:
        super().__init__(message)
        self.until_ms = until_ms


class UnitLost(BaseException):
    """A unit has lost its transaction; the committer runs the unit again, wherever its code was.

    It is not an `Exception`, so that the code of a step does not catch it as a failure of the step.
    """


class Rejected(Exception):  # noqa: N818 - a participant's answer, not a fault of the program
    """The participant refused the call, and the call had no effect.

    A step that raises it declares that it took no effect; there is no other way to declare that. The saga then
    compensates the earlier steps, and neither retries nor compensates this one.

    Args:
        reason: The reason, in words that an operator understands; the journal stores it.
    """

    def __init__(self, reason: str = "no reason was given") -> None:
        super().__init__(reason)
        self.reason = reason
