"""`amends drift`: scans by every rule and shows the findings; it opens the store read-only and cannot write."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from amends.aggregates.journal import JournalReader
from amends.aggregates.values.strict_json import readable_json
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import busy, print_json, screen
from amends.cli.output.remarks import note
from amends.cli.project.settings import Settings
from amends.cli.runtime.rule_context import chosen, now_ms, project_of, rule_context
from amends.cli.runtime.store import open_for_reading
from amends.cli.runtime.wiring import settings_of
from amends.cli.views.table import WHOLE, Column, table
from amends.reconciler.drift.decide import Verdict, decide, ignored
from amends.reconciler.drift.drift import described
from amends.reconciler.drift.facts import RuleScanned
from amends.reconciler.drift.rule import Rule
from amends.reconciler.runtime.check import rule_state_of, scan, scan_all

__all__ = ["NEW", "ScanReport", "drift", "scan_only", "seen_json", "show_seen", "status_of"]

NEW = "Scan once, only new records and the next part of a sweep, as schedules do."
"""Help text of the option `--new`."""

_COLUMNS = (
    Column("drift", 14, copied=True),
    Column("rule", 8),
    Column("subject", 10, copied=True),
    Column("kind", 10),
    # Half of a difference is of no use to the reader.
    Column("expected", WHOLE, below=True),
    Column("actual", WHOLE, below=True),
    Column("evidence", WHOLE, below=True),
    Column("correction", WHOLE, below=True),
)


@dataclass(frozen=True)
class ScanReport:
    """The result of one rule's scan.

    Attributes:
        rule: The rule.
        verdict: The conclusions from the scan.
        at_ms: Time of the scan, in milliseconds since the epoch.
    """

    rule: Rule
    verdict: Verdict
    at_ms: int

    @property
    def unobservable(self) -> str | None:
        """Why the rule could not scan; `None` if it could."""
        return self.verdict.rule_state.unobservable

    def is_ignored(self, name: str) -> bool:
        """Whether the drift is ignored at the time of the scan."""
        return ignored(self.verdict.rule_state, name, self.verdict.seen[name].subject, self.at_ms) is not None


def drift(
    ctx: typer.Context,
    rules: Annotated[
        list[str] | None, typer.Argument(metavar="[RULE]...", help="Only these rules; all if left out.")
    ] = None,
    new: Annotated[bool, typer.Option("--new", help=NEW)] = False,  # noqa: FBT002 - an option
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - as above
) -> ExitCode:
    """Find drift between record and world; change nothing.

    Exit status 0 means that there is no drift, 1 that there is some, 3 that a rule could not scan, even if others found
    drift. The command shows ignored drift but does not count it.
    """
    seen = asyncio.run(scan_only(settings_of(ctx), rules or [], new=new))
    if as_json:
        print_json([seen_json(each) for each in seen])
    else:
        show_seen(seen)
    return status_of(seen)


async def scan_only(settings: Settings, names: Sequence[str], *, new: bool) -> list[ScanReport]:
    """Scan by the chosen rules, without any means to write.

    Args:
        settings: The settings, which name the store.
        names: The rules; empty for all.
        new: Whether to scan once, only new records and the next part of a sweep, instead of everything.

    Raises:
        UnreachableError: The store cannot be read.
        NotFoundError: A rule does not exist.
    """
    project = project_of(settings)
    with open_for_reading(settings) as journal:
        around = await rule_context(settings, journal, project)
        wanted = chosen(around.rules, names)
        found = []
        for number, rule in enumerate(wanted, 1):
            with busy(f"scanning with rule {rule.name}, {number} of {len(wanted)}"):
                found.append(await _scan(journal, rule, around.driven, new=new))
        return found


async def _scan(journal: JournalReader, rule: Rule, driven: Mapping[str, str] | None, *, new: bool) -> ScanReport:
    at_ms = now_ms()
    rule_state = await rule_state_of(journal, rule.name)

    async def once() -> Verdict:
        # Each scan acts as if it were recorded. All of them share one time, so that none counts as a second sighting.
        nonlocal rule_state
        seen = await scan(rule, journal, rule_state, at_ms, driven=driven)
        verdict = decide(rule_state, rule, seen, at_ms, actor="amends drift")
        rule_state = verdict.rule_state
        return verdict

    if new:
        return ScanReport(rule, await once(), at_ms)
    rule_state = rule_state.model_copy(update={"sweep": ""})
    verdicts = [verdict async for verdict in scan_all(once, "")]
    return ScanReport(rule, verdicts[-1], at_ms)


def status_of(seen: Sequence[ScanReport]) -> ExitCode:
    """Return the exit status for the findings."""
    if any(each.unobservable is not None for each in seen):
        return ExitCode.UNREACHABLE
    counts = any(not each.is_ignored(name) for each in seen for name in each.verdict.seen)
    return ExitCode.FOUND if counts else ExitCode.OK


def show_seen(seen: Sequence[ScanReport]) -> None:
    """Print the findings."""
    shown = screen()
    rows = [row for each in seen for row in _rows(each)]
    if rows:
        shown.show(table(_COLUMNS, rows, shown.width))
    elif all(each.unobservable is None for each in seen):
        shown.show(f"no drift found by {len(seen)} rule{'s' * (len(seen) != 1)}")
    for each in seen:
        if each.unobservable is not None:
            note(f"rule {each.rule.name} could not scan: {each.unobservable}")
        if each.verdict.stopped is not None:
            note(f"rule {each.rule.name}: {each.verdict.stopped}")


def _rows(seen: ScanReport) -> list[tuple[str, ...]]:
    return [
        (
            name,
            seen.rule.name,
            each.subject,
            str(each.kind),
            readable_json(each.expected),
            readable_json(each.actual),
            each.evidence,
            _done(seen, name),
        )
        for name, each in seen.verdict.seen.items()
    ]


def _done(seen: ScanReport, name: str) -> str:
    correction = seen.verdict.seen[name].correction
    if correction is None:
        return "ignored" if seen.is_ignored(name) else "none: a person must decide"
    reason = seen.verdict.held.get(name)
    return described(correction) + ("" if reason is None else f"; not now: {reason}")


def seen_json(seen: ScanReport) -> dict[str, Any]:
    """Return the findings of one rule as JSON."""
    return {
        "rule": seen.rule.name,
        "mode": seen.rule.policy.mode.value,
        "as_of_ms": seen.at_ms,
        "scanned": next((fact.count for fact in seen.verdict.facts if isinstance(fact, RuleScanned)), None),
        "scan_failed": seen.unobservable,
        "stopped": seen.verdict.stopped,
        "drift": [
            {
                "id": name,
                "subject": each.subject,
                "kind": str(each.kind),
                "expected": each.expected,
                "actual": each.actual,
                "evidence": each.evidence,
                "version": each.version,
                "correction": None if each.correction is None else described(each.correction),
                "due": name in seen.verdict.due,
                "held": seen.verdict.held.get(name),
                "ignored": seen.is_ignored(name),
            }
            for name, each in seen.verdict.seen.items()
        ],
    }
