"""`amends pipeline audit`: whether the account is right, and whether the effects are those of the source."""

import asyncio
from typing import Annotated

import typer

from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note, say, silence_logs
from amends.cli.runtime.pipeline_commands.audit import audit as audited
from amends.cli.runtime.wiring import settings_of
from amends.cli.views.operated_pipelines.audit import ACCOUNT, account_row, audit_json, source_lines
from amends.cli.views.table import table

__all__ = ["audit"]

_AgainstSource = Annotated[
    bool, typer.Option("--against-source", help="Read the source again, and name missing and doubled ids.")
]


def audit(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Name of the pipeline or relay; all if left out.", show_default=False),
    ] = None,
    against_source: _AgainstSource = False,  # noqa: FBT002 - an option
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Audit the account of pipelines; change nothing.

    Every message that arrived was applied, was a duplicate, or is held, deferred or skipped; the ranges of the commits
    touch without gaps; and the sums equal the messages that are held now. With --against-source, the command reads the
    ids of the source again, up to the position of the pipeline, and looks for the effect of each. Ends with status 1 if
    it finds a fault.
    """
    silence_logs()
    found = asyncio.run(audited(settings_of(ctx), name, against_source=against_source))
    if as_json:
        print_json([audit_json(each.name, each.account, each.source) for each in found])
    else:
        rows = [account_row(each.name, part, result) for each in found for part, result in each.account.items()]
        if rows:
            shown = screen()
            shown.show(table(ACCOUNT, rows, shown.width))
        else:
            note("no pipeline has taken a message yet")
        for each in found:
            for result in each.account.values():
                for finding in result.findings:
                    say(finding)
            for line in () if each.source is None else source_lines(each.name, each.source):
                say(line)
    return ExitCode.OK if all(each.right for each in found) else ExitCode.FOUND
