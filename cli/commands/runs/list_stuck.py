"""`amends list --stuck`: the runs that need a person, with the reason and since when.

The read model does not know when a step began, so the command reads the facts of every open run, a page of runs at a
time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import JsonValue

from amends.aggregates.damage import Damage
from amends.aggregates.errors import InputError
from amends.aggregates.journal import RunQuery
from amends.aggregates.run.record import RunSummary
from amends.aggregates.run.state import OPEN, RunStatus
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note
from amends.cli.project.settings import Settings
from amends.cli.runtime.blocked_runs import registry_of
from amends.cli.runtime.store import open_for_reading
from amends.cli.views.facts import damage_json
from amends.cli.views.table import STATUS_STYLES, Cell, Column, clip, styled, table
from amends.cli.views.times import ago
from amends.cli.views.wording import WORDS, and_more
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.blockers import Blocker, blockers
from amends.sagas.engine.overdue import Overdue, overdue_nodes

if TYPE_CHECKING:
    from amends.aggregates.sql.journal import SqlJournal

__all__ = ["CAN_BE_STUCK", "Stuck", "list_stuck"]

CAN_BE_STUCK = OPEN | {RunStatus.NEEDS_ATTENTION}
"""Statuses of runs that have not ended."""


_PAGE = 200
_ERROR_CHARS = 200

_COLUMNS = (
    Column("run", 12, copied=True),
    Column("saga", 10),
    Column("status", 15),
    Column("stuck", 8),
    Column("why", 50, below=True),
    Column("last error", 30, below=True),
)


@dataclass(frozen=True, slots=True)
class Stuck:
    """A run that needs a person.

    Attributes:
        run: The run as it was when its facts were read; of a damaged run, its row in the read model.
        overdue: Its overdue nodes; at least one, unless the run is damaged or blocked.
        damage: The first unreadable place of its facts; `None` for a sound run.
        blockers: Why the loaded code cannot continue it now.
    """

    run: RunSummary
    overdue: tuple[Overdue, ...] = ()
    damage: Damage | None = None
    blockers: tuple[Blocker, ...] = ()

    @property
    def since_ms(self) -> int:
        """The time since which its first node is overdue, or of its last fact, in milliseconds since the epoch."""
        return min((each.since_ms for each in self.overdue), default=self.run.updated_ms)

    @property
    def why(self) -> str:
        """The overdue nodes, in a few words; or the damage."""
        if self.damage is not None:
            return str(self.damage)
        waiting: dict[str, list[str]] = {}
        for blocker in self.blockers:
            waiting.setdefault(f"waits for code: {blocker.why}; {blocker.remedy}", []).append(blocker.node)
        for each in self.overdue:
            waiting.setdefault(WORDS[each.why], []).append(each.node or "the run")
        return "; ".join(
            f"{and_more(names)}: {words}" if len(names) > 1 else f"{names[0]} {words}"
            for words, names in waiting.items()
        )

    def to_json(self) -> dict[str, JsonValue]:
        """Return the run as JSON."""
        overdue: list[JsonValue] = [
            {"node": each.node, "since_ms": each.since_ms, "why": each.why.value} for each in self.overdue
        ]
        damage = None if self.damage is None else damage_json(self.damage)
        return {
            **self.run.to_json(),
            "stuck_since_ms": self.since_ms,
            "overdue": overdue,
            "blockers": [each.to_json() for each in self.blockers],
            "damage": damage,
        }


def list_stuck(settings: Settings, query: RunQuery, now_ms: int, *, json_wanted: bool) -> ExitCode:
    """List the stuck runs among those of a query, newest first.

    Args:
        settings: The settings, which name the store.
        query: The runs to check; its limit is one more than the number of runs to show.
        now_ms: The present time, in milliseconds since the epoch.
        json_wanted: Whether to print JSON.

    Raises:
        InputError: The query asks for runs that have ended.
    """
    statuses = query.statuses & CAN_BE_STUCK if query.statuses else CAN_BE_STUCK
    if not statuses:
        raise InputError(
            f"--stuck with --status {' or '.join(sorted(query.statuses))}: such runs have ended and cannot be stuck; "
            f"leave one of them out"
        )
    found: list[Stuck] = []
    registry = registry_of(settings)
    if registry is None:
        note("the project's modules are not loaded, so the list shows runs that wait for code late; see: amends doctor")
    with open_for_reading(settings) as journal:
        for stuck in _stuck(journal, registry, replace(query, statuses=statuses), now_ms):
            found.append(stuck)
            if len(found) == query.limit:
                break
    shown = found[: query.limit - 1]
    if json_wanted:
        print_json([each.to_json() for each in shown])
    elif not shown:
        note("no runs are stuck")
    else:
        out = screen()
        out.show(table(_COLUMNS, [_row(each, now_ms) for each in shown], out.width))
        if len(found) > len(shown):
            note(f"the newest {len(shown)} are shown; --limit shows more")
    return ExitCode.FOUND if shown else ExitCode.OK


def _stuck(journal: "SqlJournal", registry: Registry | None, query: RunQuery, now_ms: int) -> Iterator[Stuck]:
    page = journal.runs_blocking(replace(query, limit=_PAGE))
    while page:
        for row in page:
            if (found := _look(journal, registry, row, now_ms)) is not None:
                yield found
        if len(page) < _PAGE:
            return
        page = journal.runs_blocking(replace(query, limit=_PAGE, before=page[-1].run_id))


def _look(journal: "SqlJournal", registry: Registry | None, row: RunSummary, now_ms: int) -> Stuck | None:
    reading = journal.reading_blocking(row.run_id)
    if reading is None:  # only its row is left; `amends db check` reports it
        return None
    if reading.damage or reading.record is None:
        return Stuck(row, damage=reading.damage[0])
    record, facts = reading.record, reading.facts
    overdue = overdue_nodes(record, [fact.head for fact in facts], now_ms)
    waits = tuple(each for each in blockers(registry, record) if each.now)
    return Stuck(record.summary, overdue, blockers=waits) if overdue or waits else None


def _row(stuck: Stuck, now_ms: int) -> tuple[Cell, ...]:
    run = stuck.run
    return (
        run.run_id,
        run.saga,
        styled(run.status.value, STATUS_STYLES[run.status]),
        ago(stuck.since_ms, now_ms),
        stuck.why,
        clip(run.error or "", _ERROR_CHARS),
    )
