"""`amends recover`: brings every unfinished run back to a Temporal that lost it or was restored from an older copy."""

import asyncio
from datetime import timedelta
from typing import Annotated

import typer

from amends.aggregates.errors import AmendsError, UnreachableError
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note, say, silence_logs
from amends.cli.project.settings import Settings
from amends.cli.runtime.operator import actor_name, known_actor
from amends.cli.runtime.store import record_of, require_store
from amends.cli.runtime.wiring import open_store, settings_of
from amends.cli.views.recovery import COLUMNS, Recovered
from amends.cli.views.table import table
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.protocol import RunProtocol

__all__ = ["recover"]

_REACH = timedelta(seconds=5)
_REASON = "amends recover --take-over"


def recover(
    ctx: typer.Context,
    accept_older_store: Annotated[  # noqa: FBT002 - an option
        bool,
        typer.Option(
            "--accept-older-store",
            help="Continue a run even if Temporal has seen facts of it that the store lacks; Amends then repeats the "
            "calls of these facts, under the same keys.",
        ),
    ] = False,
    take_over: Annotated[
        list[str] | None,
        typer.Option(
            "--take-over",
            metavar="ID",
            help="Let Temporal drive this run instead of the in-process driver, which must stop driving it; "
            "may be repeated.",
        ),
    ] = None,
    actor: Annotated[
        str | None,
        typer.Option("--actor", metavar="NAME", help="Name to record with a takeover; by default your login name."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Bring every unfinished run back to Temporal.

    The journal is the truth: from it the command starts every workflow again that Temporal has lost, and no recorded
    step runs again. The exit status is 1 if a run was refused, or if Temporal drives a run that this store does not
    have.
    """
    silence_logs()
    settings = settings_of(ctx)
    # Only taking a run over is a decision, so only that needs a name.
    who = actor_name(actor) if take_over or actor is not None else known_actor() or "amends recover"
    found = asyncio.run(_recover(settings, take_over or [], who, accept_older_store=accept_older_store))
    if as_json:
        print_json(found.to_json())
    else:
        shown = screen()
        if rows := found.rows():
            shown.show(table(COLUMNS, rows, shown.width))
        say(found.summary())
    return ExitCode.FOUND if found.wrong else ExitCode.OK


async def _recover(settings: Settings, take_over: list[str], actor: str, *, accept_older_store: bool) -> Recovered:
    from amends.cli.runtime.temporal import probe_temporal  # noqa: PLC0415 - imports Temporal
    from amends.sagas.runtime.clock import SystemClock  # noqa: PLC0415 - needed only for writing
    from amends.sagas.temporal import recovery  # noqa: PLC0415 - as above

    require_store(settings)
    journal = open_store(settings)
    try:
        for run_id in take_over:
            record_of(journal, run_id)  # finds a wrong id before anything is written
        reach = await probe_temporal(settings, _REACH)
        if reach.client is None:
            for damage in (await recovery.damaged_runs(journal)).values():
                note(str(damage))
            raise UnreachableError(f"{reach.problem}; nothing was done")
        protocol, taken, refused = RunProtocol(Registry(()), actor), [], dict[str, str]()
        for run_id in dict.fromkeys(take_over):
            now_ms = SystemClock().now_ms()
            try:
                await journal.commit(
                    lambda tx, run_id=run_id, now_ms=now_ms: protocol.take_over(
                        tx, run_id, TEMPORAL_DRIVER, now_ms, actor=actor, reason=_REASON
                    ),
                    runs=(run_id,),
                )
                taken.append(run_id)
            except UnreachableError:
                raise
            except AmendsError as error:
                refused[run_id] = str(error)
        queue = settings.task_queue
        done = await recovery.recover(
            reach.client, journal, task_queue=queue, sagas=None, accept_older_store=accept_older_store
        )
        unknown = await recovery.unknown_to_store(reach.client, journal, task_queue=queue)
    finally:
        await journal.close()
    return Recovered(taken, done.started, done.driven, {**refused, **done.refused}, unknown, done.damaged)
