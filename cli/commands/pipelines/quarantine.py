"""`amends pipeline quarantine`: the messages that a pipeline or relay holds, and the decisions about them."""

import asyncio
from typing import Annotated

import typer

from amends.aggregates.errors import InputError
from amends.aggregates.intake import HeldKind
from amends.aggregates.values.strict_json import clean_text
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note, say, silence_logs
from amends.cli.runtime.operator import ActorOption, actor_name
from amends.cli.runtime.pipeline_commands.held import Outcome, apply_held, held_at, skip_held
from amends.cli.runtime.store import open_for_reading
from amends.cli.runtime.wiring import settings_of
from amends.cli.views.operated_pipelines.held import HELD, held_fields, held_json, held_row
from amends.cli.views.table import fields, table
from amends.sagas.runtime.clock import SystemClock

__all__ = ["app", "list_held", "release", "retry", "show_held", "skip"]

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Deal with messages that a pipeline holds.")

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the pipeline or relay.", show_default=False)]
_Key = Annotated[
    str | None,
    typer.Argument(metavar="[KEY]", help="Key of the messages; or use --no-key.", show_default=False),
]
_NoKey = Annotated[bool, typer.Option("--no-key", help="The messages whose key is unknown, such as unreadable ones.")]
_Partition = Annotated[str, typer.Argument(metavar="PARTITION", help="Partition of the message.", show_default=False)]
_Position = Annotated[int, typer.Argument(metavar="POSITION", help="Position of the message.", show_default=False)]
_Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Reason; the journal keeps it.", show_default=False)
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_held(  # noqa: PLR0917 - options of the command line
    ctx: typer.Context,
    name: _Name,
    key: Annotated[str | None, typer.Option("--key", help="Only messages of this key.")] = None,
    kind: Annotated[
        HeldKind | None, typer.Option("--kind", metavar="KIND", help=f"Only this kind: {', '.join(HeldKind)}.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Largest number of messages to list.")] = 100,
    as_json: _Json = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """List held messages, in the order of partition and position.

    A follower is held because an earlier message of its key is. The command needs neither the project's modules nor the
    source, and shows no content.
    """
    kinds = frozenset() if kind is None else frozenset({kind})
    with open_for_reading(settings_of(ctx)) as journal:
        found = journal.intake.held(name, kinds=kinds, key=key, limit=limit)
        in_all = sum(journal.intake.held_counts(name).values())
    if as_json:
        print_json([held_json(each) for each in found])
        return ExitCode.OK
    if not found:
        note(f"{name!r} holds no such message" if in_all else f"{name!r} holds no message")
        return ExitCode.OK
    now_ms, shown = SystemClock().now_ms(), screen()
    shown.show(table(HELD, [held_row(each, now_ms) for each in found], shown.width))
    if len(found) == limit and in_all > limit:
        note(f"these are the first {limit} of {in_all} held messages; see --limit")
    return ExitCode.OK


@app.command("show")
def show_held(
    ctx: typer.Context,
    name: _Name,
    partition: _Partition,
    position: _Position,
    as_json: _Json = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Show a held message with its headers and content."""
    with open_for_reading(settings_of(ctx)) as journal:
        message = held_at(journal, name, partition, position)
    if as_json:
        print_json(held_json(message, content=True))
        return ExitCode.OK
    shown = screen()
    shown.show(fields(held_fields(message), shown.width))
    return ExitCode.OK


@app.command()
def retry(  # noqa: PLR0917 - options of the command line
    ctx: typer.Context,
    name: _Name,
    reason: _Reason,
    key: _Key = None,
    no_key: _NoKey = False,  # noqa: FBT002 - an option
    actor: ActorOption = None,
    as_json: _Json = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Apply the held messages of a key in order, such as after a fix of the handler.

    The first message that fails again holds up the later ones. Ends with status 5 if messages of the key are still
    held. For a relay, the messages are published.
    """
    return _apply(ctx, name, _key(key, no_key=no_key), reason, actor, force=False, as_json=as_json)


@app.command()
def release(  # noqa: PLR0917 - options of the command line
    ctx: typer.Context,
    name: _Name,
    reason: _Reason,
    key: _Key = None,
    no_key: _NoKey = False,  # noqa: FBT002 - an option
    actor: ActorOption = None,
    as_json: _Json = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Apply the held messages of a key, the first one even if its id is known or too old to tell.

    Use it when you know that the message has had no effect. Ends with status 5 if messages of the key are still held.
    """
    return _apply(ctx, name, _key(key, no_key=no_key), reason, actor, force=True, as_json=as_json)


@app.command()
def skip(  # noqa: PLR0917 - options of the command line
    ctx: typer.Context,
    name: _Name,
    partition: _Partition,
    position: _Position,
    reason: _Reason,
    actor: ActorOption = None,
) -> ExitCode:
    """Decide that a held message has no effect, and that no later message with its id has one.

    The later messages of its key stay held until you retry them.
    """
    silence_logs()
    message = asyncio.run(
        skip_held(settings_of(ctx), name, partition, position, actor=actor_name(actor), reason=clean_text(reason))
    )
    say(f"the message at position {position} of partition {partition} is skipped")
    if message.key:
        note(f"if later messages of its key are held: amends pipeline quarantine retry {name} {message.key!r}")
    return ExitCode.OK


def _key(key: str | None, *, no_key: bool) -> str:
    if (key is None) != no_key:
        raise InputError("name one of the two: a KEY, or --no-key for messages whose key is unknown")
    return key or ""


def _apply(
    ctx: typer.Context, name: str, key: str, reason: str, actor: str | None, *, force: bool, as_json: bool
) -> ExitCode:
    silence_logs()
    outcome = asyncio.run(
        apply_held(settings_of(ctx), name, key, actor=actor_name(actor), reason=clean_text(reason), force=force)
    )
    if as_json:
        print_json(
            {
                "applied": outcome.applied,
                "known": outcome.known,
                "started": outcome.started,
                "held": [held_json(each) for each in outcome.held],
            }
        )
    else:
        _say(outcome)
    return ExitCode.NEEDS_ATTENTION if outcome.held else ExitCode.OK


def _say(outcome: Outcome) -> None:
    known = f", {outcome.known} had taken effect before" if outcome.known else ""
    say(f"{outcome.applied} took effect{known}, {len(outcome.held)} still held")
    if outcome.held:
        first = outcome.held[0]
        say(f"the first of them, at position {first.position} of partition {first.partition}: {first.reason}")
    if outcome.waiting:
        note(f"the started runs wait: {outcome.waiting}")
