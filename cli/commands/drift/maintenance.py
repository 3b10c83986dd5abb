"""`amends maintenance`: times in which nothing is corrected, with the name of the operator and the reason."""

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from amends.aggregates.journal import Tx
from amends.cli.durations import FORMS, span_ms
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note, say
from amends.cli.project.settings import Settings
from amends.cli.runtime.operator import ActorOption, actor_name
from amends.cli.runtime.rule_context import chosen, now_ms, project_of, rules_of
from amends.cli.runtime.store import open_for_reading, require_store
from amends.cli.runtime.wiring import open_store, settings_of
from amends.cli.views.table import Column, table
from amends.cli.views.times import moment
from amends.reconciler.maintenance_windows import (
    EVERY_RULE,
    Maintenance,
    MaintenanceFact,
    Window,
    Windows,
    end_maintenance,
    maintenance_of,
    start_maintenance,
)

__all__ = ["app", "list_windows", "start", "stop"]

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Pause all corrections for a while.")

_MOST_MS = 30 * 86_400_000
_COLUMNS = (
    Column("rule", 8),
    Column("since", 19),
    Column("until", 19),
    Column("by", 6),
    Column("reason", 20, below=True),
)
_Rules = Annotated[list[str] | None, typer.Argument(metavar="[RULE]...", help="Only these rules; all if left out.")]


@app.command()
def start(
    ctx: typer.Context,
    length: Annotated[str, typer.Option("--for", metavar="DURATION", help=f"Length of the pause, {FORMS}.")],
    reason: Annotated[str, typer.Option("--reason", help="Reason; the journal keeps it.", show_default=False)],
    rules: _Rules = None,
    actor: ActorOption = None,
) -> ExitCode:
    """Start a maintenance window; rules go on scanning.

    Starting a window again replaces its end.
    """
    who = actor_name(actor)
    settings = settings_of(ctx)
    started_ms = now_ms()
    until_ms = started_ms + span_ms(length, "--for", least_ms=1_000, most_ms=_MOST_MS)
    facts = start_maintenance(rules or [], started_ms, actor=who, reason=reason, until_ms=until_ms)
    _write(settings, lambda _: facts, rules or [])
    say(f"nothing is corrected by {_named(rules)} until {moment(until_ms)}")
    return ExitCode.OK


@app.command()
def stop(ctx: typer.Context, rules: _Rules = None, actor: ActorOption = None) -> ExitCode:
    """Resume corrections."""
    who = actor_name(actor)
    ended = _write(settings_of(ctx), lambda windows: end_maintenance(windows, rules or [], now_ms(), actor=who))
    names = [each.rule for each in ended]
    say(f"drift is corrected again by {_named(None if EVERY_RULE in names else names)}")
    return ExitCode.OK


@app.command("list")
def list_windows(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """List the open maintenance windows."""
    with open_for_reading(settings_of(ctx)) as journal:
        found = journal.load_blocking(Maintenance, Maintenance.ID)
    windows: dict[str, Window] = {} if found is None else found.windows.open_at(now_ms())
    if as_json:
        print_json([{"rule": rule, **each.model_dump()} for rule, each in windows.items()])
    elif not windows:
        note("no maintenance window is open")
    else:
        shown = screen()
        rows = [
            (_named([rule]), moment(each.from_ms), moment(each.until_ms), each.actor, each.reason)
            for rule, each in windows.items()
        ]
        shown.show(table(_COLUMNS, rows, shown.width))
    return ExitCode.OK


def _named(rules: Sequence[str] | None) -> str:
    return "every rule" if not rules or EVERY_RULE in rules else ", ".join(rules)


def _write(
    settings: Settings, make: Callable[[Windows], Sequence[MaintenanceFact]], rules: Sequence[str] = ()
) -> Sequence[MaintenanceFact]:
    """Write facts to the journal; every rule that they name must exist."""
    require_store(settings)
    project = project_of(settings)
    journal = open_store(settings)
    try:
        if rules:
            chosen(rules_of(settings, journal, project), rules)

        def unit(tx: Tx) -> Sequence[MaintenanceFact]:
            with tx.unit_of_work() as uow:
                stream = maintenance_of(uow)
                facts = make(stream.windows)
                for fact in facts:
                    stream.record(fact)
                return facts

        return journal.commit_blocking(unit)
    finally:
        journal.close_blocking()
