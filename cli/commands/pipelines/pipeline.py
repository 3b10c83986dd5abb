"""`amends pipeline`: the commands that operate pipelines, put together."""

import typer

from amends.cli.commands.pipelines import audit, decisions, quarantine, run, status

__all__ = ["app"]

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Run, watch and control pipelines.")
app.command("list")(status.list_pipelines)
app.command("show")(status.show)
app.command("run")(run.run)
app.command("audit")(audit.audit)
app.command("pause")(decisions.pause)
app.command("resume")(decisions.resume)
app.command("seek")(decisions.seek)
app.command("mode")(decisions.mode)
app.command("accept-losses")(decisions.accept_losses)
app.add_typer(quarantine.app, name="quarantine")
app.command("check")(decisions.check)
