"""`amends catalog`: the steps, pipelines and relays of the project's modules; needs neither a store nor Temporal."""

from typing import Annotated

import typer

from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note
from amends.cli.runtime.wiring import load_project, settings_of
from amends.cli.views.pipelines import PIPELINES, RELAYS, pipeline_json, pipeline_row, relay_json, relay_row
from amends.cli.views.plan import CATALOG, catalog_row, entry_json
from amends.cli.views.table import table

__all__ = ["catalog"]


def catalog(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """List the steps, pipelines and relays.

    For each step the list shows its kind and guarantee, its compensation or the reason why it has none, its probe, the
    participant that it calls with its contract, the number of attempts, and its owner. For each pipeline it shows its
    source, its messages and their effect; for each relay its sink and topics. In the JSON array, an object has the
    member "step", "pipeline" or "relay".
    """
    project = load_project(settings_of(ctx))
    entries = sorted(project.registry.catalog.entries, key=lambda entry: entry.step)
    defined = project.pipelines
    if as_json:
        print_json(
            [entry_json(entry) for entry in entries]
            + [pipeline_json(defined, name) for name in sorted(defined.pipelines)]
            + [relay_json(defined, name) for name in sorted(defined.relays)]
        )
        return ExitCode.OK
    if not entries and not defined.names:
        note("the configured modules define no steps; define one with @transaction or @effect")
    shown = screen()
    if entries:
        shown.show(table(CATALOG, [catalog_row(entry) for entry in entries], shown.width))
    pipelines = [pipeline_row(defined.pipelines[name]) for name in sorted(defined.pipelines)]
    relays = [relay_row(defined.relays[name]) for name in sorted(defined.relays)]
    for columns, rows in ((PIPELINES, pipelines), (RELAYS, relays)):
        if rows:
            shown.show("", table(columns, rows, shown.width))
    return ExitCode.OK
