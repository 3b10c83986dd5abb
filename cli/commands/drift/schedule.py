"""`amends schedule`: declares, pauses, resumes, triggers and removes schedules of reconciliation.

A command first writes its decision to the journal, as a fact, and then aligns Temporal's copy with it. If Temporal is
away, the command reports that, and the next worker that starts aligns the copy.
"""

import asyncio
import zoneinfo
from collections.abc import Awaitable, Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated

import typer

from amends.aggregates.errors import InputError, RefusedError, UnreachableError
from amends.aggregates.text import shorten
from amends.cli.commands.drift.schedule_list import list_schedules, show
from amends.cli.durations import FORMS, span_ms
from amends.cli.exit_codes import ExitCode
from amends.cli.output.remarks import note, say
from amends.cli.project.settings import Settings
from amends.cli.runtime.operator import ActorOption, actor_name
from amends.cli.runtime.rule_context import chosen, now_ms, project_of, rule_context
from amends.cli.runtime.schedules import decide_on_schedules
from amends.cli.runtime.store import require_store
from amends.cli.runtime.wiring import open_store, settings_of
from amends.cli.views.schedule import when
from amends.cli.views.times import moment
from amends.reconciler.schedules import decide as schedule_decisions
from amends.reconciler.schedules.decide import schedule_of
from amends.reconciler.schedules.facts import ScheduleFact, Timetable

if TYPE_CHECKING:
    from amends.reconciler.temporal.schedules import TemporalSchedules

__all__ = ["add", "app", "pause", "remove", "resume", "trigger"]

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Run reconciliation on a schedule.")

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.", show_default=False)]
Decide = Callable[[Timetable], Sequence[ScheduleFact]]
Then = Callable[["TemporalSchedules"], Awaitable[str]]


@app.command()
def add(  # noqa: PLR0917 - Typer passes options by name
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new schedule.", show_default=False)],
    rules: Annotated[
        list[str] | None, typer.Argument(metavar="[RULE]...", help="Rules to run; all if left out.")
    ] = None,
    every: Annotated[str | None, typer.Option("--every", metavar="DURATION", help=f"Interval, {FORMS}.")] = None,
    cron: Annotated[str | None, typer.Option("--cron", help="Cron expression: minute hour day month weekday.")] = None,
    time_zone: Annotated[
        str | None,
        typer.Option("--time-zone", metavar="ZONE", help="Time zone of --cron, such as Europe/Berlin; by default UTC."),
    ] = None,
    jitter: Annotated[
        str, typer.Option("--jitter", metavar="DURATION", help="Largest random delay of each run.")
    ] = "0s",
    pause_after: Annotated[
        int | None,
        typer.Option(
            "--pause-after", help="Pause after this number of failures in a row; 0 for never.", show_default=False
        ),
    ] = None,
    actor: ActorOption = None,
) -> ExitCode:
    """Declare a schedule.

    A run fails if none of its rules could scan. Amends pauses a schedule after a number of failed runs in a row:
    --pause-after, or else the number of runs in an hour, but at least 10.
    """
    who = actor_name(actor)
    settings = settings_of(ctx)
    every_ms = None if every is None else span_ms(every, "--every")
    jitter_ms = span_ms(jitter, "--jitter")
    if time_zone is not None:
        _check_time_zone(time_zone)

    def decide(timetable: Timetable) -> Sequence[ScheduleFact]:
        fact = schedule_decisions.declare(
            timetable,
            name,
            now_ms(),
            actor=who,
            rules=rules or [],
            every_ms=every_ms,
            cron=cron,
            time_zone=time_zone,
            jitter_ms=jitter_ms,
            pause_after=pause_after,
            task_queue=settings.task_queue,
        )
        return [fact]

    timetable, following = _decide(settings, decide, _next(name), rules=rules or [])
    runs = ", ".join(rules or []) or "every rule"
    say(f"schedule {name} runs {runs}, {when(timetable.schedules[name])}{following or ''}")
    return ExitCode.OK


app.command("list")(list_schedules)
app.command("show")(show)


@app.command()
def pause(
    ctx: typer.Context,
    name: _Name,
    reason: Annotated[str, typer.Option("--reason", help="Reason; the journal keeps it.", show_default=False)],
    actor: ActorOption = None,
) -> ExitCode:
    """Pause a schedule; a run in progress ends normally."""
    who = actor_name(actor)
    _decide(
        settings_of(ctx),
        lambda known: [schedule_decisions.pause(known, name, now_ms(), actor=who, reason=reason)],
        _nothing,
    )
    say(f"schedule {name} is paused")
    return ExitCode.OK


@app.command()
def resume(ctx: typer.Context, name: _Name, actor: ActorOption = None) -> ExitCode:
    """Resume a schedule and reset its count of failures."""
    who = actor_name(actor)
    _, following = _decide(
        settings_of(ctx), lambda known: [schedule_decisions.resume(known, name, now_ms(), actor=who)], _next(name)
    )
    say(f"schedule {name} is resumed{following or ''}")
    return ExitCode.OK


@app.command()
def remove(ctx: typer.Context, name: _Name, actor: ActorOption = None) -> ExitCode:
    """Remove a schedule.

    Amends does not create a removed automatic schedule again.
    """
    who = actor_name(actor)
    _decide(
        settings_of(ctx),
        lambda known: [schedule_decisions.remove(known, name, now_ms(), actor=who)],
        _nothing,
        gone=[name],
    )
    say(f"schedule {name} is removed")
    return ExitCode.OK


@app.command()
def trigger(
    ctx: typer.Context,
    name: _Name,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end of the run, and print its result.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Start a run now, on a worker, unless one is running.

    With --wait, exit status 3 means that a rule could not scan.
    """
    blind = 0

    def decide(known: Timetable) -> Sequence[ScheduleFact]:
        if (paused := schedule_of(known, name).paused) is not None:
            raise RefusedError(f"schedule {name!r} is paused ({paused}); resume it, or scan now: amends reconcile")
        return []

    async def begin(schedules: "TemporalSchedules") -> str:
        begun = await schedules.trigger(name)
        if begun is None:
            return f"no run of schedule {name} was started, because one is running"
        if not wait:
            return f"a run of schedule {name} was started; see: amends reconciliations"
        nonlocal blind
        came = await schedules.outcome(begun)
        blind = came.blind
        if came.idle is not None:
            return f"schedule {name} ran nothing: {came.idle}"
        if came.problem is not None:
            return f"schedule {name} ran, and could not scan: {came.problem}"
        others = f", {blind} could not scan" if blind else ""
        return (
            f"schedule {name} ran: {came.scanned} rules scanned{others}; drift {came.seen}, corrected {came.corrected}"
        )

    said = _decide(settings_of(ctx), decide, begin, needs_temporal=True)
    say(said[1] or "")
    return ExitCode.UNREACHABLE if blind else ExitCode.OK


def _check_time_zone(name: str) -> None:
    """Refuse an unknown time zone, if this machine has a list of time zones."""
    known = zoneinfo.available_timezones()
    if known and name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]}?" if near else "use a name such as Europe/Berlin"
        raise InputError(f"there is no time zone {shorten(name)}; {remedy}")


def _decide(
    settings: Settings,
    decide: Decide,
    then: Then,
    *,
    rules: Sequence[str] = (),
    gone: Sequence[str] = (),
    needs_temporal: bool = False,
) -> tuple[Timetable, str | None]:
    """Write a decision to the journal, align Temporal with it, and then act there.

    Args:
        settings: The settings.
        decide: Returns the facts of the decision.
        then: Acts on Temporal after it was aligned, and returns a text about it.
        rules: Names of rules that must exist.
        gone: Names of schedules that the decision removes.
        needs_temporal: Whether the command is useless without Temporal.

    Returns:
        The schedules, and the text of `then`; `None` if Temporal was away, which a remark has reported.
    """
    require_store(settings)
    project = project_of(settings)

    async def decided() -> tuple[Timetable, str | None]:
        from amends.reconciler.temporal.schedules import TemporalSchedules  # noqa: PLC0415 - imports Temporal

        journal = open_store(settings)
        try:
            around = await rule_context(settings, journal, project)
            chosen(around.rules, rules)
            timetable = await decide_on_schedules(journal, decide)
            problem = around.problem or ""
            if around.client is not None:
                schedules = TemporalSchedules(around.client, journal.store_id)
                try:
                    await schedules.align(timetable, gone=gone)
                    return timetable, await then(schedules)
                except UnreachableError as error:
                    problem = str(error)
            if needs_temporal:
                raise UnreachableError(problem)
            note(f"recorded; the next worker that starts informs Temporal: {problem}")
            return timetable, None
        finally:
            await journal.close()

    return asyncio.run(decided())


def _next(name: str) -> Then:
    """Return a function that returns the time of the schedule's next run, as the end of a sentence."""

    async def then(schedules: "TemporalSchedules") -> str:
        copy = (await schedules.copies([name])).get(name)
        return f", next {moment(copy.next_ms[0])}" if copy is not None and copy.next_ms else ""

    return then


async def _nothing(_: "TemporalSchedules") -> str:
    return ""
