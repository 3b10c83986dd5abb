"""The work of the operators' commands: show the consequences, ask, write the decision, and wake the run.

The decision is written to the state that the operator saw: a run that has gone on meanwhile is refused. The commands
start no server. If they cannot reach Temporal, the fact is in the journal, and the run goes on when a worker starts.
"""

import asyncio
import sys
import time
from dataclasses import dataclass
from datetime import timedelta

import typer

from amends.aggregates.errors import BusyError, InputError, RefusedError, UnreachableError
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.run.record import RunRecord
from amends.aggregates.sql.journal import SqlJournal
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note, say
from amends.cli.project.settings import Settings
from amends.cli.runtime.store import record_of, require_store
from amends.cli.runtime.wiring import load_project, open_store
from amends.cli.views.interventions import Driven, plan_fields, preview_json, what_next
from amends.cli.views.table import fields
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.interventions import Intervention, InterventionKind, Preview, preview
from amends.sagas.engine.protocol import RunProtocol

__all__ = ["Request", "carry_out", "now_ms", "wake_run"]

_LOOK_S = 0.2
_REACH = timedelta(seconds=5)
_NOBODY: Registry = Registry(())


@dataclass(frozen=True, slots=True)
class Request:
    """The request of the command line.

    Attributes:
        run_id: The run.
        wanted: The decision.
        yes: Whether to write without asking.
        json: Whether to print the answer as JSON, and nothing else.
        after_expiry: Whether to wait for the end of a live claim.
        has_output: Whether the user passed a result, which may be null.
    """

    run_id: str
    wanted: Intervention
    yes: bool
    json: bool
    after_expiry: bool
    has_output: bool


def carry_out(settings: Settings, request: Request) -> ExitCode:
    """Show the consequences of a decision, ask, write the decision, and print the state of the run.

    Raises:
        AmendsError: The decision was refused, or a part cannot be reached; the message says whether the command wrote
            anything.
    """
    require_store(settings)
    # Only a result needs the project's types: a run can be cancelled or retried while its modules cannot be loaded.
    typed = request.wanted.kind in {InterventionKind.SKIP, InterventionKind.RESOLVE}
    protocol = RunProtocol(load_project(settings).registry if typed else _NOBODY, request.wanted.actor)
    journal = open_store(settings)
    try:
        seen = _look(journal, protocol, request)
        if not request.json:
            shown = screen()
            shown.show(fields(plan_fields(seen, now_ms()), shown.width))
        if seen.fact is not None and not request.yes:
            _ask(seen, request)
        record = _write(journal, protocol, request, seen)
    finally:
        journal.close_blocking()
    driven = asyncio.run(wake_run(settings, record))
    _answer(request, seen, record, driven)
    return ExitCode.OK


def now_ms() -> int:
    """Return the wall time, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _look(journal: SqlJournal, protocol: RunProtocol, request: Request) -> Preview:
    """Preview the decision on the present run; while a claim is live, wait for its end if the request says so."""
    told = False
    while True:
        record, now = record_of(journal, request.run_id), now_ms()
        try:
            seen = preview(protocol.registry, record, request.wanted, now)
        except BusyError as busy:
            if not request.after_expiry:
                raise
            if busy.until_ms <= now:
                # If no driver remains to notice it, this command writes the end of the claim.
                journal.commit_blocking(lambda tx, at=now: protocol.conclude(tx, request.run_id, at))
                continue
            left_s = (busy.until_ms - now) / 1000
            if not told:
                note(f"a call is in flight; waiting for its answer, for {left_s:.0f} s at most, when its claim ends")
                told = True
            time.sleep(min(_LOOK_S, left_s))
        else:
            if request.has_output and seen.fact is not None and not hasattr(seen.fact, "result"):
                raise InputError(f"{seen.fact.kind} has no result, so --output has no meaning; leave it out")
            return seen


def _ask(seen: Preview, request: Request) -> None:
    """Ask for confirmation, and return only after a yes.

    Raises:
        RefusedError: The answer was no, or there is no terminal to ask on.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        if request.json:
            print_json({"run_id": request.run_id, "written": False, "plan": preview_json(seen)})
        raise RefusedError(
            "cannot ask for confirmation without a terminal; nothing was written; pass --yes to skip the question"
        )
    if request.json:
        for name, value in plan_fields(seen, now_ms()):
            note(f"{name:12} {value}")
    if not typer.confirm("Do it?", err=True):
        raise RefusedError("not confirmed; nothing was written")


def _write(journal: SqlJournal, protocol: RunProtocol, request: Request, seen: Preview) -> RunRecord:
    if seen.fact is None:
        return seen.before
    at, position = now_ms(), seen.before.state.position
    return journal.commit_blocking(
        lambda tx: protocol.intervene(tx, request.run_id, request.wanted, at, position=position), runs=(request.run_id,)
    )


async def wake_run(settings: Settings, record: RunRecord) -> Driven:
    """Wake a run if it is open and Temporal drives it; return a part that cannot be reached as part of the answer."""
    from amends.cli.runtime.temporal import probe_temporal  # noqa: PLC0415 - imports Temporal
    from amends.sagas.temporal.start_workflow import wake  # noqa: PLC0415 - as above

    if record.state.closed or record.driver != TEMPORAL_DRIVER:
        return Driven(woken=False)
    reach = await probe_temporal(settings, _REACH)
    if reach.client is None:
        return Driven(woken=False, why_not=reach.problem)
    try:
        await wake(reach.client, record, task_queue=settings.task_queue)
    except UnreachableError:
        return Driven(woken=False, why_not=f"Temporal at {reach.target and reach.target.address} went away")
    if not any(worker.store_id in {record.started.store_id, None} for worker in reach.workers):
        why = f"no worker of this store polls queue {settings.task_queue!r}; start one: amends worker (or amends dev)"
        return Driven(woken=True, why_not=why)
    return Driven(woken=True)


def _answer(request: Request, seen: Preview, record: RunRecord, driven: Driven) -> None:
    text = what_next(record, driven)
    if not request.json:
        say(text)
        return
    print_json(
        {
            "run_id": record.run_id,
            "written": seen.fact is not None,
            "plan": preview_json(seen),
            "status": record.state.status.value,
            "position": record.state.position,
            "woken": driven.woken,
            "text": text,
        }
    )
