"""`amends explain`: a run in sentences, for the operator who has to decide about it; works without its code."""

import time
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from amends.aggregates.errors import AmendsError
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note
from amends.cli.project.settings import Settings
from amends.cli.runtime.blocked_runs import blockers_of
from amends.cli.runtime.store import open_for_reading, reading_of, report_damage
from amends.cli.runtime.wiring import load_project, settings_of
from amends.cli.views.explanation import Contact, Explanation, explain, sections
from amends.cli.views.facts import damage_json
from amends.cli.views.table import STATUS_STYLES, clip

__all__ = ["explain_run"]

_LINE_CHARS = 1_000


def explain_run(
    ctx: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the run.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Explain the state of a run and list possible commands.

    The explanation has the last fact, every open step with its next action and time, the doubts and their reasons, the
    decisions with their actors, and the commands that are possible now. It names the owner of a step if the project's
    modules can be loaded. If some facts are unreadable, the command explains the run as it was before the first of
    them, names them with the reason, and ends with exit status 6.
    """
    settings = settings_of(ctx)
    with open_for_reading(settings) as journal:
        reading = reading_of(journal, run_id)
    if reading.record is None:
        if as_json:
            print_json({"run_id": run_id, "damage": [damage_json(each) for each in reading.damage]})
        return report_damage(reading)
    record = reading.record
    facts = [fact for fact in reading.facts if fact.position <= record.state.position]
    now_ms = time.time_ns() // 1_000_000
    told = explain(record, facts, now_ms, _contacts(settings), waits=blockers_of(settings, record))
    if as_json:
        print_json({**told.to_json(), "damage": [damage_json(each) for each in reading.damage]})
    else:
        screen().show(*_layout(told, now_ms))
    return report_damage(reading)


def _contacts(settings: Settings) -> dict[str, Contact] | None:
    try:
        entries = load_project(settings).registry.catalog.entries
    except AmendsError as error:
        note(f"owners and runbooks are missing, because the project cannot be loaded: {error}")
        return None
    return {entry.step: Contact(entry.owner, entry.runbook) for entry in entries}


def _layout(told: Explanation, now_ms: int) -> list[RenderableType]:
    record = told.record
    status = record.state.status
    parts: list[RenderableType] = [
        Text.assemble(
            (record.run_id, "bold"),
            f"  {record.started.saga}  ",
            (status.value, STATUS_STYLES[status]),
            overflow="fold",
        )
    ]
    for heading, lines in sections(told, now_ms, None):
        parts += ["", Text(heading, "bold")]
        parts += [Text(f"  {clip(line, _LINE_CHARS)}", overflow="fold") for line in lines]
    return parts
