"""`amends db`: the schema of the store, and the integrity of its content."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from amends.aggregates.audit import Finding, FindingKind
from amends.aggregates.errors import JournalError
from amends.aggregates.events.aggregate import Aggregate
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note
from amends.cli.project.settings import Settings
from amends.cli.runtime.store import codec_of, in_data_dir, require_store, store_engine
from amends.cli.runtime.wiring import ensure_data_dir, load_project, settings_of
from amends.cli.views.table import Column, table

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["app", "check", "rebuild", "upgrade"]

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Upgrade, check or rebuild the store.")

_COLUMNS = (
    Column("found", 8),
    Column("where", 12, copied=True),
    Column("position", 8, right=True),
    Column("what", 20, copied=True),
)


@app.command()
def upgrade(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Upgrade the store's schema to this version.

    The command creates an SQLite store that does not exist. It may run again, and in several processes at the same
    time.
    """
    from amends.aggregates.sql import migrations  # noqa: PLC0415 - imports the database
    from amends.aggregates.sql.engine import create_store_engine  # noqa: PLC0415 - as above

    settings = settings_of(ctx)
    if in_data_dir(settings):
        ensure_data_dir(settings)
    engine = create_store_engine(settings.store_url)
    try:
        before = migrations.current_revision(engine)
        changed = migrations.upgrade(engine)
    finally:
        engine.dispose()
    after = migrations.HEAD_REVISION
    if as_json:
        print_json({"store": settings.safe_store_url, "before": before, "after": after, "changed": changed})
    else:
        what = f"upgraded from {before or 'nothing'} to {after}" if changed else f"is at {after} already"
        screen().show(f"schema of {settings.safe_store_url} {what}")
    return ExitCode.OK


@app.command()
def check(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Check the store for damage.

    The check reads the schema, every stream, and everything derived from them.
    The check changes nothing, and other processes can go on working. Exit status 0 means that it found nothing, 1 that
    it found something.
    """
    settings = settings_of(ctx)
    require_store(settings)
    # Without the modules, the events of their aggregates would be unknown.
    aggregates = load_project(settings).aggregates if settings.modules else ()
    with store_engine(settings) as engine:
        findings = list(_findings(engine, settings, aggregates))
    if as_json:
        print_json([_as_json(finding) for finding in findings])
    elif findings:
        shown = screen()
        shown.show(table(_COLUMNS, [_row(finding) for finding in findings], shown.width))
        if any(finding.fixed_by_rebuild for finding in findings):
            note("rebuild the read model: amends db rebuild")
    else:
        screen().show(f"nothing wrong with {settings.safe_store_url}")
    return ExitCode.FOUND if findings else ExitCode.OK


@app.command()
def rebuild(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Rebuild the read model from the journal.

    Other processes can go on working. The command skips and lists runs that it cannot read; the exit status is then 1.
    """
    from amends.aggregates.sql.engine import create_store_engine  # noqa: PLC0415 - imports the database
    from amends.aggregates.sql.migrations import ensure_schema  # noqa: PLC0415 - as above
    from amends.aggregates.sql.rebuild_index import rebuild_index  # noqa: PLC0415 - as above

    settings = settings_of(ctx)
    require_store(settings)
    engine = create_store_engine(settings.store_url)
    try:
        ensure_schema(engine)
        done = rebuild_index(engine, codec_of(()))
    finally:
        engine.dispose()
    if as_json:
        skipped = [_as_json(finding) for finding in done.skipped]
        print_json({"written": done.written, "removed": done.removed, "skipped": skipped})
    else:
        shown = screen()
        shown.show(f"{done.written} runs written, {done.removed} removed, {len(done.skipped)} skipped")
        if done.skipped:
            shown.show(table(_COLUMNS, [_row(finding) for finding in done.skipped], shown.width))
    return ExitCode.FOUND if done.skipped else ExitCode.OK


def _findings(engine: "Engine", settings: Settings, aggregates: tuple[type[Aggregate], ...]) -> Iterator[Finding]:
    from amends.aggregates.sql import check as store_check  # noqa: PLC0415 - imports the database
    from amends.aggregates.sql import migrations  # noqa: PLC0415 - imports the database

    try:
        outdated = migrations.needs_upgrade(engine)
    except JournalError as error:
        # A schema that is too new, or a store that is no database, is a finding of this check too.
        problem, _, remedy = str(error).rpartition("; ")
        yield Finding(FindingKind.DATABASE, settings.safe_store_url, None, problem, remedy)
        return
    if outdated:
        found = migrations.current_revision(engine) or "none"
        problem = f"its schema is {found}, this version needs {migrations.HEAD_REVISION}"
        yield Finding(FindingKind.DATABASE, settings.safe_store_url, None, problem, "run `amends db upgrade`")
        return
    yield from store_check.check(engine, codec_of(aggregates))


def _row(finding: Finding) -> tuple[str, ...]:
    position = "" if finding.position is None else str(finding.position)
    return (finding.kind.value, finding.subject, position, finding.message)


def _as_json(finding: Finding) -> dict[str, object]:
    return {
        "kind": finding.kind.value,
        "subject": finding.subject,
        "position": finding.position,
        "message": finding.message,
    }
