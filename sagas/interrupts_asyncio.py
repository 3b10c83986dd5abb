"""Telling a Ctrl-C from a `KeyboardInterrupt` that user code raises.

The first must end the program; the second is an error like any other, and must not.
"""

import asyncio
import threading
from dis import opname
from types import CodeType

from amends.aggregates.errorreport import is_a, traceback_of

__all__ = ["from_signal"]

_EXPLICIT = ("RAISE", "RERAISE")


def from_signal(error: BaseException) -> bool:
    """Check whether an exception is the `KeyboardInterrupt` of a signal to this process; never raises.

    Python raises that one in the main thread only: between two instructions of any code, or in the signal handler of
    `asyncio.Runner`. A `raise` statement of anybody else is no signal.
    """
    if not is_a(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    last = traceback_of(error)
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return True
    if last.tb_frame.f_globals is vars(asyncio.runners):
        return True
    return not _instruction(last.tb_frame.f_code, last.tb_lasti).startswith(_EXPLICIT)


def _instruction(code: CodeType, at: int) -> str:
    return opname[code.co_code[at]] if 0 <= at < len(code.co_code) else ""
