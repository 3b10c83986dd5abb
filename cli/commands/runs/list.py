"""`amends list`: runs from the read model, newest first; needs neither modules nor Temporal."""

import time
from collections.abc import Sequence
from typing import Annotated

import typer

from amends.aggregates.errors import InputError
from amends.aggregates.journal import RunQuery
from amends.aggregates.run.record import RunSummary
from amends.aggregates.run.state import CLOSED, RunStatus
from amends.aggregates.text import shorten
from amends.cli.commands.runs.list_stuck import list_stuck
from amends.cli.durations import since_ms
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note
from amends.cli.runtime.store import open_for_reading
from amends.cli.runtime.wiring import settings_of
from amends.cli.views.table import STATUS_STYLES, Cell, Column, clip, styled, table
from amends.cli.views.times import ago, duration
from amends.cli.views.wording import and_more

__all__ = ["list_runs", "read_status", "read_where"]

_MOST = 100_000
_LOOKED_AT = 200
_ERROR_CHARS = 200

_COLUMNS = (
    Column("run", 12, copied=True),
    Column("saga", 10),
    Column("status", 15),
    Column("started", 8),
    Column("took", 10, below=True),
    Column("at", 12, below=True),
    Column("last error", 30, below=True),
)


def list_runs(  # noqa: PLR0917 - Typer passes options by name
    ctx: typer.Context,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", metavar="S", help="Only runs with this status; may be repeated.", show_default=False),
    ] = None,
    saga: Annotated[str | None, typer.Option("--saga", metavar="NAME", help="Only runs of this saga.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="T", help="Only runs accepted since a time: 90s, 2h, 1d12h ago, or in ISO 8601."
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="FIELD=VALUE",
            help="Only runs with this business key, which the saga declares; may be repeated.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=_MOST, help="Largest number of runs to list.")
    ] = 50,
    stuck: Annotated[  # noqa: FBT002 - an option
        bool, typer.Option("--stuck", help="Only stuck runs; exit status 1 if there are any.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """List runs, newest first.

    Statuses are RUNNING, CANCELLING, COMPENSATING, COMPLETED, COMPENSATED and NEEDS_ATTENTION.

    A run is stuck if it waits for an operator; if a step or an undo has been open for longer than its threshold
    (overdue= of the step, else the sum of its attempts and delays, or an hour if they have no limit); or if an action
    has been due for five minutes and nothing has done it. A run that the project's code cannot continue is stuck at
    once, with the remedy. If a run is stuck, the exit status is 1.
    """
    now_ms = time.time_ns() // 1_000_000
    query = RunQuery(
        statuses=frozenset(map(read_status, status or ())),
        saga=saga,
        since_ms=None if since is None else since_ms(since, now_ms),
        where=tuple(map(read_where, where or ())),
        # One more than the limit shows whether there are more.
        limit=limit + 1,
    )
    if stuck:
        return list_stuck(settings_of(ctx), query, now_ms, json_wanted=as_json)
    with open_for_reading(settings_of(ctx)) as journal:
        found = journal.runs_blocking(query)
        known = () if found else journal.runs_blocking(RunQuery(limit=_LOOKED_AT))
    rows = found[:limit]
    if as_json:
        print_json([row.to_json() for row in rows])
        return ExitCode.OK
    if not rows:
        note(_why_none(query, known))
        return ExitCode.OK
    shown = screen()
    shown.show(table(_COLUMNS, [_row(row, now_ms) for row in rows], shown.width))
    if len(found) > limit:
        note(f"the newest {limit} are shown; --limit shows more")
    return ExitCode.OK


def _row(run: RunSummary, now_ms: int) -> tuple[Cell, ...]:
    closed = run.status in CLOSED
    return (
        run.run_id,
        run.saga,
        styled(run.status.value, STATUS_STYLES[run.status]),
        ago(run.started_ms, now_ms),
        duration(run.updated_ms - run.started_ms) if closed else "",
        and_more(run.current.split(",")),
        clip(run.error or "", _ERROR_CHARS),
    )


def _why_none(query: RunQuery, known: Sequence[RunSummary]) -> str:
    """Return why the list is empty: most often a name is misspelt or unknown."""
    if not known:
        return "there are no runs yet; `amends run` starts one"
    sagas = sorted({run.saga for run in known})
    if query.saga is not None and query.saga not in sagas:
        return f"no runs of saga {query.saga!r}; the last runs are of: {', '.join(sagas)}"
    keys = sorted({field for run in known for field in run.keys})
    for field, _ in query.where:
        if field not in keys:
            there_are = f"the last runs have: {', '.join(keys)}" if keys else "none of the last runs has one"
            return f"no run with a business key {field!r}; {there_are} (sagas declare them: keys=(...))"
    return f"no runs match {_described(query)}"


def _described(query: RunQuery) -> str:
    parts = [f"status {' or '.join(sorted(query.statuses))}"] if query.statuses else []
    parts += [f"saga {query.saga}"] if query.saga else []
    parts += [f"{field}={value}" for field, value in query.where]
    parts += ["that time"] if query.since_ms is not None else []
    return " and ".join(parts)


# ---- reading the options


def read_status(text: str) -> RunStatus:
    """Read a status, in capitals or not, with `-` or `_`.

    Raises:
        InputError: The status does not exist.
    """
    name = text.strip().upper().replace("-", "_")
    if name not in RunStatus.__members__:
        raise InputError(f"--status {shorten(text)} is not a status; use {', '.join(RunStatus)}")
    return RunStatus[name]


def read_where(text: str) -> tuple[str, str]:
    """Read `FIELD=VALUE`; the value may be empty and may contain `=`.

    Raises:
        InputError: The text has no `=`, or no field before it.
    """
    field, separator, value = text.partition("=")
    if not separator or not field.strip():
        raise InputError(f"--where {shorten(text)} is not FIELD=VALUE; write it like --where order_id=42")
    return field.strip(), value
