"""A real NATS server with JetStream, on a port of its own."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import nats
from bounds import HANG_S
from nats.aio.client import Client
from nats.js.api import StreamConfig

from amends.sagas.temporal.server.ports import free_port

__all__ = ["NatsServer"]


class NatsServer:
    """A server, and the operations that tests need.

    Args:
        folder: Folder for its streams and its log.
        options: Further lines of its configuration.
        jetstream: Whether it has JetStream.
    """

    def __init__(self, folder: Path, options: str = "", *, jetstream: bool = True) -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        store = f'jetstream {{ store_dir: "{folder / "streams"}", max_file_store: 1GB }}' if jetstream else ""
        self._options = f"{options}\n{store}\n"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        settings = self._folder / "server.conf"
        settings.write_text(f"listen: 127.0.0.1:{self.port}\n{self._options}")
        program = Path(sys.executable).with_name("nats-server")
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([program, "-c", settings], stdout=log, stderr=log)  # noqa: ASYNC220
        async with asyncio.timeout(HANG_S):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    await writer.wait_closed()
                    return
                assert self._process.poll() is None, (self._folder / "log").read_text()
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        """Kill the server, as `kill -9` does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Stop the process for a while; connections stay open."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a stopped process go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the server; do nothing if it has ended."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    async def client(self) -> Client:
        """Connect a client of the test."""
        return await nats.connect(self.url)

    async def create(self, stream: str, *subjects: str, **settings: int) -> None:
        """Create a stream for subjects; for its own name if none is given."""
        client = await self.client()
        names = list(subjects or [stream])
        await client.jetstream().add_stream(StreamConfig(name=stream, subjects=names, **settings))  # type: ignore[arg-type]
        await client.close()

    async def delete(self, stream: str) -> None:
        """Delete a stream."""
        client = await self.client()
        await client.jetstream().delete_stream(stream)
        await client.close()

    async def publish(self, subject: str, values: Sequence[bytes], headers: dict[str, str] | None = None) -> None:
        """Publish messages, and wait until the stream has stored them."""
        client = await self.client()
        context = client.jetstream(publish_async_max_pending=100_000)
        futures = [await context.publish_async(subject, value, headers=headers) for value in values]
        await asyncio.gather(*futures)
        await client.close()

    async def consumers(self, stream: str) -> int:
        """Return the number of consumers of a stream."""
        client = await self.client()
        info = await client.jetstream().stream_info(stream)
        await client.close()
        return info.state.consumer_count
