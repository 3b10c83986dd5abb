"""`amends doctor`: configured, reachable, locked and missing parts; each fault comes with its remedy.

The checks are independent: none stops the others. They start, create and change nothing.
"""

import asyncio
import math
import os
import stat
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.text import Text

from amends.aggregates.damage import Damage
from amends.aggregates.errors import AmendsError, InputError, JournalError, UnreachableError
from amends.aggregates.journal import RunQuery
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.run.record import RunSummary
from amends.aggregates.run.state import OPEN, SETTLED_WELL, RunState, RunStatus, open_undo
from amends.cli.commands.drift.schedule_list import shown_schedules
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.project.configured_pipelines import access_of
from amends.cli.project.settings import Settings
from amends.cli.runtime.blocked_runs import open_blockers, registry_of
from amends.cli.runtime.store import in_data_dir, open_for_reading, sqlite_file
from amends.cli.runtime.wiring import Project, drain_of, load_project, settings_of
from amends.cli.views.pipelines import pipeline_row, relay_row
from amends.cli.views.table import Column, escaped, fields, table
from amends.cli.views.times import ago
from amends.cli.views.wording import counted
from amends.reconciler.schedules.decide import Schedules
from amends.reconciler.schedules.facts import Timetable
from amends.sagas.engine.blockers import grouped
from amends.sagas.runtime.deadline import REST

if TYPE_CHECKING:
    from amends.aggregates.sql.journal import SqlJournal
    from amends.cli.runtime.temporal import TemporalProbe

__all__ = ["Check", "doctor"]

PATIENCE = timedelta(seconds=3)
"""How long to wait for Temporal."""

_MOST = 1_000
_PAGE = 50
_NAMED = 10
# Time between the bound of a worker and the moment when its supervisor kills it.
_MARGIN = timedelta(seconds=10)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_COLUMNS = (Column("", 5), Column("part", 8), Column("", 20, copied=True, prose=True))


class Check(NamedTuple):
    """The finding about one part.

    Attributes:
        part: The part.
        wrong: Whether it has a fault.
        found: The finding, with the remedy if it is a fault.
    """

    part: str
    wrong: bool
    found: str


def _ok(part: str, found: str) -> Check:
    return Check(part, wrong=False, found=found)


def _wrong(part: str, found: str) -> Check:
    return Check(part, wrong=True, found=found)


class _Store(NamedTuple):
    store_id: str | None  # None if it could not be read
    for_workers: bool = False  # whether any open run needs a worker to go on
    away: bool = False  # whether it may answer later
    timetable: Timetable = Timetable()
    queues: frozenset[str] = frozenset()  # queues of effects that open runs may still call


def doctor(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Check settings, modules, store, Temporal and workers.

    Each fault comes with its remedy. The command only reads: it starts no process and changes nothing. The exit status
    is 0 without a fault and 1 with one.
    """
    settings = settings_of(ctx)
    checks = list(_examine(settings))
    wrong = sum(check.wrong for check in checks)
    if as_json:
        print_json({"settings": settings.shown(), "checks": [check._asdict() for check in checks], "wrong": wrong})
    else:
        shown = screen()
        shown.show(fields([(name, escaped(value)) for name, value in settings.shown().items()], shown.width), "")
        rows = [(_verdict(check), check.part, check.found) for check in checks]
        shown.show(table(_COLUMNS, rows, shown.width))
        shown.show("", "nothing wrong" if not wrong else f"{wrong} wrong")
    return ExitCode.FOUND if wrong else ExitCode.OK


def _verdict(check: Check) -> Text:
    return Text("wrong", style="bold red") if check.wrong else Text("ok", style="green")


def _examine(settings: Settings) -> Iterator[Check]:
    yield _settings(settings)
    yield from _modules(settings)
    yield from _data_dir(settings)
    checks, store = _store(settings)
    yield from checks
    yield from _temporal(settings, store)
    yield from _threads(settings)


# ---- the project


def _settings(settings: Settings) -> Check:
    file = settings.config_file
    overridden = sorted(name for name in os.environ if name.upper().startswith("AMENDS_") and os.environ[name])
    also = f", overridden by {', '.join(overridden)}" if overridden else ""
    if file is None:
        return _ok("settings", f"no settings file in {settings.project_dir} or above{also}")
    return _ok("settings", f"{file}{also}")


def _modules(settings: Settings) -> Iterator[Check]:
    try:
        project = load_project(settings)
    except AmendsError as error:
        yield _wrong("modules", str(error))
        return
    registry = project.registry
    numbers = {"saga": len(registry.sagas), "step": len(registry.steps), "aggregate": len(project.aggregates)}
    counts = ", ".join(counted(number, noun) for noun, number in numbers.items())
    defined = bool(registry.sagas or project.pipelines.names)
    yield _ok("modules", counts) if defined else _wrong("modules", f"{counts}; define one: name = Saga(...)")
    yield from _pipelines(project)
    for path in project.loaded.hidden:
        found = f"{path} cannot be imported: another module of that name comes first; rename it if it is needed"
        yield _wrong("modules", found)
    yield _ok("stopping", _stopping(drain_of(settings, registry)))


def _pipelines(project: Project) -> Iterator[Check]:
    """Yield the source or sink of each pipeline and relay, and the variables of secrets that are not set."""
    defined, settings = project.pipelines, project.settings.pipelines
    rows = [(name, pipeline_row(each)) for name, each in defined.pipelines.items()]
    rows += [(name, relay_row(each)) for name, each in defined.relays.items()]
    for name, row in rows:
        try:
            access_of(name, settings.get(name))
        except InputError as error:
            yield _wrong("pipelines", str(error))
        else:
            kind = "relay" if name in defined.relays else "pipeline"
            yield _ok("pipelines", f"{kind} {name}: {row[1]}")


def _stopping(drain: timedelta) -> str:
    """Return the time limits for systemd and Kubernetes that let a worker end before they kill it."""
    bound_s = math.ceil((drain + REST + _MARGIN).total_seconds())
    return (
        f"a worker lets calls in flight end within {drain.total_seconds():g} s; "
        f"systemd: TimeoutStopSec={bound_s}; Kubernetes: terminationGracePeriodSeconds: {bound_s}"
    )


# ---- the store


def _data_dir(settings: Settings) -> Iterator[Check]:
    path = settings.data_dir
    if not path.exists():
        parent = next(each for each in path.parents if each.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            yield _ok("data_dir", f"{path} does not exist yet; Amends creates it when needed")
        else:
            yield _wrong("data_dir", f"{path} cannot be created: this user may not write to {parent}; set data_dir")
    elif not path.is_dir():
        yield _wrong("data_dir", f"{path} is not a directory; remove it or set data_dir")
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield _wrong("data_dir", f"this user may not write to {path}; change its permissions")
    else:
        yield _ok("data_dir", f"{path} can be written")


def _store(settings: Settings) -> tuple[list[Check], _Store]:
    path = sqlite_file(settings)
    if path is not None and not path.exists():
        return [_absent(settings, path)], _Store(None)
    checks: list[Check] = []
    if path is not None:
        checks += _permissions(path)
    try:
        with open_for_reading(settings) as journal:
            from amends.aggregates.sql.migrations import HEAD_REVISION  # noqa: PLC0415 - imports the database

            refused = _refused(journal)
            open_runs = journal.runs_blocking(RunQuery(statuses=OPEN, limit=_MOST + 1))
            waiting = journal.runs_blocking(RunQuery(statuses=frozenset({RunStatus.NEEDS_ATTENTION}), limit=_MOST + 1))
            store_id = journal.store_id
            timetable, unreadable = _timetable(journal)
            damaged, queues = _read_runs(journal, [*open_runs[:_MOST], *waiting[:_MOST]])
            waits = grouped(open_blockers(journal, registry_of(settings)))
    except AmendsError as error:
        away = path is None and isinstance(error, UnreachableError)
        return [*checks, _wrong("store", str(error))], _Store(None, away=away)
    found = f"{settings.safe_store_url} can be read, schema {HEAD_REVISION}, identity {store_id}"
    look = "; see: amends list --status needs_attention" if waiting else ""
    checks += [
        _wrong("store", refused) if refused else _ok("store", found),
        _ok("open runs", f"{_count(open_runs)}{_oldest(open_runs)}"),
        _ok("attention", f"{_count(waiting)} {_verb(waiting)} for an operator{look}"),
        *(_wrong("code", line) for line in waits),
        *damaged,
        *unreadable,
    ]
    for_workers = any(run.driver == TEMPORAL_DRIVER for run in open_runs)
    return checks, _Store(store_id, for_workers, timetable=timetable, queues=queues)


def _timetable(journal: "SqlJournal") -> tuple[Timetable, list[Check]]:
    try:
        schedules = journal.load_blocking(Schedules, Schedules.ID)
    except JournalError as error:
        return Timetable(), [_wrong("schedules", str(error))]
    return Timetable() if schedules is None else schedules.timetable, []


def _read_runs(journal: "SqlJournal", runs: Sequence[RunSummary]) -> tuple[list[Check], frozenset[str]]:
    """Return the unreadable runs, as faults, and the queues of effects that the other runs may still call."""
    damaged: list[Damage] = []
    queues: set[str] = set()
    for first in range(0, len(runs), _PAGE):
        page = [run.run_id for run in runs[first : first + _PAGE]]
        found = journal.records_blocking(page)
        damaged += found.damaged.values()
        queues.update(
            *(
                _queues_of(record.state)
                for record in found.records.values()
                if record and record.driver == TEMPORAL_DRIVER
            )
        )
    return [*_damaged(damaged)], frozenset(queues)


def _queues_of(state: RunState) -> frozenset[str]:
    """Return the queues of those effects that an open run may still call and that have a queue of their own."""
    left = [
        node
        for name, node in state.plan.nodes.items()
        if (open_undo(node, state.node(name)) if state.backward else state.node(name).status not in SETTLED_WELL)
    ]
    return frozenset(node.queue for node in left if node.queue and not state.closed)


def _damaged(damaged: Sequence[Damage]) -> Iterator[Check]:
    """Yield the unreadable runs as faults; nothing drives such a run until its facts are restored."""
    yield from (_wrong("damage", str(damage)) for damage in damaged[:_NAMED])
    if len(damaged) > _NAMED:
        more = len(damaged) - _NAMED
        yield _wrong("damage", f"{more} more {'run' if more == 1 else 'runs'} cannot be read; all: amends db check")


def _refused(journal: "SqlJournal") -> str | None:
    """Return why a readable store refuses writes; for a file the permissions show it. `None` if it accepts them."""
    from amends.aggregates.sql.engine import check_writable  # noqa: PLC0415 - imports the database

    try:
        check_writable(journal.engine)
    except UnreachableError as error:
        return str(error)
    return None


def _count(runs: Sequence[RunSummary]) -> str:
    return f"more than {_MOST}" if len(runs) > _MOST else str(len(runs))


def _verb(runs: Sequence[RunSummary]) -> str:
    return "run waits" if len(runs) == 1 else "runs wait"


def _oldest(runs: Sequence[RunSummary]) -> str:
    if not 0 < len(runs) <= _MOST:
        return ""
    now_ms = time.time_ns() // 1_000_000
    return f", the oldest ({runs[-1].run_id}) accepted {ago(runs[-1].started_ms, now_ms)}"


def _absent(settings: Settings, path: Path) -> Check:
    if in_data_dir(settings) or path.parent.is_dir():
        return _ok("store", f"{path} does not exist yet; the first run creates it")
    return _wrong("store", f"{path}: there is no directory {path.parent}; create it or set store_url")


def _permissions(path: Path) -> Iterator[Check]:
    for needed in (path, path.parent):
        if not os.access(needed, os.R_OK | os.W_OK):
            found = f"this user may not write to {needed}, so runs cannot continue; change its permissions"
            yield _wrong("store", found)
    if path.is_file() and path.stat().st_mode & _OTHERS:
        mode = f"{stat.S_IMODE(path.stat().st_mode):04o}"
        yield _wrong("store", f"{path} has mode {mode}, so other users have access; chmod 600 {path}")


# ---- Temporal


def _temporal(settings: Settings, store: _Store) -> Iterator[Check]:
    from amends.cli.runtime.temporal import NOTHING_RUNS, probe_temporal  # noqa: PLC0415 - imports Temporal
    from amends.sagas.temporal.server.locks import dev_running  # noqa: PLC0415 - as above

    reach = asyncio.run(probe_temporal(settings, PATIENCE))
    if reach.problem == NOTHING_RUNS:
        yield from _startable(settings, NOTHING_RUNS)
    else:
        yield _server(reach)
    if reach.target is None or reach.target.embedded:
        holder = _holder(settings.data_dir) if dev_running(settings.data_dir) else None
        found = f"`amends dev` (process {holder}) serves {settings.data_dir}" if holder else "no `amends dev` runs here"
        yield _ok("lock", found)
    yield from _workers(settings, reach, store)
    if store.store_id is not None and store.timetable.schedules:
        yield from _schedules(reach, store.store_id, store.timetable)


def _schedules(reach: "TemporalProbe", store_id: str, timetable: Timetable) -> Iterator[Check]:
    from amends.reconciler.temporal.schedules import TemporalSchedules  # noqa: PLC0415 - imports Temporal

    copies = None
    if reach.client is not None:
        try:
            copies = asyncio.run(TemporalSchedules(reach.client, store_id).copies(timetable.schedules))
        except UnreachableError as error:
            yield _wrong("schedules", str(error))
            return
    shown = shown_schedules(timetable, store_id, copies)
    bad = [each for each in shown if each.problem is not None or each.schedule.failures]
    paused = sum(each.schedule.paused is not None for each in shown)
    held = "Temporal was not asked" if copies is None else f"{len(copies)} in Temporal"
    yield _ok("schedules", f"{len(shown)} declared, {held}, {paused} paused")
    for each in bad:
        name = each.schedule.declared.schedule
        yield _wrong("schedules", f"{name}: {each.state}; see: amends schedule show {name}")


def _startable(settings: Settings, found: str) -> Iterator[Check]:
    """Check whether an embedded server could start; it is no fault that none runs, since `amends run` starts one."""
    from amends.sagas.temporal.server.process import find_binary  # noqa: PLC0415 - as above

    try:
        yield _ok("temporal", f"{found}, which runs {find_binary()}")
    except AmendsError as error:
        yield _wrong("temporal", str(error))
    if (settings.data_dir / "server.json").exists():
        lost = "the embedded server is gone: nothing answers at the address in server.json; start it again: amends dev"
        yield _wrong("temporal", lost)


def _server(reach: "TemporalProbe") -> Check:
    if reach.target is None or reach.client is None:
        return _wrong("temporal", str(reach.problem))
    what = "embedded server" if reach.target.embedded else "configured server"
    pages = f", pages at {reach.server.ui_url}" if reach.server else ""
    found = f"{what} at {reach.target.address} answers, namespace {reach.target.namespace}{pages}"
    return _ok("temporal", found)


def _holder(data_dir: Path) -> str:
    try:
        return (data_dir / "dev.lock").read_text(errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"


def _workers(settings: Settings, reach: "TemporalProbe", store: _Store) -> Iterator[Check]:
    queue = f"queue {settings.task_queue!r}"
    if store.away and reach.client is not None:
        yield _wrong("workers", f"{_pausing(reach, queue)}; they continue when the store answers")
        return
    if not reach.workers and store.for_workers:
        yield _wrong("workers", f"no worker polls {queue}, but runs are open; start one: amends worker (or amends dev)")
    elif not reach.workers and reach.client is not None and reach.target is not None and not reach.target.embedded:
        yield _wrong("workers", f"no worker polls {queue}, so `amends run` accepts no run; start one: amends worker")
    elif not reach.workers:
        yield _ok("workers", f"no worker polls {queue}; `amends run` starts its own, `amends worker` starts one")
    for worker in reach.workers:
        if store.store_id is not None and worker.store_id not in {None, store.store_id}:
            found = f"{worker.name} polls {queue} with another store ({worker.store_id}); give both the same store_url"
            yield _wrong("workers", found)
        elif worker.store_id is None:
            yield _wrong("workers", f"{worker.name} polls {queue} but is not a worker of Amends; use another queue")
        else:
            yield _ok("workers", f"{worker.name} polls {queue}, with store {worker.store_id}")
    yield from _effect_queues(settings, reach, store.queues - {settings.task_queue})


def _effect_queues(settings: Settings, reach: "TemporalProbe", queues: frozenset[str]) -> Iterator[Check]:
    """Check that a worker polls each queue of effects of open runs."""
    from amends.cli.runtime.temporal import alive_pollers  # noqa: PLC0415 - imports Temporal

    client = reach.client
    if client is None:
        return

    async def takers(queue: str) -> int:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            return len(await alive_pollers(client, settings, queue, effects=True))

    for queue in sorted(queues):
        try:
            count = asyncio.run(takers(queue))
        except (AmendsError, TimeoutError):
            yield _wrong(
                "workers", f"cannot list the workers of queue {queue!r}: Temporal does not answer; start Temporal"
            )
            continue
        if count:
            polls = "1 worker polls" if count == 1 else f"{count} workers poll"
            yield _ok("workers", f"{polls} queue {queue!r}, for effects of open runs")
        else:
            yield _wrong(
                "workers", f"no worker polls queue {queue!r}, but open runs need it; start a worker that has its steps"
            )


def _threads(settings: Settings) -> Iterator[Check]:
    """Check whether calls wait for threads, according to the reports of workers that share this data directory."""
    from amends.sagas.runtime.thread_report import reports  # noqa: PLC0415 - needed only here

    waiting = reports(settings.data_dir)
    for pid, report in waiting.items():
        yield _wrong("threads", f"process {pid}: {report}")
    if not waiting:
        count = settings.worker_threads or settings.worker_concurrency
        yield _ok(
            "threads", f"{count} for plain def functions; no worker that uses {settings.data_dir} is short of them"
        )


def _pausing(reach: "TemporalProbe", queue: str) -> str:
    """Return the effect on workers of an absent store; Temporal remembers a poll for over a minute."""
    if not reach.workers:
        return f"no worker polls {queue}: workers pause while the store is away"
    names = ", ".join(worker.name for worker in reach.workers)
    return f"{names} polled {queue} within the last 75 s; workers pause when the store has been away for 60 s"
