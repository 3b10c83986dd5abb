"""Switches that make a service go wrong on purpose: counted, never random, so that a demo or a test can be repeated.

They live in memory: a restart forgets them. Switching them off also ends the delays that are being waited out.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from services.values import Body, Key

__all__ = ["Fault", "FaultKind", "Faults"]


class FaultKind(StrEnum):
    """The kinds of fault, and whether the operation takes effect."""

    UNAVAILABLE = "unavailable"
    """503; nothing is applied."""
    DELAY_BEFORE = "delay_before"
    """Waits, then applies: with a timeout shorter than the delay, the call arrives late."""
    DELAY_AFTER = "delay_after"
    """Applies, then waits with the reply."""
    LOSE_REPLY = "lose_reply"
    """Applies, then closes the connection without a reply."""
    GATEWAY_TIMEOUT = "gateway_timeout"
    """Applies, then answers 504."""
    CRASH = "crash"
    """Applies, then the process kills itself with SIGKILL before it replies."""


class Fault(Body):
    """A fault of the next calls that match.

    Attributes:
        kind: The kind of fault.
        times: Number of calls, at least 1.
        op: Only this operation; None for every operation except `find`.
        key: Only this key.
        key_prefix: Only keys that start so.
        delay_ms: For the delays: how long at most, in milliseconds, up to ten minutes.
    """

    kind: Annotated[FaultKind, Field(strict=False)]
    times: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    op: str | None = None
    key: Key | None = None
    key_prefix: Key | None = None
    delay_ms: Annotated[int, Field(ge=0, le=600_000)] = 0

    def matches(self, op: str, key: str | None) -> bool:
        """Whether this call goes wrong; a probe (`find`) does so only when it is named."""
        if op != self.op and (self.op is not None or op == "find"):
            return False
        if self.key is not None and key != self.key:
            return False
        return self.key_prefix is None or (key is not None and key.startswith(self.key_prefix))


class Faults:
    """The switches that are on, oldest first; a call uses up one count of the first that matches.

    Args:
        pending: Those that are on from the start.
    """

    def __init__(self, pending: Iterable[Fault] = ()) -> None:
        self._pending = list(pending)

    def add(self, fault: Fault) -> None:
        """Switch on."""
        self._pending.append(fault)

    def clear(self) -> None:
        """Switch everything off."""
        self._pending.clear()

    def pending(self) -> list[Fault]:
        """The switches that are still on, with their remaining counts."""
        return list(self._pending)

    def take(self, op: str, key: str | None) -> Fault | None:
        """Use up one count for this call; None when it goes well."""
        for index, fault in enumerate(self._pending):
            if fault.matches(op, key):
                if fault.times == 1:
                    del self._pending[index]
                else:
                    self._pending[index] = fault.model_copy(update={"times": fault.times - 1})
                return fault
        return None
