"""The composition root: from settings to sagas, store and Temporal; the only place that picks adapters.

Each function imports its adapter itself: a command that reads the store does not pay for Temporal, and a command that
reads only definitions pays for neither.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from amends.aggregates.errors import InputError, UnreachableError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.values.json_codec import Limits
from amends.cli.output.remarks import note
from amends.cli.project.configured_pipelines import configured_pipeline, configured_relay
from amends.cli.project.load_modules import LoadedProject, find, load_modules
from amends.cli.project.settings import Settings, load_settings
from amends.cli.runtime.signals import Stop
from amends.cli.runtime.store import in_data_dir
from amends.pipelines.definition.pipeline import Pipeline
from amends.pipelines.definition.registry import PipelineRegistry
from amends.pipelines.definition.relays import Relay
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.saga import Saga
from amends.sagas.definition.steps import Step
from amends.sagas.runtime.deadline import SERVER_RESERVE_S, STORE_RESERVE_S, default_drain

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient

    from amends.aggregates.sql.journal import SqlJournal
    from amends.reconciler.drift.rule import Rule
    from amends.sagas.temporal.connection import TemporalTarget
    from amends.sagas.temporal.server.embedded_server import EmbeddedServer
    from amends.sagas.temporal.server.server_record import ServerRecord

__all__ = [
    "Project",
    "Temporal",
    "checked_pipelines",
    "checked_registry",
    "close_store",
    "connect_located",
    "drain_of",
    "ensure_data_dir",
    "find_temporal",
    "keep_alive",
    "load_project",
    "locate_temporal",
    "open_store",
    "settings_of",
    "use_configured",
    "use_embedded",
    "use_temporal",
]

_LOOK_S = 1.0
_CONNECTS = 6
_IGNORE_ALL = "*\n"


@dataclass(frozen=True)
class Project:
    """The definitions of the user's modules, free of faults.

    Attributes:
        settings: The settings.
        loaded: The modules.
        registry: Their sagas and steps.
        aggregates: Their aggregate classes.
        rules: Drift rules in addition to those in the modules.
        pipelines: Their pipelines and relays, with the values of the settings.
    """

    settings: Settings
    loaded: LoadedProject
    registry: Registry
    aggregates: tuple[type[Aggregate], ...]
    rules: "tuple[Rule, ...]" = ()
    pipelines: PipelineRegistry = field(default_factory=PipelineRegistry)


def settings_of(ctx: typer.Context) -> Settings:
    """Read the settings of the project that the command line names.

    Raises:
        InputError: The settings cannot be read, or one is wrong.
    """
    project: Path | None = ctx.obj
    return load_settings(project)


def load_project(settings: Settings) -> Project:
    """Import the user's modules and check all their definitions.

    Raises:
        DefinitionError: A module cannot be imported, or a definition has a fault.
        InputError: The settings of a pipeline do not fit it.
    """
    loaded = load_modules(settings)
    registry = checked_registry(settings, loaded.collect(Saga).values(), loaded.find(Step))
    pipelines = checked_pipelines(settings, loaded, registry)
    return Project(settings, loaded, registry, _aggregates(loaded), pipelines=pipelines)


def checked_pipelines(settings: Settings, loaded: LoadedProject, registry: Registry) -> PipelineRegistry:
    """Return the registry of the modules' pipelines and relays, with the values of the settings.

    Raises:
        DefinitionError: A definition has a fault.
        InputError: The settings of a pipeline do not fit it, or name one that is not defined.
    """
    tables = settings.pipelines
    pipelines = loaded.collect(Pipeline)
    relays = loaded.collect(Relay)
    for name in tables:
        if name not in pipelines and name not in relays:
            defined = ", ".join(sorted([*pipelines, *relays])) or "none"
            raise InputError(
                f"{settings.config_file or 'settings'}: pipelines.{name} is the table of no pipeline or relay; "
                f"defined are: {defined}"
            )
    return PipelineRegistry(
        [configured_pipeline(each, tables.get(name)) for name, each in pipelines.items()],
        [configured_relay(each, tables.get(name)) for name, each in relays.items()],
        sagas=registry.sagas,
    )


def checked_registry(settings: Settings, sagas: Iterable[Saga[Any]], steps: Iterable[Step[Any, Any]] = ()) -> Registry:
    """Return the registry of sagas, and of further steps, with the limits of the settings.

    Raises:
        DefinitionError: A definition has a fault.
    """
    registry = Registry(
        sagas,
        steps,
        limits=Limits(max_bytes=settings.max_input_bytes),
        result_limits=Limits(max_bytes=settings.max_result_bytes),
    )
    registry.catalog  # noqa: B018 - raises the faults of the whole catalog here, before anything runs
    return registry


def _aggregates(loaded: LoadedProject) -> tuple[type[Aggregate], ...]:
    classes: Any = find(loaded.modules, type).values()
    return tuple(each for each in classes if issubclass(each, Aggregate) and each is not Aggregate)


def ensure_data_dir(settings: Settings) -> Path:
    """Create the data directory, unless it exists; only its owner can read it.

    Raises:
        UnreachableError: The directory cannot be created or used.
    """
    data_dir = settings.data_dir
    try:
        if not data_dir.is_dir():
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Version control must ignore it, even if the project's own settings for that do not.
            (data_dir / ".gitignore").write_text(_IGNORE_ALL)
    except OSError as error:
        raise UnreachableError(
            f"data directory {str(data_dir)!r} cannot be created ({error.strerror}); create it yourself, or set "
            "data_dir to a directory that you may write to"
        ) from None
    return data_dir


def open_store(settings: Settings, aggregates: tuple[type[Aggregate], ...] = ()) -> "SqlJournal":
    """Open the configured store for writing; create its SQLite file if there is none.

    Args:
        settings: The settings.
        aggregates: Classes whose events can be read from the start.

    Raises:
        InputError: The URL cannot be used.
        UnreachableError: The store cannot be reached or written.
        JournalError: The store's schema is not that of this version.
    """
    from amends.aggregates.sql.journal import open_journal  # noqa: PLC0415 - imports the database

    if in_data_dir(settings):
        ensure_data_dir(settings)
    return open_journal(settings.store_url, aggregates=aggregates)


async def close_store(journal: "SqlJournal", stop: Stop, *, note: Callable[[str], None] = note) -> None:
    """Close the store, but wait no longer than the bound allows; report a store that does not end."""
    stop.deadline.begin()
    if not await stop.within(journal.close(), STORE_RESERVE_S):
        note("the store does not close in time; writes without acknowledgement may be lost")


def drain_of(settings: Settings, registry: Registry) -> timedelta:
    """Return how long a worker's calls in flight may take to end: the setting, or else the longest timeout."""
    return default_drain(registry.steps.values()) if settings.drain is None else settings.drain


@dataclass(frozen=True)
class Temporal:
    """A Temporal that was found.

    Attributes:
        client: Connected to it.
        address: Its address.
        server: This process's share in the embedded server; `None` for a configured one.
    """

    client: "TemporalClient"
    address: str
    server: "EmbeddedServer | None"


@asynccontextmanager
async def use_temporal(settings: Settings, *, stop: Stop | None = None) -> AsyncIterator[Temporal]:
    """Use the configured Temporal, or else the embedded one, which starts unless it runs.

    Args:
        settings: The settings.
        stop: Bounds the stop of the embedded server, as in `use_embedded`.

    Raises:
        UnreachableError: Temporal cannot be reached or started.
        InputError: Temporal's own configuration cannot be read.
    """
    from amends.sagas.temporal.connection import configured_target  # noqa: PLC0415 - imports Temporal

    async with use_embedded(settings, stop=stop) if configured_target() is None else use_configured() as temporal:
        yield temporal


def locate_temporal(settings: Settings) -> "tuple[TemporalTarget | None, ServerRecord | None]":
    """Return the Temporal that commands would use, and its server if it is the embedded one; start nothing.

    Returns:
        The target, `None` if none is configured and no embedded one runs; and the embedded server, or `None`.

    Raises:
        InputError: Temporal's own configuration cannot be read.
    """
    from amends.sagas.temporal.connection import TemporalTarget, configured_target  # noqa: PLC0415 - imports Temporal
    from amends.sagas.temporal.server.embedded_server import running  # noqa: PLC0415 - as above

    if (target := configured_target()) is not None:
        return target, None
    server = running(settings.data_dir)
    return (None if server is None else TemporalTarget(server.address, embedded=True)), server


def find_temporal(settings: Settings) -> "TemporalTarget":
    """Find the Temporal that commands would use, without starting one.

    Raises:
        UnreachableError: None is configured, and the embedded one does not run.
        InputError: Temporal's own configuration cannot be read.
    """
    target, _ = locate_temporal(settings)
    if target is None:
        raise UnreachableError(
            f"no Temporal is configured and no embedded server runs in {str(settings.data_dir)!r}; "
            f"set TEMPORAL_ADDRESS, or use amends dev, which starts one"
        )
    return target


async def connect_located(target: "TemporalTarget") -> "TemporalClient":
    """Connect to a Temporal that was located: to a configured one with its TLS settings and API key.

    Raises:
        UnreachableError: Temporal does not answer within five seconds.
        InputError: Temporal's own configuration is not valid.
    """
    from amends.sagas.temporal.connection import connect, connect_configured  # noqa: PLC0415 - imports Temporal

    return await (connect(target) if target.embedded else connect_configured())


@asynccontextmanager
async def use_configured() -> AsyncIterator[Temporal]:
    """Use the Temporal that Temporal's own standard client configuration names.

    Raises:
        UnreachableError: Temporal cannot be reached.
        InputError: The configuration does not exist, or cannot be used.
    """
    from amends.sagas.temporal.connection import configured_target, connect_configured  # noqa: PLC0415 - as above

    client = await connect_configured()
    target = configured_target()
    yield Temporal(client, target.address if target else "", None)


@asynccontextmanager
async def use_embedded(
    settings: Settings, *, stop: Stop | None = None, port: int | None = None, ui_port: int | None = None
) -> AsyncIterator[Temporal]:
    """Use the embedded Temporal of the data directory; start it unless it runs.

    Args:
        settings: The settings.
        stop: Bounds how long the server may take to stop; `None` for no bound but the server's own.
        port: Port to start it on; `None` for the configured one.
        ui_port: Port of its web page; `None` for the configured one.

    Raises:
        UnreachableError: The server cannot be started.
    """
    from amends.sagas.temporal.server.embedded_server import EmbeddedServer  # noqa: PLC0415 - imports Temporal

    data_dir = ensure_data_dir(settings)
    patience_s = None if stop is None else lambda: stop.deadline.left_s(SERVER_RESERVE_S)
    async with EmbeddedServer.shared(
        data_dir, port=port or settings.embedded_port, ui_port=ui_port or settings.ui_port, patience_s=patience_s
    ) as server:
        if stop is not None:
            stop.last_resorts.append(server.kill_if_last)
        yield Temporal(await _connect_to_embedded(server), server.address, server)


async def _connect_to_embedded(server: "EmbeddedServer") -> "TemporalClient":
    """Connect to an embedded server, which on a busy machine may listen long before it is ready.

    Each attempt takes at most five seconds, so that a server that has died meanwhile starts again soon.

    Raises:
        UnreachableError: The server does not answer, or cannot be started again.
    """
    from amends.sagas.temporal.connection import TemporalTarget, connect  # noqa: PLC0415 - imports Temporal

    for _ in range(_CONNECTS - 1):
        with suppress(UnreachableError):
            return await connect(TemporalTarget(server.address, embedded=True))
        await server.ensure_alive()
    return await connect(TemporalTarget(server.address, embedded=True))


async def keep_alive(temporal: Temporal, on_restart: Callable[[], None]) -> None:
    """Start the embedded server again each time it dies, until cancelled; leave a configured one to its operator.

    Raises:
        UnreachableError: The server cannot be started again, or another user has started it again at another address,
            which the client does not talk to.
    """
    while True:
        await asyncio.sleep(_LOOK_S)
        if temporal.server is None or not await temporal.server.ensure_alive():
            continue
        if temporal.server.address != temporal.address:
            raise UnreachableError(
                f"the embedded Temporal server at {temporal.address} is gone, and another command started it again at "
                f"{temporal.server.address}; repeat this command to use the new server"
            )
        on_restart()
