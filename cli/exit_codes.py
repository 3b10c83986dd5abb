"""What the exit status of a command says, and which status an error ends in.

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
        OK: The saga run completed, or the command did what it was asked and found nothing wrong.
        FOUND: A command that looks for something found it.
        USAGE: The command line, a setting, a definition or an input must be corrected; repeating it changes nothing.
        UNREACHABLE: A part (store, Temporal, worker, file) could not be reached or used; it may work later.
        COMPENSATED: The saga run was compensated.
        NEEDS_ATTENTION: The saga run waits for an operator.
        DAMAGED: Stored facts of the run cannot be read. What can be read was printed; nothing was changed.
        INTERNAL: Amends itself failed in a way that it does not know; please report it. Python's own status for
            this, 1, would say that something was found.
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
    INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def exit_code_of(error: BaseException) -> ExitCode:
    """Choose the exit status that an error ends a command with.

    Of a group of errors the gravest counts. Errors of the operating system count as a part that could not be used.
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
