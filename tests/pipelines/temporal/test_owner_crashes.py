"""Owners of partitions are killed, suspended and ended: another one takes over, and each message is applied once."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from owners.owner_process import Owners, until


async def test_another_worker_takes_over_from_a_killed_owner(
    temporal_address: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """After `kill -9` of the owner, another worker continues at its position, and no message is lost or doubled."""
    owners = Owners(tmp_path, temporal_address, "killed")
    async with owners.process() as one, owners.process() as other:
        owner = await owners.until_owned()
        killed, heir = (one, other) if owner == one.pid else (other, one)
        killed.send(signal.SIGKILL)
        await owners.until_owned(by=heir)
        record_property("take-over / heartbeat", owners.ledger.gap("0") / owners.heartbeat_s)
    owners.ledger.check("0")
    assert {each.pid for each in owners.ledger.applied("0")} == {one.pid, other.pid}


@pytest.mark.soak
async def test_an_owner_that_wakes_after_a_suspension_is_fenced(
    temporal_address: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A suspended owner is replaced; when it wakes, it applies nothing more, and its successor keeps the partition."""
    owners = Owners(tmp_path, temporal_address, "suspended")
    async with owners.process() as one, owners.process() as other:
        owner = await owners.until_owned()
        asleep, heir = (one, other) if owner == one.pid else (other, one)
        await asleep.suspend(owners.ledger)
        await owners.until_owned(by=heir)
        record_property("take-over / heartbeat", owners.ledger.gap("0") / owners.heartbeat_s)
        token = owners.ledger.token("0")
        asleep.send(signal.SIGCONT)
        first = owners.ledger.last("0")
        assert first is not None
        # As many batches as a process needs to notice, and to do its worst.
        await until(lambda: (last := owners.ledger.last("0")) is not None and last.number > first.number + 150)
        assert owners.ledger.token("0") == token
        last = owners.ledger.last("0")
        assert last is not None
        assert last.pid == heir.pid
    owners.ledger.check("0")


async def test_an_owner_that_ends_hands_its_partition_over(
    temporal_address: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """After SIGTERM the owner ends its batch and its slice, so the next slice waits for no heartbeat timeout."""
    owners = Owners(tmp_path, temporal_address, "ended", heartbeat_s=60)
    async with owners.process() as one, owners.process() as other:
        owner = await owners.until_owned()
        ending, heir = (one, other) if owner == one.pid else (other, one)
        before = owners.ledger.token("0")
        ending.send(signal.SIGTERM)
        await owners.until_owned(by=heir)
        assert await ending.ended() == 0
        after = owners.ledger.token("0")
        assert before is not None
        # A new slice, and no second attempt at the old one: that would have waited for the timeout.
        assert after == (before.slice + 1, 1)
        assert ending.said[-1] == "ended"
        record_property("take-over in s", owners.ledger.gap("0"))
    owners.ledger.check("0")
