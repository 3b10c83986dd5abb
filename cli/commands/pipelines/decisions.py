"""`amends pipeline pause`, `resume`, `seek`, `mode`, `accept-losses` and `check`: decisions, recorded as facts."""

import asyncio
from typing import Annotated

import typer

from amends.aggregates.errors import InputError
from amends.aggregates.journal import Tx
from amends.aggregates.values.strict_json import clean_text
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note, say, silence_logs
from amends.cli.runtime.operator import ActorOption, actor_name
from amends.cli.runtime.pipeline_commands import decisions
from amends.cli.runtime.pipeline_commands.opened import known_names, state_of
from amends.cli.runtime.store import open_for_reading
from amends.cli.runtime.wiring import load_project, settings_of
from amends.cli.views.operated_pipelines.status import mode_text
from amends.cli.views.table import Column, table
from amends.pipelines.control import decide
from amends.pipelines.control.facts import PipelineFact, PositionSought
from amends.pipelines.control.state import ALL, PipelineState
from amends.pipelines.intake.modes import Mode
from amends.sagas.runtime.clock import SystemClock

__all__ = ["accept_losses", "check", "mode", "pause", "resume", "seek"]

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the pipeline.", show_default=False)]
_Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Reason; the journal keeps it.", show_default=False)
]
_Accept = Annotated[bool, typer.Option("--accept", help="Declare the present definition; workers then run it.")]
_CHECKS = (Column("pipeline", 10, copied=True), Column("state", 12), Column("difference", 30, below=True, prose=True))


def pause(ctx: typer.Context, name: _Name, reason: _Reason, actor: ActorOption = None) -> ExitCode:
    """Pause a pipeline: it takes no further messages.

    The decision holds from the next commit on. A batch that is under way is either committed before it, or not at all.
    """
    who, why = actor_name(actor), clean_text(reason)
    decisions.decide(
        settings_of(ctx), name, lambda _, state: decide.pause(state, name, _now_ms(), actor=who, reason=why)
    )
    say(f"pipeline {name} is paused; to resume it: amends pipeline resume {name}")
    return ExitCode.OK


def resume(ctx: typer.Context, name: _Name, actor: ActorOption = None) -> ExitCode:
    """Resume a pipeline that was paused or has paused."""
    who = actor_name(actor)
    decisions.decide(settings_of(ctx), name, lambda _, state: decide.resume(state, name, _now_ms(), actor=who))
    say(f"pipeline {name} takes messages again")
    return ExitCode.OK


def mode(  # noqa: PLR0917 - arguments and options of the command line
    ctx: typer.Context,
    name: _Name,
    new_mode: Annotated[Mode, typer.Argument(metavar="MODE", help=f"One of {', '.join(Mode)}.", show_default=False)],
    reason: _Reason,
    share: Annotated[
        int, typer.Option("--share", metavar="PERCENT", help="Share of the keys that get the mode, 0 to 100.")
    ] = ALL,
    actor: ActorOption = None,
) -> ExitCode:
    """Change the mode of a pipeline.

    The pipeline must handle messages; one that starts runs has a single mode. `--share` changes the mode of a part of
    the keys.

    A key's place among all keys never changes, so a larger share includes the keys of a smaller one. The decision
    records the position of each partition from which it holds.
    """
    who, why = actor_name(actor), clean_text(reason)
    after = PipelineState()

    def make(tx: Tx, state: PipelineState) -> PipelineFact:
        nonlocal after
        positions = {partition: each.next for partition, each in tx.intake.positions(name).items()}
        fact = decide.change_mode(
            state, name, new_mode, _now_ms(), actor=who, reason=why, share=share, positions=positions
        )
        after = state.apply(fact)
        return fact

    decisions.decide(settings_of(ctx), name, make)
    say(f"pipeline {name}: {mode_text(after)}, from the present position of each partition on")
    return ExitCode.OK


def seek(  # noqa: PLR0917 - arguments and options of the command line
    ctx: typer.Context,
    name: _Name,
    reason: _Reason,
    partition: Annotated[
        str | None,
        typer.Argument(metavar="[PARTITION]", help="Partition; optional if there is only one.", show_default=False),
    ] = None,
    to: Annotated[int | None, typer.Option("--to", metavar="POSITION", help="Position of the next message.")] = None,
    start: Annotated[bool, typer.Option("--start", help="The oldest message that the source has.")] = False,  # noqa: FBT002 - an option
    end: Annotated[bool, typer.Option("--end", help="The end of the source: pass over everything before.")] = False,  # noqa: FBT002 - an option
    every: Annotated[bool, typer.Option("--all", help="Move all partitions; with --start or --end.")] = False,  # noqa: FBT002 - an option
    actor: ActorOption = None,
) -> ExitCode:
    """Move the position of a partition.

    The pipeline must be paused, unless the partition has stopped because its source was replaced. Then --start accepts
    the new source. A message that is read again has no second effect in the mode exactly-once, as long as the store
    remembers its id.
    """
    if [to is not None, start, end].count(True) != 1:
        raise InputError("name one place: --to POSITION, --start or --end")
    if every and (to is not None or partition is not None):
        raise InputError("--all goes with --start or --end, and with no PARTITION")
    who, why, settings = actor_name(actor), clean_text(reason), settings_of(ctx)
    silence_logs()
    with decisions.store_of(settings) as journal:
        known_names(journal, None, name)
        partitions = decisions.chosen_partitions(journal, name, partition, all_=every)
        places: dict[str, decisions.Place]
        if to is not None:
            places = dict.fromkeys(partitions, (to, None))
        else:
            pipeline = load_project(settings).pipelines.pipeline(name)
            places = asyncio.run(decisions.ends_of(settings, pipeline, partitions, start=start))
        facts = decisions.seek_to(journal, name, places, actor=who, reason=why)
    for fact in facts:
        say(_sought(fact))
    if not facts:
        note(f"pipeline {name!r} has read no partition yet, so there is nothing to move")
    return ExitCode.OK


def _sought(fact: PositionSought) -> str:
    if fact.to > fact.former:
        return f"partition {fact.partition}: from {fact.former} to {fact.to}; the messages in between are passed over"
    return f"partition {fact.partition}: from {fact.former} to {fact.to}; the messages in between are read again"


def accept_losses(
    ctx: typer.Context,
    name: _Name,
    partition: Annotated[str, typer.Argument(metavar="PARTITION", help="The partition.", show_default=False)],
    reason: _Reason,
    actor: ActorOption = None,
) -> ExitCode:
    """Record that you have dealt with lost messages.

    The source has lost them before the pipeline read them.
    """
    who, why = actor_name(actor), clean_text(reason)
    decisions.decide(
        settings_of(ctx),
        name,
        lambda _, state: decide.accept_losses(state, name, partition, _now_ms(), actor=who, reason=why),
    )
    say(f"partition {partition} of pipeline {name}: the loss is accepted")
    return ExitCode.OK


def check(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Name of the pipeline; all if left out.", show_default=False)
    ] = None,
    accept: _Accept = False,  # noqa: FBT002 - an option
    actor: ActorOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Compare declared definitions with the present code.

    A worker does not run a pipeline whose definition differs from the declared one, because another id, key or handler
    changes the effect of the messages. The command ends with status 1 if one differs.
    """
    settings = settings_of(ctx)
    project = load_project(settings)
    names = sorted(project.pipelines.pipelines) if name is None else [project.pipelines.pipeline(name).name]
    if accept and name is None:
        raise InputError("--accept needs the NAME of a pipeline")
    if accept and name is not None:
        with decisions.store_of(settings) as journal:
            fact = decisions.declare_pipeline(journal, project, name, actor=actor_name(actor), accept=True)
        say(f"pipeline {name} is declared{'' if fact is None else f': {fact.fingerprint}'}")
        return ExitCode.OK
    with open_for_reading(settings) as journal:
        states = {each: state_of(journal, each) for each in names}
    found = {each: decide.changes_of(state, project.pipelines.declarations[each]) for each, state in states.items()}
    words = {each: _word(states[each], found[each]) for each in names}
    if as_json:
        print_json([{"pipeline": each, "state": words[each], "changes": found[each]} for each in names])
    elif not names:
        note("the project defines no pipelines")
    else:
        shown = screen()
        shown.show(table(_CHECKS, [(each, words[each], "; ".join(found[each])) for each in names], shown.width))
    return ExitCode.FOUND if any(found.values()) else ExitCode.OK


def _word(state: PipelineState, changes: list[str]) -> str:
    if state.declared is None:
        return "not declared"
    return "changed" if changes else "as declared"


def _now_ms() -> int:
    return SystemClock().now_ms()
