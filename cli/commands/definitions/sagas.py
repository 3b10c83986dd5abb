"""`amends sagas` and `amends describe`: the definitions of the project; needs neither a store nor Temporal."""

import difflib
import time
from typing import Annotated

import typer
from rich.text import Text

from amends.aggregates.errors import InputError, NotFoundError
from amends.aggregates.run.plan import Plan
from amends.aggregates.text import shorten
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import busy, print_json, screen
from amends.cli.output.remarks import note
from amends.cli.runtime.wiring import Project, load_project, settings_of
from amends.cli.views.mermaid import flowchart
from amends.cli.views.pipelines import pipeline_fields, pipeline_json, relay_fields, relay_json
from amends.cli.views.plan import PLAN, plan_json, plan_rows, shape_of
from amends.cli.views.table import Column, fields, table
from amends.pipelines.definition.registry import PipelineRegistry
from amends.sagas.definition.saga import Saga

__all__ = ["describe", "sagas"]

_PATIENCE_S = 20.0

_COLUMNS = (
    Column("saga", 10, copied=True),
    Column("input", 6),
    Column("steps", 5, right=True),
    Column("found by", 8),
    Column("shape", 60, below=True),
)


def sagas(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """List the sagas of the project.

    In the shape, `>` separates stages that follow each other and `|` separates steps that run side by side. The fields
    under "found by" find runs: amends list --where FIELD=VALUE.
    """
    plans = [saga.plan for saga in load_project(settings_of(ctx)).registry.sagas.values()]
    if as_json:
        print_json([plan_json(plan) for plan in plans])
    elif not plans:
        note("the configured modules define no sagas; define one: name = Saga(...)")
    else:
        shown = screen()
        rows = [
            (plan.saga, plan.input_type, str(len(plan.nodes)), ", ".join(plan.keys), shape_of(plan)) for plan in plans
        ]
        shown.show(table(_COLUMNS, rows, shown.width))
    return ExitCode.OK


def describe(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the saga, pipeline or relay.", show_default=False)
    ],
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flowchart.")] = False,  # noqa: FBT002 - an option
    reachable: Annotated[bool, typer.Option("--reachable", help="List the ways in which a run can end.")] = False,  # noqa: FBT002 - as above
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the plan as it is stored.")] = False,  # noqa: FBT002 - as above
) -> ExitCode:
    """Show the plan of a saga, or a pipeline.

    For a pipeline or relay the command shows its definition with the values of the settings.

    With --reachable the command explores the plan alone, without your functions: each step may act, be refused or fail,
    replies may be lost, and the run may be cancelled, with at most two such faults in one run.
    """
    if mermaid and (as_json or reachable):
        raise InputError("--mermaid excludes --json and --reachable; choose one")
    project = load_project(settings_of(ctx))
    if name not in project.registry.sagas and name in project.pipelines.names:
        if mermaid or reachable:
            raise InputError(f"{name!r} is no saga, so it has no plan; leave out --mermaid and --reachable")
        _describe_pipeline(project.pipelines, name, as_json=as_json)
        return ExitCode.OK
    saga = _find(project, name)
    catalog = {entry.step: entry for entry in project.registry.catalog.entries}
    plan = saga.plan
    if reachable:
        _print_reachable(plan, as_json=as_json)
    elif as_json:
        print_json(plan_json(plan))
    elif mermaid:
        print(flowchart(plan, catalog), end="")  # noqa: T201 - the answer
    else:
        shown = screen()
        about = [
            ("input", plan.input_type),
            ("found by", ", ".join(plan.keys)),
            ("plan", plan.fingerprint),
        ]
        shown.show(
            Text(plan.saga, style="bold"),
            "",
            fields(about, shown.width),
            "",
            table(PLAN, plan_rows(plan, catalog), shown.width),
        )
    return ExitCode.OK


def _describe_pipeline(defined: PipelineRegistry, name: str, *, as_json: bool) -> None:
    is_relay = name in defined.relays
    if as_json:
        print_json(relay_json(defined, name) if is_relay else pipeline_json(defined, name))
        return
    shown = screen()
    fingerprint = defined.fingerprint(name)
    about = (
        relay_fields(defined.relays[name], fingerprint)
        if is_relay
        else pipeline_fields(defined.pipelines[name], fingerprint)
    )
    shown.show(Text(name, style="bold"), "", fields(about, shown.width))


def _print_reachable(plan: Plan, *, as_json: bool) -> None:
    from amends.cli.views.reachable import REACHABLE, reachable_json, reachable_rows  # noqa: PLC0415 - imports the search
    from amends.sagas.prove.plans.reachable import explore_plan  # noqa: PLC0415 - as above

    until_s = time.monotonic() + _PATIENCE_S
    with busy(f"exploring {plan.saga}"):
        # The search stops exploring when 70 % are spent, and tries random stories until all of it is.
        found = explore_plan(plan, budget=lambda _: 0.0 if time.monotonic() < until_s else 1.0)
    if as_json:
        print_json(reachable_json(found))
    else:
        shown = screen()
        shown.show(table(REACHABLE, reachable_rows(found), shown.width))
    if found.complete < found.faults:
        note(f"the plan is large: only runs with up to {max(found.complete, 0)} faults are all listed")


def _find(project: Project, name: str) -> Saga[object]:
    known = project.registry.sagas
    if name not in known:
        names = sorted({*known, *project.pipelines.names})
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"defined are: {', '.join(names) or 'none'}"
        kind = "saga or pipeline" if project.pipelines.names else "saga"
        raise NotFoundError(f"no {kind} is called {shorten(name)}; {hint}")
    return known[name]
