"""The store closes within the bound of a request to stop; after an end that no one requested it has more time."""

import asyncio
from typing import Any, cast

from amends.cli.exit_codes import ExitCode
from amends.cli.runtime.signals import Stop
from amends.cli.runtime.wiring import close_store
from amends.sagas.runtime.deadline import StopDeadline

LOST = "the store does not close in time; writes without acknowledgement may be lost"


class Clock:
    """A clock that a test moves."""

    now = 1_000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


class SlowStore:
    """A store that closes when the test allows it."""

    def __init__(self) -> None:
        self.may_close = asyncio.Event()

    async def close(self) -> None:
        """Wait for the test."""
        await self.may_close.wait()


class Closing:
    """A store that closes after a command has ended normally, ten seconds after its work was done."""

    def __init__(self) -> None:
        self.clock, self.store, self.notes = Clock(), SlowStore(), list[str]()
        self.stop = Stop(ExitCode.OK)
        self.stop.deadline = StopDeadline(now=self.clock)
        self.stop.ends_with(ExitCode.OK, calm=True)
        self.clock.now += 10
        store = cast("Any", self.store)
        self.task = asyncio.create_task(close_store(store, self.stop, note=self.notes.append))


async def let_others_run() -> None:
    """Let every other task run until it waits for the clock or the test."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_slow_close_after_a_normal_end_is_no_loss() -> None:
    """On a busy machine an ordinary close takes longer than five seconds, and says nothing."""
    closing = Closing()
    await let_others_run()
    assert not closing.task.done()
    closing.store.may_close.set()
    await closing.task
    assert closing.notes == []


async def test_a_signal_bounds_the_close() -> None:
    """Five seconds after the signal the command ends without the store, and reports that."""
    closing = Closing()
    await let_others_run()
    closing.stop.request()
    closing.clock.now += 5
    await closing.task
    assert closing.notes == [LOST]


async def test_a_close_that_hangs_ends_without_a_signal() -> None:
    """A command whose store never closes ends, too."""
    closing = Closing()
    await let_others_run()
    closing.clock.now += 30
    await closing.task
    assert closing.notes == [LOST]
