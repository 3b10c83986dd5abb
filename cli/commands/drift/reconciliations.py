"""`amends reconciliations` and `amends reconciliation`: findings and corrections of past scans, from the journal alone.

They need neither the project's modules nor Temporal, and read streams from their ends: the latest scan appears at once,
however many came before it.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any, NamedTuple

import typer

from amends.aggregates.errors import NotFoundError
from amends.aggregates.text import shorten
from amends.aggregates.values.strict_json import readable_json
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note
from amends.cli.runtime.rule_context import RecordedFact, latest_first, recorded_rules, rule_and_scan
from amends.cli.runtime.store import open_for_reading
from amends.cli.runtime.wiring import settings_of
from amends.cli.views.table import WHOLE, Column, table
from amends.cli.views.times import moment
from amends.reconciler.drift.facts import (
    CorrectionFailed,
    CorrectionStarted,
    DriftApproved,
    DriftCleared,
    DriftCorrected,
    DriftDetected,
    DriftIgnored,
    DriftProposed,
    DriftUnobservable,
    IgnoreRemoved,
    ReconciliationFact,
    RuleScanned,
)

__all__ = ["reconciliation", "reconciliations"]

_SCANS = (
    Column("id", 10, copied=True),
    Column("when", 25),
    Column("by", 6),
    Column("mode", 7),
    Column("seen", 4, right=True),
    Column("corrected", 9, right=True),
    Column("failed", 6, right=True),
    Column("remark", WHOLE, below=True),
)
_FACTS = (
    Column("position", 8, right=True),
    Column("when", 25),
    Column("fact", 17),
    Column("drift", 14, copied=True),
    Column("by", 6),
    Column("what", WHOLE, below=True),
)


class _Scan(NamedTuple):
    """A scan that ended, with the number of corrections that followed it and the number of those that failed."""

    rule: str
    end: RuleScanned | DriftUnobservable
    corrected: int
    failed: int


def reconciliations(
    ctx: typer.Context,
    rules: Annotated[
        list[str] | None, typer.Argument(metavar="[RULE]...", help="Only these rules; all if left out.")
    ] = None,
    found: Annotated[bool, typer.Option("--found", help="Only scans that found drift or could not scan.")] = False,  # noqa: FBT002 - an option
    limit: Annotated[int, typer.Option("--limit", min=1, help="Largest number of scans to list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """List past scans, newest first."""
    with open_for_reading(settings_of(ctx)) as journal:
        names = recorded_rules(journal)
        for rule in rules or ():
            if rule not in names:
                there_are = f"there are: {', '.join(names)}" if names else "no rule has scanned yet"
                raise NotFoundError(f"no scan by a rule {shorten(rule)} is recorded; {there_are}")
        scans = [
            scan
            for rule in dict.fromkeys(rules or names)
            for scan in islice(filter(_found_something if found else None, _scans(latest_first(journal, rule))), limit)
        ]
    scans = sorted(scans, key=lambda each: each.end.as_of_ms, reverse=True)[:limit]
    if as_json:
        print_json([_scan_json(each) for each in scans])
    elif not scans:
        note("no scan found drift" if found and names else "no rule has scanned yet; scan: amends reconcile")
    else:
        shown = screen()
        shown.show(table(_SCANS, [_scan_row(each) for each in scans], shown.width))
    return ExitCode.OK


def _scans(told: Iterable[RecordedFact]) -> Iterator[_Scan]:
    """Yield a rule's scans, the last one first; corrections stand after the end of their scan."""
    made: list[ReconciliationFact] = []
    for rule, _, fact in told:
        if isinstance(fact, RuleScanned | DriftUnobservable):
            corrected = sum(isinstance(each, DriftCorrected) and each.scan == fact.scan for each in made)
            failed = sum(isinstance(each, CorrectionFailed) and each.scan == fact.scan for each in made)
            yield _Scan(rule, fact, corrected, failed)
            made = []
        made.append(fact)


def _found_something(scan: _Scan) -> bool:
    return isinstance(scan.end, DriftUnobservable) or bool(scan.end.seen)


def _scan_json(scan: _Scan) -> dict[str, Any]:
    end = scan.end
    saw = end if isinstance(end, RuleScanned) else None
    return {
        "id": f"{scan.rule}:{end.scan}",
        "rule": scan.rule,
        "scan": end.scan,
        "as_of_ms": end.as_of_ms,
        "actor": end.actor,
        "mode": None if saw is None else saw.mode.value,
        "scan_failed": end.reason if isinstance(end, DriftUnobservable) else None,
        "scanned": None if saw is None else saw.count,
        "seen": [] if saw is None else [*saw.seen],
        "held": {} if saw is None else {**saw.held},
        "stopped": None if saw is None else saw.stopped,
        "corrected": scan.corrected,
        "failed": scan.failed,
    }


def _scan_row(scan: _Scan) -> tuple[str, ...]:
    end = scan.end
    start = (f"{scan.rule}:{end.scan}", moment(end.as_of_ms), end.actor)
    if isinstance(end, DriftUnobservable):
        return (*start, "", "", "", "", f"could not scan: {end.reason}")
    failed = str(scan.failed) if scan.failed else ""
    return (*start, end.mode.value, str(len(end.seen)), str(scan.corrected), failed, end.stopped or "")


def reconciliation(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of the scan, such as read-model:7.", show_default=False)],  # noqa: A002 - the interface calls it ID
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Show the findings and corrections of a scan."""
    rule, scan = rule_and_scan(id)
    with open_for_reading(settings_of(ctx)) as journal:
        facts = _of_scan(latest_first(journal, rule), scan)
    if not facts:
        raise NotFoundError(f"there is no reconciliation {shorten(id)}; amends reconciliations lists them")
    if as_json:
        print_json(
            [{"position": position, "fact": _kind(fact), **fact.model_dump(mode="json")} for _, position, fact in facts]
        )
    else:
        shown = screen()
        rows = [
            (
                str(position),
                moment(fact.as_of_ms),
                _kind(fact),
                str(getattr(fact, "drift", "")),
                fact.actor,
                _told(fact),
            )
            for _, position, fact in facts
        ]
        shown.show(table(_FACTS, rows, shown.width))
    return ExitCode.OK


def _of_scan(told: Iterable[RecordedFact], scan: int) -> list[RecordedFact]:
    """Return the facts of a scan, in order, with the earlier approvals that its corrections needed."""
    found: list[RecordedFact] = []
    acted: set[str] = set()
    for each in told:
        fact = each.fact
        if fact.scan < scan - 1:
            break
        if fact.scan == scan:
            found.append(each)
            if isinstance(fact, CorrectionStarted | DriftCorrected | CorrectionFailed):
                acted.add(fact.drift)
        elif isinstance(fact, DriftApproved) and fact.drift in acted and fact.scan == scan - 1:
            found.append(each)
    return found[::-1]


def _kind(fact: ReconciliationFact) -> str:
    return type(fact).__name__


def _told(fact: ReconciliationFact) -> str:
    """Return a fact in words, without its actor, time and drift."""
    match fact:
        case DriftDetected():
            expected, actual = readable_json(fact.expected), readable_json(fact.actual)
            found = f"{fact.subject}: {fact.kind}, {expected} expected, {actual} found"
            return f"{found}; {fact.evidence}" if fact.evidence else found
        case DriftProposed() | CorrectionStarted():
            return fact.correction
        case DriftCorrected():
            return f"{fact.correction}, which wrote {', '.join(fact.changed)}" if fact.changed else fact.correction
        case CorrectionFailed():
            return fact.error
        case DriftIgnored():
            return f"{fact.what} until {moment(fact.until_ms)}: {fact.reason}"
        case IgnoreRemoved():
            return fact.what
        case DriftUnobservable() | DriftApproved():
            return fact.reason or ""
        case DriftCleared():
            return "is no longer found"
        case RuleScanned():
            scanned = "" if fact.count is None else f" {fact.count}"
            held = "".join(f"; {name} {why}" for name, why in fact.held.items())
            return f"scanned{scanned}, saw {len(fact.seen)}{held}" + (f"; {fact.stopped}" if fact.stopped else "")
    return ""
