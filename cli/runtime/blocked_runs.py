"""Open runs that cannot continue with the project's code, read from the store, for every command that reports them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from amends.aggregates.errors import AmendsError
from amends.aggregates.journal import RunQuery
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import OPEN
from amends.cli.project.settings import Settings
from amends.cli.runtime.wiring import load_project
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.blockers import Blocker, blockers

if TYPE_CHECKING:
    from amends.aggregates.sql.journal import SqlJournal

__all__ = ["blockers_of", "open_blockers", "registry_of"]

_PAGE = 200


def registry_of(settings: Settings) -> Registry | None:
    """Return the project's code; `None` if it cannot be loaded, which `amends doctor` reports."""
    try:
        return load_project(settings).registry
    except AmendsError:
        return None


def blockers_of(settings: Settings, record: RunRecord) -> tuple[Blocker, ...]:
    """Return why a run cannot continue with the project's code; an empty tuple for a run that has ended."""
    return () if record.state.closed else blockers(registry_of(settings), record)


def open_blockers(journal: "SqlJournal", registry: Registry | None) -> Iterator[Blocker]:
    """Yield why open runs cannot continue with the loaded code; a damaged run does not stop the others."""
    page = journal.runs_blocking(RunQuery(statuses=OPEN, limit=_PAGE))
    while page:
        found = journal.records_blocking([row.run_id for row in page]).records
        for row in page:
            if (record := found.get(row.run_id)) is not None:
                yield from blockers(registry, record)
        if len(page) < _PAGE:
            return
        page = journal.runs_blocking(RunQuery(statuses=OPEN, limit=_PAGE, before=page[-1].run_id))
