"""Work on held messages: apply them again, or skip them, and wake the runs that they start."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from amends.aggregates.errors import InputError, NotFoundError
from amends.aggregates.intake import HeldMessage
from amends.aggregates.journal import Tx
from amends.cli.project.configured_pipelines import access_of
from amends.cli.project.settings import Settings
from amends.cli.runtime.pipeline_commands.decisions import store_of
from amends.cli.runtime.pipeline_commands.opened import loop_of, open_source
from amends.cli.runtime.wiring import Project, load_project
from amends.pipelines.runtime.held_units import Released, release, retry, skip

if TYPE_CHECKING:
    from amends.aggregates.sql.journal import SqlJournal

__all__ = ["Outcome", "apply_held", "held_at", "skip_held"]

_ALL = 1_000_000
_PAGE = 10_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of work on the held messages of a key.

    Attributes:
        applied: The number of messages that took effect.
        known: The number of messages that had taken effect before.
        held: The messages that are held still.
        started: The number of runs that they have started.
        waiting: The reason for which started runs wait for a worker; empty if they go on.
    """

    applied: int
    known: int
    held: tuple[HeldMessage, ...]
    started: int = 0
    waiting: str = ""


def held_at(journal: "SqlJournal", name: str, partition: str, position: int) -> HeldMessage:
    """Return a held message.

    Raises:
        NotFoundError: No message is held at that place.
    """
    for each in journal.intake.held(name, partition=partition, limit=_ALL):
        if each.position == position:
            return each
    raise NotFoundError(
        f"pipeline {name!r} holds no message at position {position} of partition {partition!r}; "
        f"see: amends pipeline quarantine list {name}"
    )


async def apply_held(settings: Settings, name: str, key: str, *, actor: str, reason: str, force: bool) -> Outcome:
    """Apply the held messages of a key in order.

    Args:
        settings: The settings.
        name: The pipeline or relay.
        key: The key; empty for messages whose key is unknown.
        actor: Name of the person that decides.
        reason: Reason that the person gave.
        force: Whether the first message takes effect even if its id is known or too old to tell.

    Raises:
        NotFoundError: The key has no held message.
        InputError: A relay has nothing to release.
    """
    _check_reason(reason)
    project = load_project(settings)
    with store_of(settings) as journal:
        if name in project.pipelines.relays:
            if force:
                raise InputError(f"{name!r} is a relay; publish its messages with: amends pipeline quarantine retry")
            return await _publish_again(project, journal, name, key)
        pipeline = project.pipelines.pipeline(name)
        async with open_source(settings, pipeline) as source:
            loop = loop_of(project, journal, pipeline, source)
            work = release if force else retry
            unit: Callable[[Tx], Released] = partial(
                work, parts=loop.intake, arrive=loop.arrive, key=key, actor=actor, reason=reason
            )
            results = [await journal.commit(unit)]
            while results[-1].more:
                results.append(await journal.commit(unit))
        started = [run for each in results for run in each.started]
        waiting = await _wake(settings, journal, started)
        return Outcome(
            applied=sum(each.applied for each in results),
            known=sum(each.known for each in results),
            held=tuple(results[-1].held),
            started=len(started),
            waiting=waiting,
        )


async def skip_held(
    settings: Settings, name: str, partition: str, position: int, *, actor: str, reason: str
) -> HeldMessage:
    """Decide that a held message has no effect.

    Raises:
        NotFoundError: No message is held at that place.
        InputError: The reason is empty, or it is a message of a relay.
    """
    _check_reason(reason)
    project = load_project(settings)
    if name in project.pipelines.relays:
        raise InputError(f"{name!r} is a relay, and a message that was sent cannot be skipped; make its sink accept it")
    pipeline = project.pipelines.pipeline(name)
    with store_of(settings) as journal:
        async with open_source(settings, pipeline) as source:
            loop = loop_of(project, journal, pipeline, source)
            unit: Callable[[Tx], HeldMessage] = partial(
                skip,
                parts=loop.intake,
                arrive=loop.arrive,
                partition=partition,
                position=position,
                actor=actor,
                reason=reason,
            )
            return await journal.commit(unit)


async def _publish_again(project: Project, journal: "SqlJournal", name: str, key: str) -> Outcome:
    from amends.pipelines.runtime.connections import connect_sink  # noqa: PLC0415 - imports the adapters
    from amends.pipelines.runtime.held_by_relays import retry_held  # noqa: PLC0415 - as above

    relay, settings = project.pipelines.relays[name], project.settings
    before = len(journal.intake.held(name, key=key, limit=_PAGE))
    if not before:
        raise NotFoundError(
            f"relay {name!r} holds no message of key {key!r}; see: amends pipeline quarantine list {name}"
        )
    sink = connect_sink(name, relay.sink, access_of(name, settings.pipelines.get(name)), settings.project_dir)
    try:
        held = await retry_held(journal, relay, sink, key)
    finally:
        await sink.close()
    return Outcome(applied=before - len(held), known=0, held=tuple(held))


async def _wake(settings: Settings, journal: "SqlJournal", started: list[str]) -> str:
    """Wake started runs; return why they wait, or an empty text."""
    if not started:
        return ""
    from amends.cli.runtime.intervene import wake_run  # noqa: PLC0415 - for pipelines that start runs only

    why = ""
    for run_id in dict.fromkeys(started):
        record = await journal.record(run_id)
        if record is not None:
            why = (await wake_run(settings, record)).why_not or why
    return why


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise InputError("the decision needs a reason; pass --reason (it is recorded)")
