"""A proxy on the loopback interface, which a test cuts and joins again, with or without encryption."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from repository import ROOT

__all__ = ["CA_FILE", "Proxy", "proxy_to"]

CA_FILE = ROOT / "tests/data/tls/server.crt"
"""The certificate of the encrypted proxy, which signs itself."""


class Proxy:
    """Passes bytes between clients and a server.

    Args:
        port: Port of the server on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_cut = False

    def cut(self) -> None:
        """Close all connections, and every new one at once."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def join(self) -> None:
        """Let connections through again."""
        self._is_cut = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        if self._is_cut:
            writer.transport.abort()
            return
        with suppress(OSError):
            upstream, upward = await asyncio.open_connection("127.0.0.1", self._port)
            self._writers |= {writer, upward}
            try:
                await asyncio.gather(_copy(reader, upward), _copy(upstream, writer))
            finally:
                self._writers -= {writer, upward}
                upward.transport.abort()
                writer.transport.abort()


@asynccontextmanager
async def proxy_to(port: int, listen_on: int, *, tls: bool = False) -> AsyncIterator[Proxy]:
    """Run a proxy to a port of 127.0.0.1, on another port."""
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CA_FILE, CA_FILE.with_suffix(".key"))
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", listen_on, ssl=context)
    try:
        yield proxy
    finally:
        proxy.cut()
        server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
