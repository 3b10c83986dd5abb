"""Connections to Temporal, and the output when they break."""

import asyncio
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta

import pytest
from temporalio.service import RPCError

from amends.sagas.temporal.connection import TemporalTarget, connect


async def test_a_temporal_that_goes_away_is_not_announced_by_the_sdk(
    temporal_address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The SDK's core repeats failed calls and prints nothing; our code reports the fault, once."""
    host, _, port = temporal_address.rpartition(":")
    relays: list[asyncio.Task[None]] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        relays.extend(asyncio.create_task(pump(*pair)) for pair in ((reader, back), (there, writer)))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            try:
                while chunk := await reader.read(65_536):
                    writer.write(chunk)
                    await writer.drain()
            finally:
                writer.transport.abort()

    between = await asyncio.start_server(relay, "127.0.0.1", 0)
    client = await connect(TemporalTarget(f"127.0.0.1:{between.sockets[0].getsockname()[1]}"))
    between.close()
    for task in relays:
        task.cancel()
    with pytest.raises(RPCError):
        await client.get_workflow_handle("nobody").describe(rpc_timeout=timedelta(seconds=4))
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_a_program_keeps_the_levels_of_its_own_logs() -> None:
    """The client and the worker change no level of the SDK's logs, which the activities of the program use as well."""
    code = "import logging; from amends import Client, Worker; print(logging.getLogger('temporalio').level)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["0"]
