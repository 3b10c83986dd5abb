"""`amends history`: the facts of one run, as they are in the journal; `stream_history` shows other streams."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from amends.aggregates.errors import InputError
from amends.aggregates.run.facts import Fact
from amends.aggregates.run.reading import RunReading
from amends.aggregates.run.record import RunRecord
from amends.aggregates.text import shorten
from amends.aggregates.values.strict_json import ascii_json
from amends.cli.commands.runs.stream_history import show_stream
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.runtime.store import open_for_reading, reading_of, report_damage
from amends.cli.runtime.wiring import settings_of
from amends.cli.views.facts import TIMELINE, damage_json, fact_json, timeline_row, timeline_widths
from amends.cli.views.table import STATUS_STYLES, WIDE, table
from amends.cli.views.times import duration, moment

if TYPE_CHECKING:
    from amends.aggregates.sql.journal import SqlJournal

__all__ = ["LOOK_S", "history"]

LOOK_S = 0.2
"""How often `--watch` reads new facts, in seconds."""

_RUN = "run/"


def history(
    ctx: typer.Context,
    run_id: Annotated[
        str,
        typer.Argument(metavar="ID", help="Id of the run, or a stream such as StockItem/sku-1.", show_default=False),
    ],
    watch: Annotated[bool, typer.Option("--watch", help="Print new facts until the run is closed.")] = False,  # noqa: FBT002 - an option
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every fact in full.")] = False,  # noqa: FBT002 - as above
) -> ExitCode:
    """Show the facts of a run.

    Each fact comes with its position, the time since the start, its node and attempt, the idempotency key, and the
    position of the fact that caused it. Keys begin with the run's id, which a narrow screen leaves out. For another
    stream, such as that of an aggregate, the command shows each event. If some facts of the run are unreadable, the
    command shows the others, names the unreadable ones with the reason, and ends with exit status 6.
    """
    with open_for_reading(settings_of(ctx)) as journal:
        # A run's id has no slash; other streams have names of the form <kind>/<id>.
        kind, slash, _ = run_id.partition("/")
        if slash and kind.isidentifier() and not run_id.startswith(_RUN):
            if watch:
                raise InputError(
                    f"--watch follows a run until it is closed, and {shorten(run_id)} is not a run; leave --watch out"
                )
            show_stream(journal, run_id, as_json=as_json)
            return ExitCode.OK
        run_id = run_id.removeprefix(_RUN)
        reading = reading_of(journal, run_id)
        if reading.damage or reading.record is None:
            _print_damaged(reading, as_json=as_json)
            return report_damage(reading)
        record = reading.record
        chunks = _follow(journal, record) if watch else iter([(record, _known(journal, record))])
        if as_json:
            _print_json(facts for _, facts in chunks)
        else:
            _print(record, chunks, watch=watch)
    return ExitCode.OK


def _print_damaged(reading: RunReading, *, as_json: bool) -> None:
    """Print the readable facts; JSON also has the unreadable ones, by position and with the reason."""
    if as_json:
        entries: list[tuple[int, object]] = [(fact.position, fact_json(fact)) for fact in reading.facts]
        entries += [(each.position or 0, {"position": each.position, **damage_json(each)}) for each in reading.damage]
        print_json([entry for _, entry in sorted(entries, key=lambda entry: entry[0])])
        return
    shown = screen()
    if not reading.facts:
        return
    first = reading.facts[0]
    shown.show(Text.assemble((first.run_id, "bold"), ("  DAMAGED", "bold red"), overflow="fold"), "")
    rows = [timeline_row(fact, first.as_of_ms, whole=shown.width == WIDE) for fact in reading.facts]
    shown.show(table(TIMELINE, rows, shown.width))


def _known(journal: "SqlJournal", record: RunRecord) -> list[Fact]:
    # Facts that were appended after the record was read belong to the next read.
    return [fact for fact in journal.facts_blocking(record.run_id) if fact.position <= record.state.position]


def _follow(journal: "SqlJournal", record: RunRecord) -> Iterator[tuple[RunRecord, list[Fact]]]:
    """Yield the run's facts, and then each addition until the run is closed, each time with the record up to there."""
    facts = _known(journal, record)
    while True:
        if facts:
            yield record, facts
        if record.state.closed:
            return
        time.sleep(LOOK_S)
        facts = journal.facts_blocking(record.run_id, after=record.state.position)
        for fact in facts:
            record = record.apply(fact)


def _print_json(chunks: Iterable[Sequence[Fact]]) -> None:
    """Print one JSON array, each fact on its own line as soon as it is known; even interrupted output is valid JSON."""
    separator = ""
    print("[", end="")  # noqa: T201 - the answer
    try:
        for facts in chunks:
            for fact in facts:
                print(f"{separator}\n{ascii_json(fact_json(fact))}", end="", flush=True)  # noqa: T201 - as above
                separator = ","
    finally:
        print("\n]", flush=True)  # noqa: T201 - as above


def _print(record: RunRecord, chunks: Iterable[tuple[RunRecord, Sequence[Fact]]], *, watch: bool) -> None:
    shown = screen()
    # A full key is only of use if it can be copied in one piece.
    whole = shown.width == WIDE
    started_ms = record.state.started_ms
    heading = f"  {record.started.saga}  accepted {moment(started_ms, None)}  "
    shown.show(Text.assemble((record.run_id, "bold"), heading, _status(record), overflow="fold"), "")
    # A table printed as facts arrive needs the largest possible widths; one that is complete uses its own.
    natural = timeline_widths(list(record.state.plan.nodes), record.run_id, whole=whole) if watch else ()
    header = True
    for now, facts in chunks:
        rows = [timeline_row(fact, started_ms, whole=whole) for fact in facts]
        shown.show(table(TIMELINE, rows, shown.width, natural=natural, header=header))
        record, header = now, False
    if watch:
        state = record.state
        shown.show("", Text.assemble(_status(record), f" after {duration(state.updated_ms - state.started_ms)}"))


def _status(record: RunRecord) -> tuple[str, str]:
    status = record.state.status
    return status.value, STATUS_STYLES[status]
