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
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note
from amends.cli.runtime.rule_context import Told, latest_first, recorded_rules, rule_and_look
from amends.cli.runtime.store import open_for_reading
from amends.cli.runtime.wiring import settings_of
from amends.cli.views.table import WHOLE, Column, json_text, moment, table
from amends.reconciler.drift.facts import (
    CorrectionBegun,
    CorrectionFailed,
    DriftApproved,
    DriftCleared,
    DriftCorrected,
    DriftDetected,
    DriftIgnored,
    DriftProposed,
    DriftUnobservable,
    IgnoreRemoved,
    ReconciliationFact,
    RuleLooked,
)

__all__ = ["reconciliation", "reconciliations"]

_LOOKS = (
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


class _Look(NamedTuple):
    """A scan that ended, with the number of corrections that followed it and the number of those that failed."""

    rule: str
    end: RuleLooked | DriftUnobservable
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
                there_are = f"there are: {', '.join(names)}" if names else "nobody has looked yet"
                raise NotFoundError(f"no look by a rule {shorten(rule)} is recorded; {there_are}")
        looks = [
            look
            for rule in dict.fromkeys(rules or names)
            for look in islice(filter(_found_something if found else None, _looks(latest_first(journal, rule))), limit)
        ]
    looks = sorted(looks, key=lambda each: each.end.as_of_ms, reverse=True)[:limit]
    if as_json:
        print_json([_look_json(each) for each in looks])
    elif not looks:
        note("no look found anything" if found and names else "nobody has looked yet; look: amends reconcile")
    else:
        shown = screen()
        shown.show(table(_LOOKS, [_look_row(each) for each in looks], shown.width))
    return ExitCode.OK


def _looks(told: Iterable[Told]) -> Iterator[_Look]:
    """Yield a rule's scans, the last one first; corrections stand after the end of their scan."""
    made: list[ReconciliationFact] = []
    for rule, _, fact in told:
        if isinstance(fact, RuleLooked | DriftUnobservable):
            corrected = sum(isinstance(each, DriftCorrected) and each.look == fact.look for each in made)
            failed = sum(isinstance(each, CorrectionFailed) and each.look == fact.look for each in made)
            yield _Look(rule, fact, corrected, failed)
            made = []
        made.append(fact)


def _found_something(look: _Look) -> bool:
    return isinstance(look.end, DriftUnobservable) or bool(look.end.seen)


def _look_json(look: _Look) -> dict[str, Any]:
    end = look.end
    saw = end if isinstance(end, RuleLooked) else None
    return {
        "id": f"{look.rule}:{end.look}",
        "rule": look.rule,
        "look": end.look,
        "as_of_ms": end.as_of_ms,
        "actor": end.actor,
        "mode": None if saw is None else saw.mode.value,
        "could_not_look": end.reason if isinstance(end, DriftUnobservable) else None,
        "looked_at": None if saw is None else saw.count,
        "seen": [] if saw is None else [*saw.seen],
        "held": {} if saw is None else {**saw.held},
        "stopped": None if saw is None else saw.stopped,
        "corrected": look.corrected,
        "failed": look.failed,
    }


def _look_row(look: _Look) -> tuple[str, ...]:
    end = look.end
    start = (f"{look.rule}:{end.look}", moment(end.as_of_ms), end.actor)
    if isinstance(end, DriftUnobservable):
        return (*start, "", "", "", "", f"could not look: {end.reason}")
    failed = str(look.failed) if look.failed else ""
    return (*start, end.mode.value, str(len(end.seen)), str(look.corrected), failed, end.stopped or "")


def reconciliation(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of the scan, such as read-model:7.", show_default=False)],  # noqa: A002 - the interface calls it ID
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Show the findings and corrections of a scan."""
    rule, look = rule_and_look(id)
    with open_for_reading(settings_of(ctx)) as journal:
        facts = _of_look(latest_first(journal, rule), look)
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


def _of_look(told: Iterable[Told], look: int) -> list[Told]:
    """Return the facts of a scan, in order, with the earlier approvals that its corrections needed."""
    found: list[Told] = []
    acted: set[str] = set()
    for each in told:
        fact = each.fact
        if fact.look < look - 1:
            break
        if fact.look == look:
            found.append(each)
            if isinstance(fact, CorrectionBegun | DriftCorrected | CorrectionFailed):
                acted.add(fact.drift)
        elif isinstance(fact, DriftApproved) and fact.drift in acted and fact.look == look - 1:
            found.append(each)
    return found[::-1]


def _kind(fact: ReconciliationFact) -> str:
    return type(fact).__name__


def _told(fact: ReconciliationFact) -> str:
    """Return a fact in words, without its actor, time and drift."""
    match fact:
        case DriftDetected():
            found = f"{fact.subject}: {fact.kind}, {json_text(fact.expected)} expected, {json_text(fact.actual)} found"
            return f"{found}; {fact.evidence}" if fact.evidence else found
        case DriftProposed() | CorrectionBegun():
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
            return "is not found any more"
        case RuleLooked():
            looked = "" if fact.count is None else f" at {fact.count}"
            held = "".join(f"; {name} {why}" for name, why in fact.held.items())
            return f"looked{looked}, saw {len(fact.seen)}{held}" + (f"; {fact.stopped}" if fact.stopped else "")
    return ""
