"""Schedules in the processes of the program: the activities of workers, and the alignment of Temporal's copy."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from amends.aggregates.journal import Tx
from amends.cli.runtime.rule_context import TemporalCorrections, now_ms, rules_of
from amends.cli.runtime.wiring import Project
from amends.reconciler.schedules.alignment import Changes
from amends.reconciler.schedules.decide import schedules_of, sync_automatic_schedules
from amends.reconciler.schedules.facts import ScheduleFact, Timetable

if TYPE_CHECKING:
    from temporalio.client import Client

    from amends.aggregates.sql.journal import SqlJournal
    from amends.reconciler.temporal.scheduled_run import ScheduledRuns

__all__ = ["decide_on_schedules", "intervals", "restore", "scheduled_runs"]


def scheduled_runs(project: Project, journal: "SqlJournal", client: "Client") -> "ScheduledRuns":
    """Return the activities that a worker needs for scheduled runs.

    Args:
        project: The project, whose rules run next to the built-in ones.
        journal: The store.
        client: Temporal.
    """
    from amends.reconciler.rules.temporal import driven_runs  # noqa: PLC0415 - imports Temporal
    from amends.reconciler.runtime.reconciler import Reconciler  # noqa: PLC0415 - only workers need it
    from amends.reconciler.temporal.scheduled_run import Equipment, ScheduledRuns  # noqa: PLC0415 - as above
    from amends.reconciler.temporal.schedules import TemporalSchedules  # noqa: PLC0415 - as above
    from amends.sagas.runtime.error_log import ErrorDetail, ErrorLog  # noqa: PLC0415 - as above

    settings = project.settings
    errors = ErrorLog(ErrorDetail(settings.errors or ErrorDetail.TYPE))

    async def equip(actor: str) -> Equipment:
        reconciler = Reconciler(
            journal,
            project.registry,
            TemporalCorrections(journal, client, settings.task_queue),
            clock=now_ms,
            actor=actor,
            driven=await driven_runs(client, settings.task_queue),
            errors=errors,
        )
        return Equipment(rules_of(settings, journal, project, client), reconciler)

    return ScheduledRuns(journal, TemporalSchedules(client, journal.store_id), equip, clock=now_ms, errors=errors)


def intervals(project: Project, journal: "SqlJournal", client: "Client") -> dict[str, int]:
    """Return the interval between scans that each rule declares, in milliseconds."""
    rules = rules_of(project.settings, journal, project, client)
    return {name: round(rule.every.total_seconds() * 1_000) for name, rule in rules.items()}


async def decide_on_schedules(
    journal: "SqlJournal", decide: Callable[[Timetable], Sequence[ScheduleFact]]
) -> Timetable:
    """Decide about the schedules in one transaction with reading them, and return their new state.

    Raises:
        UnreachableError: The store cannot be reached.
        AmendsError: The error of `decide`; nothing was written.
    """

    def unit(tx: Tx) -> Timetable:
        with tx.unit_of_work() as uow:
            stream = schedules_of(uow)
            for fact in decide(stream.timetable):
                stream.record(fact)
            return stream.timetable

    return await journal.commit(unit)


async def restore(
    project: Project, journal: "SqlJournal", client: "Client", *, every_rule: bool | None
) -> tuple[Timetable, Changes]:
    """Add the declared schedules of this store to Temporal, and remove all other schedules of this store there.

    Args:
        project: The project, whose rules exist next to the built-in ones.
        journal: The store.
        client: Temporal.
        every_rule: Whether each rule gets a schedule of its own; `None` for no change.

    Raises:
        UnreachableError: The store or Temporal cannot be reached.
        InputError: Temporal refuses a schedule.
    """
    from amends.reconciler.temporal.scheduled_run import timetable_of  # noqa: PLC0415 - imports Temporal
    from amends.reconciler.temporal.schedules import TemporalSchedules  # noqa: PLC0415 - as above

    timetable = before = await timetable_of(journal)
    if every_rule is not None:
        wanted: Mapping[str, int] = intervals(project, journal, client) if every_rule else {}
        queue = project.settings.task_queue

        def decide(known: Timetable) -> list[ScheduleFact]:
            return sync_automatic_schedules(known, wanted, now_ms(), actor="amends dev", task_queue=queue)

        if decide(timetable):
            timetable = await decide_on_schedules(journal, decide)
    return timetable, await TemporalSchedules(client, journal.store_id).align(timetable, gone=before.schedules)
