"""Test that all commands name the open runs that the loaded code cannot continue, in the same words."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from commands import CommandProject, shop_at
from runs.waiting_for_code import CANARY, CASES, MAPPED, Code, Order, load
from strategies import World, plan_node, plan_of

from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import Direction
from amends.aggregates.sql.engine import create_store_engine
from amends.aggregates.sql.journal import open_journal
from amends.aggregates.sql.migrations import upgrade
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.blockers import blockers, grouped
from amends.sagas.engine.outcome import Postponed
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.engine.start import prepare_start

FORMER = f"""
from pydantic import BaseModel

from amends import Done, Saga, UnitOfWork, pivot, transaction


class Order(BaseModel):
    order_id: str
    note: str = "{CANARY}"


@transaction
def book(order: Order, uow: UnitOfWork) -> str:
    return order.order_id


@book.compensation
def unbook(done: Done[Order, str], uow: UnitOfWork) -> None: ...


@transaction(read_only=True)
def confirm(order: Order, uow: UnitOfWork) -> None: ...


order = Saga("order", Order, book, pivot(confirm))
"""
PRESENT = FORMER.replace(f'note: str = "{CANARY}"', "note: int = 1\n    country: str")
SAYS = "the recorded input is no longer valid for the input type of saga 'order': "
FAULTS = "country is required but was not stored"


def record_in_the_middle(code: Code, run_id: str = "r") -> RunRecord:
    """Return the record of a run of some code that was just accepted, after a write and a read."""
    version = load(code)
    journal = open_journal("sqlite://")
    try:
        start = prepare_start(
            version.registry, version.saga, Order(id="o"), run_id=run_id, driver="in-process", actor="test"
        )
        return journal.commit_blocking(lambda tx: RunProtocol(version.registry, "w").accept(tx, start, 1))
    finally:
        journal.close_blocking()


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.kind in {"mapping", "input", "step", "compensation"}]
)
def test_what_a_run_will_wait_for_is_known_before_it_comes_there(name: str) -> None:
    """The pure function returns node, kind and remedy of the driver's own message, before the driver tries anything."""
    case = CASES[name]
    found = blockers(load(case.second).registry, record_in_the_middle(case.first))
    assert (case.node, case.kind) in {(each.node, each.kind) for each in found}
    own = next(each for each in found if (each.node, each.kind) == (case.node, case.kind))
    assert all(words in own.text for words in case.says)
    assert not own.now or own.node == "hold", "the run is at its first step"
    assert not blockers(load(case.third).registry, record_in_the_middle(case.first))


def test_a_postponed_call_is_known_without_the_code() -> None:
    """The journal holds the reason of a wait, so commands can print it without any module."""
    world = World.begin(plan_of(plan_node("a"), plan_node("b")))
    world.conclude()
    call = world.call(world.work()[0])
    world.answer(call, Postponed("plan", "it asks for what is not there", "deploy it"))
    assert call.direction is Direction.DO
    (only,) = blockers(None, world.record)
    assert (only.node, only.why, only.remedy, only.now) == ("a", "it asks for what is not there", "deploy it", True)


def test_many_runs_are_one_line() -> None:
    """A line for each saga, step and reason has the number of runs, and one of them as an example."""
    registry = load(Code()).registry
    found = [each for n in range(3) for each in blockers(registry, record_in_the_middle(MAPPED, f"r-{n}"))]
    (line,) = grouped(found)
    assert line.startswith("3 open runs of saga 'order' (such as 'r-0') will not be able to continue at step 'book': ")
    assert ".using(to_id)" in line


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> CommandProject:
    """Return a project with an open run of former code, which the present code cannot continue."""
    path: Path = tmp_path_factory.mktemp("blocked") / "shop"
    found = shop_at(path, FORMER)
    assert found.run("db", "upgrade").code == 0
    former = ModuleType("former_shop")
    sys.modules["former_shop"] = former
    exec(FORMER, vars(former))  # noqa: S102 - the code is a constant of this test
    registry = Registry([former.order])
    url = f"sqlite:///{path / '.amends' / 'events.db'}"
    engine = create_store_engine(url)
    upgrade(engine)
    engine.dispose()
    journal = open_journal(url)
    value = former.Order(order_id="o-1")
    start = prepare_start(registry, former.order, value, run_id="o-1", driver="temporal", actor="test")
    now_ms = time.time_ns() // 1_000_000
    journal.commit_blocking(lambda tx: RunProtocol(registry, "w").accept(tx, start, now_ms))
    journal.close_blocking()
    found.write("shop.py", PRESENT)
    return found


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("list", "--stuck"), 1),
        (("show", "o-1"), 0),
        (("explain", "o-1"), 0),
        (("doctor",), 1),
        (("drift", "unserved"), 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_says_for_which_code_a_run_waits(
    project: CommandProject, command: tuple[str, ...], code: int
) -> None:
    """Cause and remedy are printed at once, not after the five minutes of an overdue run."""
    ended = project.run(*command, env={"COLUMNS": "2000"})
    assert ended.code == code, ended.out + ended.err
    said = ended.out + ended.err
    assert SAYS in said, said
    assert FAULTS in said
    assert "note does not fit its type (int_parsing)" in said
    assert "deploy an input type that accepts the recorded input" in said
    assert "o-1" in said
    assert "'book'" in said or "book" in said


def test_programs_are_told_as_well(project: CommandProject) -> None:
    """With --json each reason has node, kind, cause, remedy, and whether the run waits for it now."""
    listed = json.loads(project.run("list", "--stuck", "--json").out)[0]
    shown = json.loads(project.run("show", "o-1", "--json").out)
    explained = json.loads(project.run("explain", "o-1", "--json").out)
    assert listed["blockers"] == [each for each in shown["blockers"] if each["now"]]
    assert shown["blockers"] == explained["blockers"]
    assert {"node": "book", "kind": "input", "now": True}.items() <= listed["blockers"][0].items()


def test_dev_says_it_when_it_starts(project: CommandProject) -> None:
    """One line for each saga, step and reason appears before the worker is ready, and none of them holds a value."""
    with project.started("dev") as dev:
        dev.read_until("Ready")
    text = "".join(dev.lines)
    assert "1 open run of saga 'order' (such as 'o-1') cannot continue at step 'book'" in text
    assert CANARY not in text


def test_other_code_is_no_blocker(project: CommandProject) -> None:
    """Code that accepts the recorded values continues the run, so no command reports it."""
    project.write("shop.py", FORMER.replace("note: str", "colour: str = 'red'\n    note: str"))
    try:
        assert json.loads(project.run("show", "o-1", "--json").out)["blockers"] == []
        assert project.run("list", "--stuck").code == 0
    finally:
        project.write("shop.py", PRESENT)


def test_a_record_that_needs_no_result_is_no_blocker() -> None:
    """A changed result type matters only when the undo needs a recorded result."""
    record = record_in_the_middle(Code())
    assert not blockers(load(replace(CASES["result"].second, refuse=False)).registry, record)


SHELF = """
from eventsourcing.domain import event

from amends import Aggregate


class Shelf(Aggregate):
    @event("Built")
    def __init__(self, id: str) -> None:
        self.books = 0
"""
LIBRARY = """
from amends import Done, Saga, UnitOfWork, transaction


@transaction
def use(shelf: str, uow: UnitOfWork) -> int:
    return (uow.find(Shelf, shelf) or uow.add(Shelf(shelf))).books


@use.compensation
def unuse(done: Done[str, int], uow: UnitOfWork) -> None: ...


reading = Saga("reading", str, use)
"""


def test_a_run_says_that_the_event_class_of_an_aggregate_is_gone(tmp_path: Path) -> None:
    """Soon after `accepted` the command names the cause and the remedy, and so does `doctor`; no attempt is used."""
    project = CommandProject(tmp_path / "library", {"COLUMNS": "2000"})
    project.write("amends.toml", 'modules = ["library"]\n')
    project.write("library.py", SHELF + LIBRARY)
    assert project.run("run", "reading", '"fiction"', "--id", "first").code == 0
    project.write("library.py", SHELF.replace("Built", "Made") + LIBRARY)
    cause = "a stored event of an aggregate that the step uses cannot be read; deploy the module with the classes"
    with project.started("run", "reading", '"fiction"', "--id", "second") as command:
        command.read_until("run second of reading accepted")
        assert "use: waits: " in command.read_until(cause)
        assert command.stop() == 130
    found = project.run("doctor")
    assert found.code == 1
    assert cause in found.out
    assert "second" in found.out
    facts = [each["fact"] for each in json.loads(project.run("history", "second", "--json").out)]
    assert set(facts) == {"SagaStarted", "StepPostponed"}
