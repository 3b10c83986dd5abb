"""Decisions of operators about pipelines, each one unit of the journal with its fact. Only `seek` asks the source."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from amends.aggregates.errors import InputError
from amends.aggregates.journal import Tx
from amends.aggregates.text import shorten
from amends.cli.project.settings import Settings
from amends.cli.runtime.pipeline_commands.opened import answer_of, open_source
from amends.cli.runtime.store import require_store
from amends.cli.runtime.wiring import Project, open_store
from amends.pipelines.control.decide import declare, moved, seek
from amends.pipelines.control.facts import PipelineDeclared, PipelineFact, PositionSought
from amends.pipelines.control.state import PipelineState, control_of
from amends.pipelines.definition.pipeline import Pipeline
from amends.pipelines.intake.modes import Mode
from amends.pipelines.source import FROM_START
from amends.sagas.runtime.clock import SystemClock

if TYPE_CHECKING:
    from amends.aggregates.sql.journal import SqlJournal

__all__ = ["Place", "chosen_partitions", "decide", "declare_pipeline", "ends_of", "seek_to", "store_of"]

Place = tuple[int, str | None]
"""A position, and the identity of the source that it belongs to; `None` for the present one."""


@contextmanager
def store_of(settings: Settings) -> "Iterator[SqlJournal]":
    """Open the store for writing while the context lasts; never create it.

    Raises:
        UnreachableError: There is no store yet, or it cannot be written.
    """
    require_store(settings)
    journal = open_store(settings)
    try:
        yield journal
    finally:
        journal.close_blocking()


def decide(settings: Settings, name: str, make: Callable[[Tx, PipelineState], PipelineFact]) -> PipelineFact:
    """Record a decision about a pipeline that the store knows, and return its fact.

    Raises:
        NotFoundError: The store does not know the pipeline.
        RefusedError: The decision does not fit the present state.
    """
    with store_of(settings) as journal:

        def unit(tx: Tx) -> PipelineFact:
            with tx.unit_of_work() as uow:
                control = control_of(uow, name)
                fact = make(tx, control.state)
                control.record(fact)
            return fact

        return journal.commit_blocking(unit)


def declare_pipeline(
    journal: "SqlJournal", project: Project, name: str, *, actor: str, accept: bool = False
) -> PipelineDeclared | None:
    """Declare the definition of a pipeline; return `None` if it is declared already.

    Raises:
        RefusedError: The definition differs from the declared one, and `accept` is not set.
    """
    settings = project.settings.pipelines.get(name)
    mode = (settings.mode if settings is not None else None) or Mode.EXACTLY_ONCE
    now_ms = SystemClock().now_ms()

    def unit(tx: Tx) -> PipelineDeclared | None:
        with tx.unit_of_work() as uow:
            control = control_of(uow, name)
            declaration = project.pipelines.declarations[name]
            fact = declare(control.state, name, declaration, now_ms, actor=actor, mode=mode, accept=accept)
            if fact is not None:
                control.record(fact)
        return fact

    return journal.commit_blocking(unit)


def seek_to(
    journal: "SqlJournal", name: str, places: dict[str, Place], *, actor: str, reason: str
) -> list[PositionSought]:
    """Move the positions of partitions in one commit.

    Raises:
        NotFoundError: The pipeline or a partition has never been read.
        RefusedError: The pipeline is not paused, or a position is there already.
        InputError: A position is negative.
    """
    now_ms = SystemClock().now_ms()

    def unit(tx: Tx) -> list[PositionSought]:
        facts: list[PositionSought] = []
        with tx.unit_of_work() as uow:
            control = control_of(uow, name)
            for partition, (to, incarnation) in places.items():
                present = tx.intake.position(name, partition)
                fact = seek(
                    control.state,
                    name,
                    partition,
                    present,
                    now_ms,
                    to=to,
                    actor=actor,
                    reason=reason,
                    incarnation=incarnation,
                )
                control.record(fact)
                facts.append(fact)
                if present is not None:
                    tx.intake.move(name, partition, expected=present, to=moved(present, fact))
        return facts

    return journal.commit_blocking(unit)


def chosen_partitions(journal: "SqlJournal", name: str, partition: str | None, *, all_: bool) -> list[str]:
    """Return the partitions that a command line means.

    Raises:
        InputError: It names none, and the pipeline has several.
    """
    known = sorted(journal.intake.positions(name))
    if partition is not None:
        return [partition]
    if all_ or len(known) <= 1:
        return known
    raise InputError(
        f"pipeline {name!r} has several partitions ({', '.join(shorten(each) for each in known[:5])}); "
        "name one, or use --all"
    )


async def ends_of(
    settings: Settings, pipeline: Pipeline[Any], partitions: list[str], *, start: bool
) -> dict[str, Place]:
    """Return the first or the last place of partitions, as their source has them now.

    Args:
        settings: The settings.
        pipeline: The pipeline.
        partitions: The partitions.
        start: Whether the place of the oldest message is wanted, instead of the one after the newest.

    Raises:
        SourceUnreachableError: The source does not answer.
        SourceSetupError: The source has no such partition, or refuses the credentials.
    """
    found: dict[str, Place] = {}
    async with open_source(settings, pipeline) as source:
        for each in partitions:
            reader = await answer_of(pipeline, source.open(each, FROM_START))
            try:
                found[each] = (reader.first if start else await answer_of(pipeline, reader.end()), reader.incarnation)
            finally:
                await asyncio.shield(reader.close())
    return found
