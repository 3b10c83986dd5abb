"""`NatsLink`: a connection to NATS that is opened when it is needed, and again after it was lost."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import nats
from nats.aio.client import Client
from nats.errors import AuthorizationError, Error, NoServersError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError, ServerError, ServiceUnavailableError

from amends.aggregates.errors import AmendsError, UnreachableError
from amends.aggregates.text import one_line
from amends.pipelines.definition.access import Access

__all__ = ["REPLY_S", "NatsLink"]

CONNECT_S = 10.0
"""Longest time to connect, in seconds."""

REPLY_S = 5.0
"""Longest wait for one reply of the server, in seconds."""

_REFUSALS = re.compile(r"authorization|authentication|permissions|credentials|account", re.IGNORECASE)
_PASSWORD = re.compile(r"//[^/@]*@")


class NatsLink:
    """A connection to NATS. It does not connect again without a call, so that no message is lost unnoticed.

    Args:
        servers: URLs, separated by commas.
        access: Credentials and certificates.
        setup: Class of the error for which a retry does not help.
        unreachable: Class of the error that a later attempt may not have.
    """

    def __init__(
        self, servers: str, access: Access, *, setup: type[AmendsError], unreachable: type[UnreachableError]
    ) -> None:
        self.name = f"NATS at {_PASSWORD.sub('//', servers)}"
        self.setup = setup
        self.unreachable = unreachable
        self._servers = [server.strip() for server in servers.split(",")]
        self._access = access
        self._client: Client | None = None
        self._context: JetStreamContext | None = None
        self._error: Exception | None = None
        self._connecting = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """Whether there is a connection at present."""
        return self._client is not None and self._client.is_connected

    async def client(self) -> Client:
        """Return the connection; open it if there is none.

        Raises:
            AmendsError: Of the class `setup`: the server refuses the credentials or certificates.
            UnreachableError: Of the class `unreachable`: the server does not answer.
        """
        async with self._connecting:
            if self._client is None or not self._client.is_connected:
                await self.close()
                self._client = await self._connect()
                self._context = self._client.jetstream(timeout=REPLY_S)
            return self._client

    async def jetstream(self) -> JetStreamContext:
        """Return JetStream of the connection; open it if there is none. Raises the errors of `client`."""
        await self.client()
        assert self._context is not None  # noqa: S101 - `client` has set it
        return self._context

    @asynccontextmanager
    async def reporting(self, what: str, *, missing: str = "does not exist") -> AsyncIterator[None]:
        """Raise errors of the client as those of the port.

        Args:
            what: The thing that a call is about, such as `stream 'ORDERS'`.
            missing: The end of the message if the server does not know it.
        """
        self._error = None
        try:
            yield
        except NotFoundError as error:
            raise self.setup(f"{what} {missing} ({self.name})") from error
        except (ServiceUnavailableError, ServerError) as error:
            reason = error.description or "no reply from JetStream; is it enabled (nats-server --jetstream)?"
            raise self.unreachable(f"{self.name} cannot serve {what}: {one_line(reason)}") from error
        except APIError as error:
            raise self.setup(f"{self.name} refuses {what}: {one_line(error.description or str(error))}") from error
        except (TimeoutError, Error, OSError) as error:
            if self._error is not None and _REFUSALS.search(str(self._error)):
                raise self.setup(f"{self.name} refuses {what}: {one_line(str(self._error))}") from error
            raise self.unreachable(f"{self.name} does not answer about {what}: {_reason(error)}") from error

    async def close(self) -> None:
        """Close the connection; the next call opens it again."""
        client, self._client, self._context = self._client, None, None
        if client is not None:
            with suppress(Error, OSError, asyncio.TimeoutError):
                await asyncio.wait_for(client.close(), REPLY_S)

    async def _connect(self) -> Client:
        self._error = None
        access = self._access
        context = self._tls()
        try:
            return await asyncio.wait_for(
                nats.connect(
                    self._servers,
                    name="amends",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=int(REPLY_S),
                    ping_interval=5,
                    user=access.username,
                    password=access.password,
                    token=access.token,
                    user_credentials=access.credentials_file,
                    tls=context,
                    error_cb=self._note,
                ),
                CONNECT_S,
            )
        except (TimeoutError, Error, OSError, ValueError) as error:
            raise self._connect_error(self._cause(error)) from error

    def _cause(self, error: Exception) -> Exception:
        """Return the error of the last attempt, where the client reports only that all attempts have failed."""
        return self._error or error if isinstance(error, NoServersError | TimeoutError) else error

    def _connect_error(self, cause: Exception) -> AmendsError:
        if isinstance(cause, ssl.SSLError):
            return self.setup(f"{self.name}: no encrypted connection: {_reason(cause)}; check the certificates")
        if isinstance(cause, AuthorizationError) or _REFUSALS.search(str(cause)):
            return self.setup(f"{self.name} refuses the credentials: {_reason(cause)}; check user and password")
        if isinstance(cause, ValueError | FileNotFoundError):
            return self.setup(f"{self.name}: the settings are not valid: {_reason(cause)}")
        return self.unreachable(f"{self.name} does not answer: {_reason(cause)}; check the address")

    def _tls(self) -> ssl.SSLContext | None:
        access = self._access
        if not access.encrypted:
            return None
        try:
            context = ssl.create_default_context(cafile=access.ca_file)
            if access.certificate_file is not None:
                context.load_cert_chain(access.certificate_file, access.key_file, access.key_password)
        except (OSError, ValueError) as error:
            raise self.setup(f"{self.name}: cannot read the certificates: {_reason(error)}") from error
        return context

    async def _note(self, error: Exception) -> None:
        self._error = error


def _reason(error: Exception) -> str:
    return one_line(str(error).removeprefix("nats: ")) or type(error).__name__
