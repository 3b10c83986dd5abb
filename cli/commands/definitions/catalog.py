"""`amends catalog`: every step of the project's modules, and how it is undone; needs neither a store nor Temporal."""

from typing import Annotated

import typer

from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note
from amends.cli.runtime.wiring import load_project, settings_of
from amends.cli.views.plan import CATALOG, catalog_row, entry_json
from amends.cli.views.table import table

__all__ = ["catalog"]


def catalog(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """List every step and how it is undone.

    For each step the list shows its kind and guarantee, its compensation or the reason why it has none, its probe, the
    participant that it calls with its contract, the number of attempts, and its owner.
    """
    entries = sorted(load_project(settings_of(ctx)).registry.catalog.entries, key=lambda entry: entry.step)
    if as_json:
        print_json([entry_json(entry) for entry in entries])
    elif not entries:
        note("the configured modules define no steps; define one with @transaction or @effect")
    else:
        shown = screen()
        shown.show(table(CATALOG, [catalog_row(entry) for entry in entries], shown.width))
    return ExitCode.OK
