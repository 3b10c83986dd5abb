"""`amends ignore`: drift that is left alone, until when, by whose decision and why."""

import asyncio
from collections.abc import Callable
from typing import Annotated

import typer

from amends.aggregates.errors import InputError
from amends.aggregates.journal import Tx
from amends.aggregates.text import shorten
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note, say
from amends.cli.project.settings import Settings
from amends.cli.runtime.operator import ActorOption, actor_name
from amends.cli.runtime.rule_context import now_ms, project_of, recorded_rules, rule_named
from amends.cli.runtime.store import open_for_reading, require_store
from amends.cli.runtime.wiring import open_store, settings_of
from amends.cli.views.table import Column, table
from amends.cli.views.times import moment
from amends.reconciler.drift.decide import ignore, stop_ignoring
from amends.reconciler.drift.facts import ReconciliationFact
from amends.reconciler.drift.rule_state import Ignore, RuleState
from amends.reconciler.drift.stream import reconciliation_of
from amends.reconciler.runtime.check import rule_state_of

__all__ = ["add", "app", "list_ignores", "remove"]

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Ignore drift for a while.")

_DAY_MS = 24 * 3_600_000
_COLUMNS = (
    Column("rule", 8),
    Column("ignored", 14, copied=True),
    Column("until", 25),
    Column("state", 7),
    Column("by", 6),
    Column("reason", 20, below=True),
)
_Rule = Annotated[
    str, typer.Argument(metavar="RULE", help="Name of the rule that finds the drift.", show_default=False)
]
_What = Annotated[str, typer.Argument(metavar="ID|SUBJECT", help="Id of a drift, or a subject.", show_default=False)]


@app.command()
def add(  # noqa: PLR0917 - Typer passes options by name
    ctx: typer.Context,
    rule: _Rule,
    what: _What,
    reason: Annotated[str, typer.Option("--reason", help="Reason; the journal keeps it.", show_default=False)],
    days: Annotated[float, typer.Option("--days", help="Number of days to ignore it.")] = 7.0,
    actor: ActorOption = None,
) -> ExitCode:
    """Ignore a drift, or everything about a subject, for a while."""
    if not 0 < days <= 3_650:  # noqa: PLR2004 - ten years
        raise InputError(f"--days is {days:g}; use a number above 0 up to 3650")
    who = actor_name(actor)
    until_ms = now_ms() + round(days * _DAY_MS)
    found = False

    def decide(rule_state: RuleState) -> ReconciliationFact:
        nonlocal found
        found = any(what in {name, each.found.subject} for name, each in rule_state.drifts.items())
        return ignore(rule_state, what, now_ms(), actor=who, reason=reason, until_ms=until_ms)

    _write(settings_of(ctx), rule, decide)
    say(f"{what} is ignored by rule {rule} until {moment(until_ms)}")
    if not found:
        note(f"no open drift has the id or subject {shorten(what)} now; if it is misspelt, remove it")
    return ExitCode.OK


@app.command()
def remove(ctx: typer.Context, rule: _Rule, what: _What, actor: ActorOption = None) -> ExitCode:
    """Stop ignoring a drift or a subject."""
    who = actor_name(actor)
    _write(settings_of(ctx), rule, lambda rule_state: stop_ignoring(rule_state, what, now_ms(), actor=who))
    say(f"rule {rule} no longer ignores {what}")
    return ExitCode.OK


@app.command("list")
def list_ignores(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """List ignored drift and subjects, the expired ones included."""
    settings = settings_of(ctx)
    found = asyncio.run(_ignores(settings))
    at_ms = now_ms()
    if as_json:
        print_json(
            [
                {"rule": rule, "what": what, **each.model_dump(), "expired": each.until_ms <= at_ms}
                for rule, what, each in found
            ]
        )
    elif not found:
        note("nothing is ignored")
    else:
        shown = screen()
        rows = [
            (rule, what, moment(each.until_ms), "expired" if each.until_ms <= at_ms else "", each.actor, each.reason)
            for rule, what, each in found
        ]
        shown.show(table(_COLUMNS, rows, shown.width))
    return ExitCode.OK


async def _ignores(settings: Settings) -> list[tuple[str, str, Ignore]]:
    with open_for_reading(settings) as journal:
        return [
            (name, what, each)
            for name in recorded_rules(journal)
            for what, each in (await rule_state_of(journal, name)).ignores.items()
        ]


def _write(settings: Settings, name: str, make: Callable[[RuleState], ReconciliationFact]) -> None:
    require_store(settings)
    project = project_of(settings)
    journal = open_store(settings)
    try:
        rule = rule_named(settings, journal, project, name)

        def unit(tx: Tx) -> None:
            with tx.unit_of_work() as uow:
                stream = reconciliation_of(uow, rule.name)
                stream.record(make(stream.rule_state))

        journal.commit_blocking(unit)
    finally:
        journal.close_blocking()
