"""`amends reconcile`: scans, records the findings, shows the corrections that are due, and makes them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import typer

from amends.aggregates.errors import InputError, NotFoundError
from amends.aggregates.journal import Journal, Tx
from amends.aggregates.text import shorten
from amends.cli.commands.drift.drift import NEW, ScanReport, scan_only, seen_json, show_seen, status_of
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import busy, print_json
from amends.cli.output.remarks import note, say
from amends.cli.project.settings import Settings
from amends.cli.runtime.operator import ActorOption, actor_name, known_actor
from amends.cli.runtime.rule_context import TemporalCorrections, chosen, now_ms, project_of, registry_of, rule_context
from amends.cli.runtime.store import require_store
from amends.cli.runtime.wiring import open_store, settings_of
from amends.cli.views.wording import and_more
from amends.reconciler.drift.decide import WAITS, Verdict, approve
from amends.reconciler.drift.rule import Rule
from amends.reconciler.drift.stream import reconciliation_of
from amends.reconciler.runtime.check import rule_state_of
from amends.reconciler.runtime.reconciler import Corrected, Reconciler

__all__ = ["reconcile"]

Done = tuple[ScanReport, list[Corrected]]

_NAMED = 5
_PROGRAM = "amends reconcile"


def reconcile(  # noqa: PLR0917 - Typer passes options by name
    ctx: typer.Context,
    rules: Annotated[
        list[str] | None, typer.Argument(metavar="[RULE]...", help="Only these rules; all if left out.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the corrections without making them.")] = False,  # noqa: FBT002 - an option
    approved: Annotated[
        list[str] | None,
        typer.Option("--approve", metavar="ID", help="Approve the correction of this drift; may be repeated."),
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Reason for the approval.", show_default=False)] = None,
    new: Annotated[bool, typer.Option("--new", help=NEW)] = False,  # noqa: FBT002 - as above
    actor: ActorOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - as above
) -> ExitCode:
    """Find drift, record it and correct it.

    The command corrects a drift if the rule's mode, caps and other guards allow it; a drift without a version needs two
    scans. The command shows every other drift with the reason. Exit status 0 means that no drift is left, 1 that some
    is, 3 that a rule could not scan.
    """
    settings = settings_of(ctx)
    if reason is not None and not approved:
        raise InputError(
            "--reason explains an approval, but the command approves nothing; add --approve ID, or leave --reason out"
        )
    if dry_run:
        if approved:
            raise InputError("--dry-run does nothing, so it cannot approve; use one of --dry-run and --approve")
        seen = asyncio.run(scan_only(settings, rules or [], new=new))
        print_json([seen_json(each) for each in seen]) if as_json else show_seen(seen)
        return status_of(seen)
    # An approval is a person's decision, so it needs a name. Decisions of the rules may be recorded under the program's
    # name.
    who = actor_name(actor) if approved or actor is not None else known_actor() or _PROGRAM
    done = asyncio.run(_reconcile(settings, rules or [], approved or [], reason, who, new=new, quiet=as_json))
    if as_json:
        print_json([{**seen_json(seen), "corrected": [_as_json(each) for each in made]} for seen, made in done])
    return _status(done)


async def _reconcile(
    settings: Settings,
    names: Sequence[str],
    approved: Sequence[str],
    reason: str | None,
    actor: str,
    *,
    new: bool,
    quiet: bool,
) -> list[Done]:
    require_store(settings)
    project = project_of(settings)
    journal = open_store(settings, () if project is None else project.aggregates)
    try:
        around = await rule_context(settings, journal, project)
        wanted = chosen(around.rules, names)
        if approved:
            await _approve(journal, wanted, approved, reason, actor)
        reconciler = Reconciler(
            journal,
            registry_of(project),
            TemporalCorrections(journal, around.client, settings.task_queue),
            clock=now_ms,
            actor=actor,
            driven=around.driven,
        )
        done = []
        for number, rule in enumerate(wanted, 1):
            what = f"scanning with rule {rule.name}, {number} of {len(wanted)}"
            done.append(await _work(reconciler, rule, what, new=new, quiet=quiet))
    finally:
        await journal.close()
    seen_or_made = {name for seen, made in done for name in (*seen.verdict.seen, *(each.drift for each in made))}
    for drift in approved:
        if drift not in seen_or_made:
            note(f"drift {drift} was approved, but the scan no longer finds it; nothing was corrected")
    if not quiet and not any(seen.verdict.seen for seen, _ in done) and _status(done) is ExitCode.OK:
        say(f"no drift found by {len(done)} rule{'s' * (len(done) != 1)}")
    return done


async def _work(reconciler: Reconciler, rule: Rule, what: str, *, new: bool, quiet: bool) -> Done:
    """Scan by one rule and make the due corrections, scan by scan; return the last scan and all corrections."""
    made: list[Corrected] = []
    scans = aiter(_once(reconciler, rule) if new else reconciler.scans(rule))
    while True:
        with busy(what):
            verdict = await anext(scans, None)
        if verdict is None:
            break
        seen = ScanReport(rule, verdict, now_ms())
        if verdict.due and not quiet:
            show_seen([seen])
        for name in verdict.due:
            made.append(await reconciler.correct(rule, name, verdict.seen[name]))
            if not quiet:
                _report(made[-1])
    if not seen.verdict.due and not quiet and (seen.verdict.seen or seen.unobservable is not None):
        show_seen([seen])
    if not quiet:
        _remind(seen)
    return seen, made


def _remind(seen: ScanReport) -> None:
    """Print the command that approves the corrections waiting for approval."""
    waiting = [name for name, reason in seen.verdict.held.items() if reason == WAITS]
    if waiting:
        which = waiting[0] if len(waiting) == 1 else "ID"
        note(f"{len(waiting)} to approve: amends reconcile {seen.rule.name} --approve {which}")


async def _once(reconciler: Reconciler, rule: Rule) -> AsyncIterator[Verdict]:
    yield await reconciler.scan(rule)


async def _approve(
    journal: Journal, rules: Sequence[Rule], drifts: Sequence[str], reason: str | None, actor: str
) -> None:
    """Record that an operator approves corrections: either every drift is known, or nothing is recorded."""
    found: dict[str, str] = {}
    for rule in rules:
        found |= dict.fromkeys((await rule_state_of(journal, rule.name)).drifts, rule.name)
    for drift in drifts:
        if drift not in found:
            raise NotFoundError(f"no open drift of these rules has the id {shorten(drift)}; {_open(list(found))}")

    def unit(tx: Tx) -> None:
        with tx.unit_of_work() as uow:
            for drift in dict.fromkeys(drifts):
                stream = reconciliation_of(uow, found[drift])
                stream.record(approve(stream.rule_state, drift, now_ms(), actor=actor, reason=reason))

    await journal.commit(unit)


def _open(drifts: Sequence[str]) -> str:
    """Return the ids of the open drifts, as part of a message."""
    if not drifts:
        return "no drift is open; to record drift: amends reconcile"
    return f"open: {and_more(drifts, _NAMED)}"


def _report(made: Corrected) -> None:
    if made.problem is None:
        wrote = f", which wrote {', '.join(made.changed)}" if made.changed else ""
        say(f"corrected {made.drift} of {made.subject}: {made.correction}{wrote}")
    else:
        note(f"not corrected: {made.drift} of {made.subject}: {made.problem}")


def _status(done: Sequence[Done]) -> ExitCode:
    status = status_of([seen for seen, _ in done])
    if status is not ExitCode.FOUND:
        return status
    fixed = {each.drift for _, made in done for each in made if each.problem is None}
    left = [name for seen, _ in done for name in seen.verdict.seen if name not in fixed and not seen.is_ignored(name)]
    return ExitCode.FOUND if left else ExitCode.OK


def _as_json(made: Corrected) -> dict[str, Any]:
    return {
        "drift": made.drift,
        "subject": made.subject,
        "correction": made.correction,
        "changed": list(made.changed),
        "problem": made.problem,
    }
