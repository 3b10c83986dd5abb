"""`amends show`: the state of one run, from its facts; for an open run also whether anything drives it."""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.run.facts import AttentionRequested, Fact
from amends.aggregates.run.record import RunRecord
from amends.aggregates.values.strict_json import readable_json
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.project.settings import Settings
from amends.cli.runtime.blocked_runs import blockers_of
from amends.cli.runtime.store import open_for_reading, reading_of, report_damage
from amends.cli.runtime.wiring import settings_of
from amends.cli.views.driver_status import DriverStatus
from amends.cli.views.facts import (
    Next,
    NodeView,
    attention_of,
    damage_json,
    next_steps,
    node_json,
    node_views,
    still_to_undo,
    trace_of,
)
from amends.cli.views.table import STATUS_STYLES, Cell, Column, clip, escaped, fields, node_style, styled, table
from amends.cli.views.times import duration, moment
from amends.sagas.engine.result import RunResult

__all__ = ["show"]

_INPUT_CHARS = 300
_LINE_CHARS = 1_000
_COLUMNS = (
    Column("#", 3),
    Column("step", 10, copied=True),
    Column("kind", 6),
    Column("role", 6),
    Column("state", 13),
    Column("attempts", 15),
    Column("result or error", 24, below=True),
)


def show(
    ctx: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the run.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Show the state of a run.

    The command shows the steps of the plan, finished and remaining; the last error; and the next actions with their
    times. If the run needs attention, the command shows the open nodes and the reason. If the run is not closed, it
    shows whether anything drives the run. If some facts are unreadable, it shows the run as it was before the first of
    them, names them with the reason, and ends with exit status 6.
    """
    settings = settings_of(ctx)
    with open_for_reading(settings) as journal:
        reading = reading_of(journal, run_id)
        store_id = journal.store_id
    if reading.record is None:
        if as_json:
            print_json({"run_id": run_id, "damage": [damage_json(each) for each in reading.damage]})
        return report_damage(reading)
    record = reading.record
    facts = [fact for fact in reading.facts if fact.position <= record.state.position]
    driving = None if record.state.closed else _driving(settings, record, store_id)
    waits = blockers_of(settings, record)
    now_ms = time.time_ns() // 1_000_000
    if as_json:
        damage = [damage_json(each) for each in reading.damage]
        told = _as_json(record, facts, driving, now_ms)
        print_json({**told, "blockers": [each.to_json() for each in waits], "damage": damage})
    else:
        shown = screen()
        shown.show(*_layout(record, facts, driving, now_ms, shown.width))
        if waits:
            lines = [("" if at else "code", each.text) for at, each in enumerate(waits)]
            shown.show(fields(lines, shown.width))
    return report_damage(reading)


def _driving(settings: Settings, record: RunRecord, store_id: str) -> DriverStatus:
    if record.driver != TEMPORAL_DRIVER:
        return DriverStatus(f"driven by the process that started it ({record.driver}), which may have ended")
    from amends.cli.runtime.temporal import driving_of  # noqa: PLC0415 - imports Temporal, which closed runs do not need

    return asyncio.run(driving_of(settings, record.run_id, store_id))


def _as_json(record: RunRecord, facts: Sequence[Fact], driving: DriverStatus | None, now_ms: int) -> dict[str, object]:
    attention = attention_of(record, facts)
    return {
        **RunResult(record).to_json(),
        "nodes": [node_json(view) for view in node_views(record, facts)],
        "next": [step._asdict() for step in next_steps(record.state, now_ms)],
        "still_to_undo": [list(group) for group in still_to_undo(record.state)],
        "attention": attention and {"nodes": list(attention.nodes), "reason": attention.reason},
        "driving": driving and driving.to_json(),
    }


def _layout(
    record: RunRecord, facts: Sequence[Fact], driving: DriverStatus | None, now_ms: int, width: int
) -> list[RenderableType]:
    state = record.state
    nodes = node_views(record, facts)
    parts: list[RenderableType] = [
        Text.assemble(
            (record.run_id, "bold"), "  ", (state.status.value, STATUS_STYLES[state.status]), overflow="fold"
        ),
        "",
        fields(_about(record, now_ms), width),
        "",
        table(_COLUMNS, [_row(view) for view in nodes], width),
    ]
    more: list[tuple[str, Cell | None]] = []
    if record.error is not None:
        more.append(("last error", clip(record.error, _LINE_CHARS)))
    if trace := trace_of(facts):
        more.append(("came from", clip("; ".join(trace), _LINE_CHARS)))
    if record.in_doubt:
        more.append(("in doubt", f"{', '.join(record.in_doubt)}; amends explain {record.run_id} says why"))
    if (attention := attention_of(record, facts)) is not None:
        more += _attention(attention, nodes)
    more += [("next" if at == 0 else "", _next_line(step, now_ms)) for at, step in enumerate(next_steps(state, now_ms))]
    if undo := still_to_undo(state):
        more.append(("to undo", ", then ".join(" and ".join(group) for group in undo)))
    if driving is not None:
        more.append(("driver", clip(driving.text, _LINE_CHARS)))
    return [*parts, "", fields(more, width)] if more else parts


def _about(record: RunRecord, now_ms: int) -> list[tuple[str, Cell | None]]:
    started = record.started
    state = record.state
    zone = None  # the local one
    taken = duration((state.updated_ms if state.closed else now_ms) - state.started_ms)
    return [
        ("saga", started.saga),
        ("accepted", f"{moment(state.started_ms, zone)} by {escaped(started.actor)}"),
        ("took" if state.closed else "open for", taken),
        ("keys", ", ".join(f"{field}={value}" for field, value in started.keys.items())),
        ("input", clip(readable_json(started.input), _INPUT_CHARS)),
        ("facts", f"{state.position}; amends history {record.run_id} lists them"),
    ]


def _row(view: NodeView) -> tuple[Cell, ...]:
    return (
        view.place,
        view.node.name,
        view.node.kind.value,
        view.node.role.value,
        styled(view.state.status.value, node_style(view.state.status)),
        view.attempts_text,
        view.said,
    )


def _attention(attention: AttentionRequested, nodes: Sequence[NodeView]) -> list[tuple[str, Cell | None]]:
    lines: list[tuple[str, Cell | None]] = [("attention", styled(attention.reason, "bold"))]
    open_nodes = [view for view in nodes if view.node.name in attention.nodes]
    for at, view in enumerate(open_nodes):
        said = f": {clip(view.error, _LINE_CHARS)}" if view.error else ""
        lines.append(("open" if at == 0 else "", f"{view.node.name} is {view.state.status.value}{said}"))
    return lines


def _next_line(step: Next, now_ms: int) -> str:
    when = "now" if step.due_ms is None else f"in {duration(step.due_ms - now_ms)}"
    return f"{step.node}: {step.what} {when}" if step.node else f"{step.what} {when}"
