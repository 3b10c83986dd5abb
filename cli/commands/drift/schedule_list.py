"""`amends schedule list` and `show`: the declared schedules, from the journal, and the state of Temporal's copies."""

import asyncio
from typing import Annotated

import typer

from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note
from amends.cli.project.settings import Settings
from amends.cli.runtime.rule_context import now_ms
from amends.cli.runtime.store import open_for_reading
from amends.cli.runtime.wiring import settings_of
from amends.cli.views.schedule import COLUMNS, ScheduleView, fields_of, json_of, row_of
from amends.cli.views.table import fields, table
from amends.reconciler.schedules.alignment import TemporalScheduleStatus, entry_of
from amends.reconciler.schedules.decide import Schedules, schedule_of
from amends.reconciler.schedules.facts import Timetable

__all__ = ["list_schedules", "show", "shown_schedules"]

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_schedules(ctx: typer.Context, as_json: _Json = False) -> ExitCode:  # noqa: FBT002 - an option
    """List the schedules and the runs that they missed."""
    found = _shown(settings_of(ctx), None)
    if as_json:
        print_json([json_of(each, now_ms()) for each in found])
    elif not found:
        note("there is no schedule; declare one: amends schedule add NAME --every 5min")
    else:
        shown = screen()
        shown.show(table(COLUMNS, [row_of(each, now_ms()) for each in found], shown.width))
    return ExitCode.OK


def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.", show_default=False)],
    as_json: _Json = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Show the state of a schedule."""
    (found,) = _shown(settings_of(ctx), name)
    if as_json:
        print_json(json_of(found, now_ms()))
    else:
        shown = screen()
        shown.show(fields(fields_of(found, now_ms()), shown.width))
    return ExitCode.OK


def _shown(settings: Settings, name: str | None) -> list[ScheduleView]:
    """Read the schedules, or one of them, and query Temporal about them."""
    with open_for_reading(settings) as journal:
        found = journal.load_blocking(Schedules, Schedules.ID)
        timetable = Timetable() if found is None else found.timetable
        if name is not None:
            timetable = Timetable(schedules={name: schedule_of(timetable, name)})
        if not timetable.schedules:
            return []
        return asyncio.run(_asked(settings, timetable, journal.store_id))


async def _asked(settings: Settings, timetable: Timetable, store_id: str) -> list[ScheduleView]:
    from amends.cli.runtime.temporal import QUICK, probe_temporal  # noqa: PLC0415 - imports Temporal
    from amends.reconciler.temporal.schedules import TemporalSchedules  # noqa: PLC0415 - as above

    reach = await probe_temporal(settings, QUICK)
    copies: dict[str, TemporalScheduleStatus] | None = None
    if reach.client is None:
        note(f"Temporal's view of them is missing: {reach.problem}")
    else:
        copies = await TemporalSchedules(reach.client, store_id).copies(timetable.schedules)
    return shown_schedules(timetable, store_id, copies)


def shown_schedules(
    timetable: Timetable, store_id: str, copies: dict[str, TemporalScheduleStatus] | None
) -> list[ScheduleView]:
    """Return each declared schedule with Temporal's copy of it.

    Args:
        timetable: The declared schedules.
        store_id: The store.
        copies: Temporal's copies, by name; `None` if Temporal did not answer.
    """
    return [
        ScheduleView(schedule, entry_of(store_id, schedule), (copies or {}).get(name), asked=copies is not None)
        for name, schedule in timetable.schedules.items()
    ]
