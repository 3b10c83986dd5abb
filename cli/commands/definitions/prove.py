"""`amends prove`: every way in which a saga can fail, explored before it is deployed; needs no store or Temporal."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from amends.aggregates.errors import InputError
from amends.aggregates.text import shorten
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import busy, print_json, screen
from amends.cli.output.remarks import note
from amends.cli.runtime.prove_inputs import imported, read_contracts, read_given, read_invariant, read_results
from amends.cli.runtime.run_inputs import read_value
from amends.cli.runtime.wiring import load_project, settings_of
from amends.cli.views.prove import matrix_view, report_json, report_view, story_json, story_view
from amends.cli.views.prove_page import prove_page
from amends.sagas.prove.end import Invariant
from amends.sagas.prove.experiment import Contracts, Experiment
from amends.sagas.prove.problem import ProveError
from amends.sagas.prove.report import Report
from amends.sagas.prove.runtime.explore import SECONDS, experiment_of, replay_in
from amends.sagas.prove.runtime.matrix import contract_matrix

__all__ = ["prove"]


# The search names the remedy as an argument of Python.
_RESULTS = re.compile(r"results=\{(\w+): a result\}")


def prove(  # noqa: PLR0917 - arguments and options of the command line
    ctx: typer.Context,
    saga: Annotated[str, typer.Argument(metavar="SAGA", help="Name of the saga.", show_default=False)],
    input_: Annotated[
        str | None,
        typer.Argument(
            metavar="[JSON|@FILE.json|-]",
            help="Input: JSON, a file with JSON, or - for standard input; by default {}.",
            show_default=False,
        ),
    ] = None,
    faults: Annotated[int, typer.Option("--faults", metavar="N", help="The number of faults in one story.")] = 2,
    operators: Annotated[
        int, typer.Option("--operators", metavar="N", help="The number of decisions of operators in one story.")
    ] = 0,
    contracts: Annotated[
        list[str] | None,
        typer.Option(
            "--contract",
            metavar="PARTICIPANT=CONTRACT",
            help="Contract to explore in place of the declared one: remembers-undo, keyed, forgetful or all. Repeat it "
            "for more contracts or participants.",
        ),
    ] = None,
    matrix: Annotated[bool, typer.Option("--matrix", help="Explore every contract of every participant.")] = False,  # noqa: FBT002 - an option
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--given",
            metavar="CLASS=JSON|MODULE:NAME",
            help="Aggregate that exists before the run, by the arguments of its constructor, or by the place of "
            "aggregates in a module. Repeat it for more.",
        ),
    ] = None,
    results: Annotated[
        list[str] | None,
        typer.Option(
            "--result",
            metavar="STEP=JSON",
            help="Result of a step in place of its function; needed for an effect that waits for a network.",
        ),
    ] = None,
    tables: Annotated[
        str | None,
        typer.Option("--tables", metavar="MODULE:NAME", help="The MetaData of your own tables.", show_default=False),
    ] = None,
    invariant: Annotated[
        str | None,
        typer.Option(
            "--invariant",
            metavar="MODULE:FUNCTION",
            help="Your own law, checked at every end: a function that takes an End and asserts, or a test of @prove.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", help="Time budget of one search; random stories use its rest.")
    ] = SECONDS,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of random stories.")] = 0,
    token: Annotated[
        str | None,
        typer.Option("--replay", metavar="TOKEN", help="Play the story of a report again.", show_default=False),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Also write the report as a web page.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Explore every way in which a saga can fail.

    The search runs your functions against participants in memory that keep their contracts and no more, and tries every
    crash, lost reply, refusal, late call, repeated call and cancellation, up to the number of faults. It checks the
    laws of sagas in every state, and prints the shortest story that breaks one. With several contracts it prints the
    contract matrix. Exit status 1 means that a story breaks a law. When the time is over, the result is "sampled"
    and not "proved".
    """
    if not math.isfinite(seconds):
        raise InputError(f"--seconds {seconds}: this is no number of seconds; give one above 0")
    project = load_project(settings_of(ctx))
    chosen = project.registry.saga(saga)
    experiment = experiment_of(
        chosen,
        read_value(project.registry, chosen, input_),
        given=read_given(project, given or ()),
        tables=None if tables is None else imported(tables, "--tables"),
        results=read_results(project.registry, chosen, results or ()),
    )
    if token is not None:
        return _replay(experiment, token, as_json=as_json)
    combinations = read_contracts(chosen, contracts or (), matrix=matrix)
    bounded = replace(experiment, faults=faults, operators=operators)
    law = None if invariant is None else read_invariant(invariant)
    reports = _explore(bounded, combinations, law, timedelta(seconds=seconds), seed)
    if html is not None:
        _write(html, prove_page(chosen.plan, reports))
    _print(ctx, reports, as_json=as_json)
    return ExitCode.OK if all(each.holds for each in reports) else ExitCode.FOUND


def _explore(
    experiment: Experiment, combinations: Sequence[Contracts], law: Invariant | None, budget: timedelta, seed: int
) -> list[Report]:
    what = f"exploring {experiment.saga.name}"
    with busy(what) as show:

        def progress(states: int, part: float) -> None:
            show(f"{what}: {states:,} states, {part:.0%} of the time")

        try:
            whole = budget * len(combinations)
            matrix = contract_matrix(
                experiment, combinations, invariant=law, budget=whole, seed=seed, progress=progress
            )
        except ProveError as error:
            raise ProveError(_RESULTS.sub(r"--result \1=JSON", str(error))) from error
    return [row.report for row in matrix.rows]


def _replay(experiment: Experiment, token: str, *, as_json: bool) -> ExitCode:
    story = replay_in(experiment, token)
    if as_json:
        print_json(story_json(story))
    else:
        shown = screen()
        shown.show(*story_view(story, shown.width))
    return ExitCode.OK


def _print(ctx: typer.Context, reports: Sequence[Report], *, as_json: bool) -> None:
    if as_json:
        found = [report_json(each) for each in reports]
        print_json(found[0] if len(found) == 1 else found)
        return
    shown = screen()
    if len(reports) > 1:
        shown.show(*matrix_view(reports, shown.width), "")
    broken = [each for each in reports if not each.holds]
    replay_with = f"{ctx.command_path} ... --replay "
    most = 1 if len(reports) > 1 else None
    for number, report in enumerate(broken or reports[:1]):
        shown.show(*[""][:number], *report_view(report, shown.width, replay=replay_with, most=most))
    assumed = reports[0].assumed
    if assumed:
        note(
            f"no one stated the contract of {', '.join(assumed)}; the search assumed that each remembers undos; "
            f"declare it: @effect(participant=Participant(..., contract=...))"
        )


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--html {shorten(str(path))}: the file cannot be written ({reason}); name another") from None
