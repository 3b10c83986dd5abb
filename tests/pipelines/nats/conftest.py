"""A NATS server for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from brokers.nats import NatsServer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """Run a server with JetStream."""
    running = NatsServer(tmp_path / "nats")
    await running.start()
    yield running
    running.close()
