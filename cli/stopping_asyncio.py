"""Ending a command from outside: Ctrl-C, a closed terminal, or `kill`."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["stop_requests"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_requests() -> Iterator[asyncio.Event]:
    """Give an event that is set by the first signal to stop; the second one ends the process as it would any other.

    Signals that the process was told to ignore (`nohup`, background jobs of a script) are left ignored.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    heard = [each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]

    def request() -> None:
        stop.set()
        release()

    def release() -> None:
        while heard:
            loop.remove_signal_handler(heard.pop())

    for each in heard:
        loop.add_signal_handler(each, request)
    try:
        yield stop
    finally:
        release()
