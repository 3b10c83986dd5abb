"""`amends reconciliations` and `amends reconciliation`: what past looks saw and did, from the journal alone."""

import asyncio
from typing import Annotated

import typer

from amends.aggregates.errors import NotFoundError
from amends.cli.answer import print_json, screen
from amends.cli.exit_codes import ExitCode
from amends.cli.reading import open_for_reading
from amends.cli.reconciling import chosen, project_of, rule_and_look, standing_facts, surroundings
from amends.cli.remarks import note
from amends.cli.render import Column, json_text, moment, table
from amends.cli.wiring import settings_of
from amends.reconciler.facts import DriftUnobservable, ReconciliationFact, RuleLooked

__all__ = ["reconciliation", "reconciliations"]

_LOOKS = (
    Column("id", 10, copied=True),
    Column("when", 19),
    Column("by", 6),
    Column("mode", 7),
    Column("seen", 4, right=True),
    Column("corrected", 9, right=True),
    Column("what", 20, below=True),
)
_FACTS = (
    Column("position", 8, right=True),
    Column("when", 19),
    Column("fact", 10),
    Column("by", 6),
    Column("what", 20, copied=True, below=True),
)


def reconciliations(
    ctx: typer.Context,
    rules: Annotated[list[str] | None, typer.Argument(metavar="RULE...", help="Only these rules.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, the newest.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """List past looks for drift, newest first."""
    settings = settings_of(ctx)
    project = project_of(settings)
    with open_for_reading(settings) as journal:
        around = asyncio.run(surroundings(settings, journal, project))
        looks = []
        for rule in chosen(around.rules, rules or []):
            facts = [fact for _, _, fact in standing_facts(journal, rule.name)]
            corrected = [fact.look for fact in facts if type(fact).__name__ == "DriftCorrected"]
            ends = [fact for fact in facts if isinstance(fact, RuleLooked | DriftUnobservable)]
            looks += [(rule.name, fact, corrected.count(fact.look)) for fact in ends]
    looks = sorted(looks, key=lambda each: each[1].as_of_ms, reverse=True)[:limit]
    if as_json:
        print_json(
            [
                {"id": f"{rule}:{fact.look}", "corrected": corrected, **fact.model_dump(mode="json")}
                for rule, fact, corrected in looks
            ]
        )
    elif not looks:
        note("nobody has looked yet; look: amends reconcile")
    else:
        shown = screen()
        shown.show(table(_LOOKS, [_row(*each) for each in looks], shown.width))
    return ExitCode.OK


def _row(rule: str, fact: RuleLooked | DriftUnobservable, corrected: int) -> tuple[str, ...]:
    start = (f"{rule}:{fact.look}", moment(fact.as_of_ms), fact.actor)
    if isinstance(fact, DriftUnobservable):
        return (*start, "", "", "", f"could not look: {fact.reason}")
    return (*start, fact.mode.value, str(len(fact.seen)), str(corrected), fact.stopped or "")


def reconciliation(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="Such as read-model:7.", show_default=False)],  # noqa: A002 - the word of the interface
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Show what a look saw and did."""
    rule, look = rule_and_look(id)
    with open_for_reading(settings_of(ctx)) as journal:
        facts = [each for each in standing_facts(journal, rule) if each[2].look == look]
    if not facts:
        raise NotFoundError(f"there is no reconciliation {id!r}; amends reconciliations lists them")
    if as_json:
        print_json(
            [{"position": position, "kind": kind, **fact.model_dump(mode="json")} for position, kind, fact in facts]
        )
    else:
        shown = screen()
        rows = [
            (str(position), moment(fact.as_of_ms), kind, fact.actor, json_text(_own(fact)))
            for position, kind, fact in facts
        ]
        shown.show(table(_FACTS, rows, shown.width))
    return ExitCode.OK


def _own(fact: ReconciliationFact) -> dict[str, object]:
    return fact.model_dump(mode="json", exclude=set(ReconciliationFact.model_fields), exclude_none=True)
