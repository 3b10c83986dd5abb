"""Temporal goes away and returns, loses its data, and distributes partitions again: each message is applied once."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from owners.owner_process import OwnerProcess, Owners, until
from temporal_parts import TemporalServer

from amends.aggregates.intake import Token

Record = Callable[[str, object], None]


def tokens_of(owners: Owners) -> dict[str, Token]:
    """Return the token of each partition."""
    return {name: token for name in owners.names if (token := owners.ledger.token(name)) is not None}


def owned_by(owners: Owners) -> Counter[int]:
    """Count the partitions in which a process committed last, by process."""
    return Counter(last.pid for name in owners.names if (last := owners.ledger.last(name)) is not None)


async def until_all_move(owners: Owners) -> None:
    """Wait until there have been further commits in every partition."""
    for name in owners.names:
        await owners.until_owned(name)


async def until_new_slices(owners: Owners, after: dict[str, Token]) -> None:
    """Wait until every partition has a later slice than before."""
    await until(lambda: all(token.slice > after[name].slice for name, token in tokens_of(owners).items()))
    await until_all_move(owners)


def conclude(owners: Owners, record: Record) -> None:
    """Check every partition, and record the longest time in which a partition had no commit."""
    for name in owners.names:
        owners.ledger.check(name)
    record("longest gap in s", max(owners.ledger.gap(name) for name in owners.names))


@pytest.mark.soak
@pytest.mark.parametrize("outage_s", [30, 300])
async def test_owners_go_on_while_temporal_is_away(
    temporal_executable: Path, tmp_path: Path, record_property: Record, outage_s: int
) -> None:
    """Owners keep their partitions through an outage beyond every timeout; a worker that starts meanwhile gets none."""
    server = TemporalServer(temporal_executable, tmp_path)
    owners = Owners(tmp_path, server.address, "away", partitions=4, slice_s=3)
    async with AsyncExitStack() as processes:
        with server.serving():
            for _ in range(2):
                await processes.enter_async_context(owners.process())
            await until_all_move(owners)
            await until(lambda: len(owned_by(owners)) > 1)
        before, holders = tokens_of(owners), owned_by(owners)
        late = OwnerProcess(owners)
        assert await late.ended() != 0
        assert any("cannot be reached" in line for line in late.said)
        await asyncio.sleep(outage_s)
        await until_all_move(owners)
        # A slice that ended as the server stopped would have left its partition alone.
        assert (tokens_of(owners), owned_by(owners)) == (before, holders)
        conclude(owners, record_property)
        with server.serving():
            await until_new_slices(owners, before)
            conclude(owners, record_property)


@pytest.mark.soak
async def test_owners_survive_the_loss_of_all_workflows(
    temporal_executable: Path, tmp_path: Path, record_property: Record
) -> None:
    """When Temporal loses its data, workers start the workflows again, whose numbers go on above those in the store."""
    server = TemporalServer(temporal_executable, tmp_path)
    owners = Owners(tmp_path, server.address, "lost", partitions=2, slice_s=2)
    async with AsyncExitStack() as processes:
        with server.serving():
            for _ in range(2):
                await processes.enter_async_context(owners.process())
            await until(lambda: all(each.slice > 2 for each in tokens_of(owners).values()))
            await until_all_move(owners)
        before = tokens_of(owners)
        server.lose()
        with server.serving():
            await until_new_slices(owners, before)
            conclude(owners, record_property)


@pytest.mark.soak
async def test_partitions_spread_over_the_workers_that_there_are(
    temporal_address: str, tmp_path: Path, record_property: Record
) -> None:
    """A worker that starts gets a share of the partitions, and one that ends leaves its own to the others."""
    owners = Owners(tmp_path, temporal_address, "spread", partitions=8, slice_s=3, heartbeat_s=10)
    async with owners.process() as one:
        await until_all_move(owners)
        before = tokens_of(owners)
        async with owners.process() as other:
            await until(lambda: owned_by(owners)[other.pid] >= 3)
            after = tokens_of(owners)
            record_property("slices", sum(after[name].slice - before[name].slice for name in owners.names) / 8)
            record_property("partitions of the second worker", owned_by(owners)[other.pid])
            await until_new_slices(owners, after)
            record_property("partitions of the second worker, later", owned_by(owners)[other.pid])
            one.send(signal.SIGTERM)
            assert await one.ended() == 0
            await until_all_move(owners)
            assert owned_by(owners) == {other.pid: 8}
            assert {token.attempt for token in tokens_of(owners).values()} == {1}
    conclude(owners, record_property)
