"""Connect a process to its Temporal: by Temporal's own client configuration, or to the embedded server."""

import asyncio
import os
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import temporalio.client
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.envconfig import ClientConfig
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError

from amends.aggregates.errors import InputError, UnreachableError

__all__ = ["TemporalTarget", "configured_target", "connect", "connect_configured", "connect_to"]

CONNECT_BOUND = timedelta(seconds=5)
_LOOK_S = 0.05
_CAUSE = re.compile(r'message: "([^"]+)"')


@dataclass(frozen=True, slots=True)
class TemporalTarget:
    """A Temporal to connect to.

    Attributes:
        address: `host:port`.
        namespace: Temporal's namespace.
        embedded: Whether it is the embedded server.
        remedy: How to correct a target that cannot be reached; `None` for the remedy that fits where it comes from.
    """

    address: str
    namespace: str = "default"
    embedded: bool = False
    remedy: str | None = None


@cache
def _quiet_runtime() -> Runtime:
    """Return a runtime whose core prints no warnings; the core is not Python code and bypasses `logging`."""
    quiet = TelemetryFilter(core_level="ERROR", other_level="ERROR")
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(quiet)))


def configured_target() -> TemporalTarget | None:
    """Return the target in Temporal's standard client configuration (`TEMPORAL_ADDRESS`, profile file and so on).

    Returns:
        The target; `None` if no address is configured.

    Raises:
        InputError: The configuration cannot be read.
    """
    try:
        config = ClientConfig.load_client_connect_config()
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"Temporal's client configuration cannot be read: {error}; correct its file or TEMPORAL_*"
        ) from None
    address = config.get("target_host")
    if not address:
        return None
    return TemporalTarget(address, config.get("namespace") or "default")


async def connect_configured() -> temporalio.client.Client:
    """Connect to the configured Temporal, with its TLS settings and API key.

    Raises:
        UnreachableError: Temporal does not answer within five seconds.
        InputError: The configuration is not valid.
    """
    target = configured_target()
    if target is None:
        raise InputError("no Temporal is configured; set TEMPORAL_ADDRESS")
    config = ClientConfig.load_client_connect_config()
    try:
        async with asyncio.timeout(CONNECT_BOUND.total_seconds()):
            return await temporalio.client.Client.connect(**config, runtime=_quiet_runtime())
    except (RPCError, RuntimeError, TimeoutError) as error:
        raise _unreachable(target, error) from None


async def connect(target: TemporalTarget) -> temporalio.client.Client:
    """Connect to a Temporal at an address.

    An embedded server listens before it is ready, so this function waits for it.

    Raises:
        UnreachableError: Temporal does not answer within five seconds.
    """
    said: BaseException = TimeoutError()
    try:
        async with asyncio.timeout(CONNECT_BOUND.total_seconds()):
            while True:
                try:
                    return await _connect_once(target)
                except (RPCError, RuntimeError) as error:
                    said = error
                    if not target.embedded:
                        break
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        pass
    raise _unreachable(target, said)


async def connect_to(temporal: temporalio.client.Client | str, namespace: str) -> temporalio.client.Client:
    """Connect to the Temporal that a caller named.

    Args:
        temporal: Its address as `host:port`; or a connected client, which is returned as it is.
        namespace: Temporal's namespace; ignored for a client.

    Raises:
        UnreachableError: Temporal does not answer within five seconds.
    """
    if not isinstance(temporal, str):
        return temporal
    return await connect(TemporalTarget(temporal, namespace, remedy="start it, or correct the address"))


async def _connect_once(target: TemporalTarget) -> temporalio.client.Client:
    client = await temporalio.client.Client.connect(
        target.address, namespace=target.namespace, runtime=_quiet_runtime()
    )
    if target.embedded:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=target.namespace))
    return client


def _unreachable(target: TemporalTarget, error: BaseException) -> UnreachableError:
    if target.remedy is not None:
        remedy = target.remedy
    elif target.embedded:
        remedy = "start it: amends dev"
    elif "TEMPORAL_ADDRESS" in os.environ:
        remedy = "start it, or correct TEMPORAL_ADDRESS"
    else:
        remedy = "start it, or correct Temporal's configuration file"
    said = _in_words(str(error)) or "no answer within 5 s"
    return UnreachableError(f"Temporal at {target.address} cannot be reached ({said}); {remedy}")


def _in_words(error: str) -> str:
    """Return the relevant part of an error of Temporal's client, which contains all its causes in Rust's notation."""
    causes = _CAUSE.findall(error)
    return " ".join((causes[-1] if causes else error).split())[:160]
