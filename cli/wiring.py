"""The composition root: from settings to sagas, store and Temporal; the only place that picks adapters.

Adapters are imported by the function that makes them: a command that reads the store does not pay for Temporal, and one
that only looks at definitions pays for neither.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from amends.aggregates.canonical import Limits
from amends.aggregates.domain import Aggregate
from amends.aggregates.errors import UnreachableError
from amends.cli.project import LoadedProject, find, load_modules
from amends.cli.settings import Settings, load_settings
from amends.sagas.definition import Step
from amends.sagas.registry import Registry
from amends.sagas.saga import Saga

if TYPE_CHECKING:
    from amends.aggregates.journal_sql import SqlJournal

__all__ = ["Project", "ensure_data_dir", "load_project", "open_store", "settings_of"]


@dataclass(frozen=True)
class Project:
    """What the user's modules define, without faults.

    Attributes:
        settings: What is configured.
        loaded: The modules.
        registry: Their sagas and steps.
        aggregates: Their aggregate classes.
    """

    settings: Settings
    loaded: LoadedProject
    registry: Registry
    aggregates: tuple[type[Aggregate], ...]


def settings_of(ctx: typer.Context) -> Settings:
    """Read the settings of the project that the command line names.

    Raises:
        InputError: They cannot be read, or one is wrong.
    """
    project: Path | None = ctx.obj
    return load_settings(project)


def load_project(settings: Settings) -> Project:
    """Import the user's modules and check everything that they define.

    Raises:
        DefinitionError: A module cannot be imported, or a definition has a fault.
    """
    loaded = load_modules(settings)
    registry = Registry(
        loaded.collect(Saga).values(),
        loaded.find(Step),
        limits=Limits(max_bytes=settings.max_input_bytes),
        result_limits=Limits(max_bytes=settings.max_result_bytes),
    )
    registry.catalog  # noqa: B018 - faults of the whole catalog are raised here, before anything runs
    return Project(settings, loaded, registry, _aggregates(loaded))


def _aggregates(loaded: LoadedProject) -> tuple[type[Aggregate], ...]:
    classes: Any = find(loaded.modules, type).values()
    return tuple(each for each in classes if issubclass(each, Aggregate) and each is not Aggregate)


def ensure_data_dir(settings: Settings) -> Path:
    """Make the data directory, readable by its owner alone, unless it is there.

    Raises:
        UnreachableError: It cannot be made or used.
    """
    data_dir = settings.data_dir
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UnreachableError(
            f"data directory {str(data_dir)!r} cannot be made ({error.strerror}); "
            f"make it yourself, or set data_dir to a directory that you may write to"
        ) from None
    return data_dir


def open_store(settings: Settings, aggregates: tuple[type[Aggregate], ...] = ()) -> "SqlJournal":
    """Open the configured store for writing, creating its SQLite file where there is none.

    Args:
        settings: What is configured.
        aggregates: Classes whose events can be read from the start.

    Raises:
        InputError: The URL cannot be used.
        UnreachableError: The store cannot be reached or written.
        JournalError: Its schema is not this version's.
    """
    from amends.aggregates.journal_sql import open_journal  # noqa: PLC0415 - imports the database

    if settings.store_url == f"sqlite:///{settings.data_dir / 'events.db'}":
        ensure_data_dir(settings)
    return open_journal(settings.store_url, aggregates=aggregates)
