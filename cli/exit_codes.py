"""The meaning of each exit status, and the status that an error leads to.

Scripts and schedulers act on these numbers: they are part of the interface, and one number has one meaning.
"""

from enum import IntEnum

from amends.aggregates.errors import (
    AmendsError,
    AppendConflictError,
    DamagedRunError,
    UnreachableError,
    WrongStoreError,
)

__all__ = ["ExitCode", "exit_code_of"]


class ExitCode(IntEnum):
    """Exit status of every command of `amends`.

    Attributes:
        OK: The saga run completed, or the command did its work and found nothing wrong.
        FOUND: A command that searches for something found it.
        USAGE: The user must correct the command line, a setting, a definition or an input; repeating changes nothing.
        UNREACHABLE: The command could not reach or use a part (store, Temporal, worker, file); it may work later.
        COMPENSATED: The saga run was compensated.
        NEEDS_ATTENTION: The saga run waits for an operator.
        DAMAGED: Some stored facts of the run are unreadable. The command printed the others and changed nothing.
        INTERNAL: Amends itself failed in a way that it does not know; please report it. Python's own status for this,
            1, would mean that the command found something.
        INTERRUPTED: Ctrl-C; accepted runs go on when a worker runs again.
    """

    OK = 0
    FOUND = 1
    USAGE = 2
    UNREACHABLE = 3
    COMPENSATED = 4
    NEEDS_ATTENTION = 5
    DAMAGED = 6
    INTERNAL = 70  # EX_SOFTWARE of BSD's sysexits.h
    INTERRUPTED = 130  # 128 + SIGINT, as in a shell


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit status for an error that ends a command.

    Of a group of errors the gravest counts. An error of the operating system counts as a part that could not be used.
    """
    match error:
        case BaseExceptionGroup():
            return max(exit_code_of(each) for each in error.exceptions)
        case KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case UnreachableError() | WrongStoreError() | AppendConflictError() | OSError():
            return ExitCode.UNREACHABLE
        case DamagedRunError():
            return ExitCode.DAMAGED
        case AmendsError():
            return ExitCode.USAGE
        case _:
            return ExitCode.INTERNAL
