"""Test scheduled reconciliation on a real Temporal: it runs, survives a lost server, and stops after failures."""

import asyncio
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import temporalio.client
from bounds import HANG_S
from reading_shop import Amends, as_it_was, one_line, project_at
from temporal_parts import TemporalServer
from temporalio.client import ScheduleActionStartWorkflow, ScheduleUpdate, ScheduleUpdateInput

from amends.aggregates.sql.engine import create_store_engine
from amends.aggregates.sql.journal import open_journal
from amends.aggregates.sql.migrations import upgrade
from amends.cli.exit_codes import ExitCode
from amends.cli.project.settings import load_settings
from amends.cli.runtime.rule_context import now_ms
from amends.cli.runtime.schedules import decide_on_schedules, restore, scheduled_runs
from amends.cli.runtime.signals import Stop
from amends.cli.runtime.wiring import Project, Temporal, load_project, open_store
from amends.cli.runtime.worker import serve
from amends.reconciler.schedules.alignment import Changes, entries, entry_id
from amends.reconciler.schedules.decide import declare, pause
from amends.reconciler.schedules.facts import ScheduleFact, Timetable
from amends.reconciler.temporal.scheduled_run import timetable_of
from amends.reconciler.temporal.schedules import ScheduledRun, TemporalSchedules

RULES = '''
import time
from datetime import timedelta
from pathlib import Path

from amends import ScanFailed, Observation, drift_rule

HERE = Path(__file__).parent


@drift_rule("shelf", every=timedelta(hours=1))
def shelf_is_full(observation: Observation):
    """Nothing is ever missing."""
    with (HERE / "shelf.looks").open("a") as looks:
        looks.write("look\\n")
    return []


@drift_rule("catalogue", every=timedelta(hours=1))
def catalogue_is_right(observation: Observation):
    raise ScanFailed("the library is closed")


@drift_rule("slow", every=timedelta(hours=1))
def slow_is_slow(observation: Observation):
    (HERE / "slow.begun").touch()
    while not (HERE / "slow.gate").exists():
        time.sleep(0.01)
    return []
'''


@pytest.fixture
def amends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Amends]:
    """Yield the program on a project with an empty store; no Temporal is configured yet."""
    folder = project_at(tmp_path, '["scheduled_rules"]')
    (folder / "scheduled_rules.py").write_text(RULES)
    with as_it_was():
        # Each test loads a module of its own.
        sys.modules.pop("scheduled_rules", None)
        amends = Amends(folder, capsys)
        assert amends("db", "upgrade").code == 0
        yield amends


@pytest.fixture
def configured(amends: Amends, temporal_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Amends]:
    """Yield the program on a project with a Temporal, on a queue of its own; its schedules are removed at the end."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_address)
    monkeypatch.setenv("AMENDS_TASK_QUEUE", f"q-{uuid.uuid4().hex}")
    yield amends
    for each in amends("schedule", "list", "--json").json:
        amends("schedule", "remove", each["schedule"])


@pytest.fixture
def served(configured: Amends, temporal_address: str) -> Iterator[Amends]:
    """Yield the program on a project with a Temporal and a worker."""
    with working(load_project(load_settings(configured.folder)), temporal_address):
        yield configured


@contextmanager
def working(project: Project, address: str) -> Iterator[None]:
    """Run a worker in a thread."""
    ready, stop = threading.Event(), threading.Event()

    async def work() -> None:
        client = await temporalio.client.Client.connect(address)
        journal = open_store(project.settings, project.aggregates)
        try:
            async with serve(project, journal, Temporal(client, address, None), Stop(ExitCode.OK)):
                ready.set()
                await asyncio.to_thread(stop.wait)
        finally:
            await journal.close()

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    try:
        assert ready.wait(HANG_S)
        yield
    finally:
        stop.set()
        thread.join(HANG_S)
        assert not thread.is_alive()


def until(met: Callable[[], Any]) -> Any:  # noqa: ANN401 - the result of any condition
    """Wait until a condition returns a value; the test's own timeout ends a wait in vain."""
    while not (found := met()):
        time.sleep(0.05)
    return found


def ended(amends: Amends, name: str, taken: int) -> dict[str, Any]:
    """Wait until a number of runs of a schedule have started and none is active; return the schedule."""

    def met() -> Any:  # noqa: ANN401 - as above
        shown = amends("schedule", "show", name, "--json").json
        held = shown["temporal"]
        return shown if held["taken"] == taken and not held["running"] else None

    found: dict[str, Any] = until(met)
    return found


def test_a_schedule_runs_by_itself_until_it_is_paused(served: Amends) -> None:
    """A schedule runs under its name, stops while it is paused, starts again after that, and can be removed."""
    added = served("schedule", "add", "books", "shelf", "--every", "1s", "--jitter", "10ms")
    assert "schedule books runs shelf, every 1 s, next " in added.out
    scanned = until(lambda: said if (said := served("reconciliations", "shelf", "--json")).code == 0 else None)
    assert scanned.json[-1]["actor"] == "schedule books"
    assert served("schedule", "pause", "books", "--reason", "stocktaking").code == 0
    shown = served("schedule", "list")
    assert "stocktaking" in shown.out
    refused = served("schedule", "trigger", "books")
    assert refused.code == 2
    assert "is paused (stocktaking)" in one_line(refused)
    (paused,) = served("schedule", "list", "--json").json
    assert paused["temporal"]["as_declared"]
    assert "schedule books is resumed, next " in served("schedule", "resume", "books").out
    assert served("schedule", "remove", "books").code == 0
    assert "there is no schedule" in served("schedule", "list").err
    assert served("db", "check").code == 0


def test_a_run_that_would_overlap_is_skipped_and_counted(served: Amends) -> None:
    """While a run is active the next one is skipped and counted in the list, and no rule calls a run an orphan."""
    assert served("schedule", "add", "slowly", "slow", "--every", "1h").code == 0
    assert served("schedule", "trigger", "slowly").code == 0
    until((served.folder / "slow.begun").exists)
    assert served("drift", "orphans").code == 0
    assert "one is running" in served("schedule", "trigger", "slowly").out
    (listed,) = served("schedule", "list", "--json").json
    assert (listed["temporal"]["running"], listed["temporal"]["skipped"]) == (1, 1)
    (served.folder / "slow.gate").touch()
    assert ended(served, "slowly", 1)["temporal"]["missed"] == 0
    assert len(served("reconciliations", "slow", "--json").json) == 1


def test_a_worker_that_stops_gives_its_run_to_the_next(configured: Amends, temporal_address: str) -> None:
    """A rule that never ends does not keep a worker from ending; the next worker continues with the rest of the run."""
    project = load_project(load_settings(configured.folder))
    assert configured("schedule", "add", "slowly", "shelf", "slow", "--every", "1h").code == 0
    with working(project, temporal_address):
        assert configured("schedule", "trigger", "slowly").code == 0
        until((configured.folder / "slow.begun").exists)
    (configured.folder / "slow.gate").touch()
    with working(project, temporal_address):
        ended(configured, "slowly", 1)
    assert (configured.folder / "shelf.looks").read_text() == "look\n"
    assert [each["seen"] for each in configured("reconciliations", "slow", "--json").json] == [[]]


def test_repeated_failure_pauses_until_somebody_resumes(served: Amends) -> None:
    """The second run in a row that could not scan pauses the schedule, for a reason that is shown, also by `doctor`."""
    options = ("--cron", "0 3 * * *", "--time-zone", "Europe/Berlin", "--pause-after", "2")
    assert served("schedule", "add", "closed", "catalogue", *options).code == 0
    for _ in range(2):
        came = served("schedule", "trigger", "closed", "--wait")
        told = "catalogue; amends reconciliations says why"
        assert (came.code, came.out) == (3, f"schedule closed ran, and could not scan: {told}\n")
    paused = served("schedule", "show", "closed", "--json").json
    assert paused["paused"] == "2 runs in a row failed: rule catalogue could not scan: the library is closed"
    assert paused["paused_by"] == "schedule closed"
    # Not the id of the workflow: two runs within a second share it.
    assert str(uuid.UUID(paused["failed_run"])) == paused["failed_run"]
    assert paused["temporal"]["as_declared"], "informs Temporal"
    found = [each for each in served("doctor", "--json").json["checks"] if each["part"] == "schedules"]
    assert [each["wrong"] for each in found] == [False, True]
    assert served("schedule", "resume", "closed").code == 0
    assert served("schedule", "show", "closed", "--json").json["failures"] == 0


async def test_what_temporal_lost_or_holds_wrongly_is_put_right(
    amends: Amends, temporal_executable: Path, tmp_path: Path
) -> None:
    """A worker that starts restores schedules that Temporal lost, corrects changed ones, and removes unknown ones."""
    project = load_project(load_settings(amends.folder))
    (tmp_path / "server").mkdir()
    server = TemporalServer(temporal_executable, tmp_path / "server")
    journal = open_store(project.settings)

    def two(known: Any) -> list[Any]:  # noqa: ANN401 - a timetable
        common: dict[str, Any] = {"actor": "ann", "rules": [], "task_queue": "q"}
        daily = declare(known, "daily", 0, cron="30 3 1,15 * mon-fri", time_zone="Europe/Berlin", **common)
        return [daily, declare(known, "often", 0, every_ms=60_000, jitter_ms=5_000, **common)]

    try:
        timetable = await decide_on_schedules(journal, two)
        with server.serving():
            client = await temporalio.client.Client.connect(server.address)
            _, changes = await restore(project, journal, client, every_rule=None)
            assert len(changes.create) == 2
            held = await TemporalSchedules(client, journal.store_id).copies(timetable.schedules)
            assert {name: each.entry for name, each in held.items()} == {
                each.schedule: each for each in entries(journal.store_id, timetable).values()
            }, "what is read back is what was written"
        server.lose()
        with server.serving():
            client = await temporalio.client.Client.connect(server.address)
            _, changes = await restore(project, journal, client, every_rule=True)
            assert len(changes.create) == 2 + 7 + 3, "those of the built-in rules and of the project's own too"
            daily = client.get_schedule_handle(entry_id(journal.store_id, "daily"))
            await daily.update(spoil)
            await decide_on_schedules(journal, lambda known: [pause(known, "often", 0, actor="ann", reason="r")])
            _, changes = await restore(project, journal, client, every_rule=False)
            assert {each.schedule for each in changes.update.values()} == {"daily", "often"}
            assert len(changes.delete) == 7 + 3
            _, changes = await restore(project, journal, client, every_rule=None)
            assert changes == Changes({}, {}, ())
    finally:
        await journal.close()


async def test_schedules_move_to_another_queue(
    configured: Amends, temporal_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a project's task queue is changed, Temporal gives the runs of its rules to the new one."""
    client = await temporalio.client.Client.connect(temporal_address)
    journal = open_store(load_settings(configured.folder))
    shelf = client.get_schedule_handle(entry_id(journal.store_id, "shelf"))

    async def start_on(queue: str) -> tuple[Changes, str]:
        monkeypatch.setenv("AMENDS_TASK_QUEUE", queue)
        project = load_project(load_settings(configured.folder))
        _, changes = await restore(project, journal, client, every_rule=True)
        action = (await shelf.describe()).schedule.action
        assert isinstance(action, ScheduleActionStartWorkflow)
        return changes, action.task_queue

    queues = [f"q-{uuid.uuid4().hex}" for _ in range(2)]
    try:
        made, queue = await start_on(queues[0])
        assert queue == queues[0]
        moved, queue = await start_on(queues[1])
        assert queue == queues[1]
        assert set(moved.update) == set(made.create)
        assert (moved.create, moved.delete) == ({}, ())
        await restore(load_project(load_settings(configured.folder)), journal, client, every_rule=False)
    finally:
        await journal.close()


def spoil(given: ScheduleUpdateInput) -> ScheduleUpdate:
    """Change a schedule as somebody might on Temporal's own pages."""
    schedule = given.description.schedule
    schedule.policy.pause_on_failure = True
    return ScheduleUpdate(schedule)


async def test_a_run_that_is_taken_over_goes_on_with_the_rest(amends: Amends, temporal_address: str) -> None:
    """Rules that an earlier delivery finished are not run again; a paused or removed schedule runs nothing."""
    project = load_project(load_settings(amends.folder))
    journal = open_store(project.settings)
    try:
        client = await temporalio.client.Client.connect(temporal_address)
        runs = scheduled_runs(project, journal, client)

        def books(known: Any) -> list[Any]:  # noqa: ANN401 - a timetable
            return [
                declare(
                    known, "books", now_ms(), actor="ann", rules=["shelf", "nosuch"], every_ms=60_000, task_queue="q"
                )
            ]

        await decide_on_schedules(journal, books)
        request = ScheduledRun("books", journal.store_id)
        first = await runs.run(request, "run-1")
        assert (first.scanned, first.blind, first.seen) == (1, 1, 0)
        again = await runs.run(request, "run-1", [["shelf", False, 4, 3]])
        assert (again.scanned, again.blind, again.seen, again.corrected) == (1, 1, 4, 3)
        assert (amends.folder / "shelf.looks").read_text() == "look\n"
        await decide_on_schedules(journal, lambda known: [pause(known, "books", 0, actor="ann", reason="r")])
        assert (await runs.run(request, "run-2")).idle == "the schedule is paused"
        assert (await runs.run(ScheduledRun("gone", journal.store_id), "run-3")).idle == "the schedule was removed"
        await TemporalSchedules(client, journal.store_id).align(Timetable())
    finally:
        await journal.close()


async def test_a_name_is_taken_once_by_two_at_once(store_url: str) -> None:
    """When two processes declare the same schedule at the same time, one of them is refused."""

    def taken(by: str) -> Callable[[Timetable], list[ScheduleFact]]:
        return lambda known: [declare(known, "n", 0, actor=by, rules=[], every_ms=60_000, task_queue="q")]

    upgrade(engine := create_store_engine(store_url))
    engine.dispose()
    journals = [open_journal(store_url) for _ in range(2)]
    try:
        done = await asyncio.gather(
            *(decide_on_schedules(journal, taken(str(by))) for by, journal in enumerate(journals)),
            return_exceptions=True,
        )
        (refused,) = [each for each in done if isinstance(each, BaseException)]
        assert "a schedule 'n' already" in str(refused)
        (kept,) = [each for each in done if isinstance(each, Timetable)]
        assert await timetable_of(journals[0]) == kept
    finally:
        for journal in journals:
            await journal.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "n", "nosuch", "--every", "1h"), "no drift rule 'nosuch'; there are: read-model"),
        (("add", "n"), "give one of --every and --cron"),
        (("add", "n", "--every", "soon"), "--every is 'soon', which is not a duration"),
        (("add", "n", "--cron", "0 3 * *"), "has 4 fields instead of 5"),
        (("add", "n", "--cron", "0 3 * * *", "--time-zone", "Europe/Berln"), "did you mean Europe/Berlin?"),
        (("add", "n", "--cron", "0 3 * * *", "--time-zone", "../etc"), "no time zone '../etc'"),
        (("add", "n", "--every", "1h", "--jitter", "-5s"), "--jitter is '-5s'"),
        (("add", "n", "--every", "1h", "--jitter", "2h"), "use 0 s up to the interval"),
        (("add", "N n", "--every", "1h"), "use up to 60 lower-case letters"),
        (("show", "n"), "there is no schedule 'n'; there is none yet"),
        (("pause", "n", "--reason", "r"), "there is no schedule 'n'"),
        (("resume", "n"), "there is no schedule 'n'"),
        (("trigger", "n"), "there is no schedule 'n'"),
        (("remove", "n"), "there is no schedule 'n'"),
    ],
)
def test_a_mistake_is_one_line(amends: Amends, arguments: tuple[str, ...], said: str) -> None:
    """Each mistake is reported in one line, with exit status 2, and nothing is declared."""
    answer = amends("schedule", *arguments)
    assert answer.code == 2
    assert said in one_line(answer)
    assert amends("schedule", "list", "--json").json == []


def test_without_temporal_what_is_decided_is_recorded(amends: Amends) -> None:
    """A schedule can be declared without Temporal, once; a run of it needs Temporal, or ends in exit status 3."""
    added = amends("schedule", "add", "nightly", "--cron", "@daily")
    assert added.code == 0
    assert "the next worker that starts informs Temporal" in added.err
    twice = amends("schedule", "add", "nightly", "--every", "1h")
    assert twice.code == 2
    assert "a schedule 'nightly' already" in one_line(twice)
    shown = amends("schedule", "show", "nightly")
    assert "@daily in UTC" in shown.out
    assert "start one: amends dev" in shown.err
    assert amends("schedule", "trigger", "nightly").code == 3
