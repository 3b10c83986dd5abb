"""The parts that the commands about pipelines open: a project's pipelines, their sources, and the store.

How it can fail: a source that does not answer ends a command within `SETUP_S`, with one line.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from amends.aggregates.errors import NotFoundError
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.text import shorten
from amends.cli.project.configured_pipelines import access_of
from amends.cli.project.settings import Settings
from amends.cli.runtime.wiring import Project
from amends.pipelines.control.state import PipelineControl, PipelineState
from amends.pipelines.definition.pipeline import Pipeline
from amends.pipelines.source import SourceUnreachableError

if TYPE_CHECKING:
    from amends.aggregates.sql.journal import SqlJournal
    from amends.pipelines.runtime.partition_loop import PartitionLoop
    from amends.pipelines.runtime.partition_slice import OnStarted
    from amends.pipelines.source import SourceConnection

__all__ = ["SETUP_S", "answer_of", "known_names", "loop_of", "open_source", "state_of"]

T = TypeVar("T")

SETUP_S = 12.0
"""Longest wait for the first answer of a source, in seconds."""


@asynccontextmanager
async def open_source(
    settings: Settings, pipeline: Pipeline[Any], *, store_id: str | None = None
) -> "AsyncIterator[SourceConnection]":
    """Open the source of a pipeline while the context lasts.

    Args:
        settings: The settings.
        pipeline: The pipeline.
        store_id: The store, if the command takes messages; `None` if it only looks.

    Raises:
        DefinitionError: The client of the source is not installed.
        InputError: A secret of the settings is missing.
    """
    from amends.pipelines.runtime.connections import connect_source  # noqa: PLC0415 - imports the adapters

    name = pipeline.name
    access = access_of(name, settings.pipelines.get(name))
    source = connect_source(name, pipeline.source, access, settings.project_dir, store_id=store_id)
    try:
        yield source
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(SETUP_S):
                await source.close()


async def answer_of(pipeline: Pipeline[Any], answer: Awaitable[T]) -> T:
    """Return the answer of a source, or an error when it takes too long.

    Raises:
        SourceUnreachableError: The source does not answer.
        SourceSetupError: The source has no such partition, or refuses the credentials.
    """
    try:
        async with asyncio.timeout(SETUP_S):
            return await answer
    except TimeoutError:
        raise SourceUnreachableError(
            f"the source of pipeline {pipeline.name!r} ({pipeline.source}) does not answer within {SETUP_S:g} s; "
            "check its address"
        ) from None


def loop_of(
    project: Project,
    journal: "SqlJournal",
    pipeline: Pipeline[Any],
    source: "SourceConnection",
    on_started: "OnStarted | None" = None,
) -> "PartitionLoop":
    """Create the loop of a pipeline, whose runs Temporal drives."""
    from amends.pipelines.runtime.partition_loop import PartitionLoop  # noqa: PLC0415 - for some commands only

    given: dict[str, Any] = {} if on_started is None else {"on_started": on_started}
    return PartitionLoop(journal, project.registry, pipeline, source, driver=TEMPORAL_DRIVER, **given)


def state_of(journal: "SqlJournal", name: str) -> PipelineState:
    """Read the state of a pipeline; the empty one if the store does not know it."""
    journal.codec.register(PipelineControl)
    control = journal.load_blocking(PipelineControl, name)
    return PipelineState() if control is None else control.state


def known_names(journal: "SqlJournal", project: Project | None, name: str | None = None) -> list[str]:
    """Return the names of the pipelines that the store knows or the project defines, relays excluded.

    Args:
        journal: The store.
        project: The project; `None` without one.
        name: The only one to return; `None` for all.

    Raises:
        NotFoundError: Neither the store nor the project has a pipeline or relay of that name.
    """
    prefix = PipelineControl.stream_of("x")[:-1]
    stored = {each.removeprefix(prefix) for each in journal.streams_blocking(PipelineControl.category())}
    defined = set() if project is None else set(project.pipelines.pipelines)
    found = sorted(stored | defined)
    if name is None:
        return found
    if name in found:
        return [name]
    relays = () if project is None else project.pipelines.relays
    if name in relays:
        return []
    there_are = ", ".join(sorted({*found, *relays})) or "none"
    raise NotFoundError(f"no pipeline or relay is called {shorten(name)}; there are: {there_are}")
