"""A run that needs an aggregate whose events the deployed code cannot read waits; other code, or the row, continues it.

Each case changes the code of the aggregate, or its stored row, between two deploys.
"""

import sys
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
from aggregate_parts.damaging import change
from hard_parts import opened

from amends import Runner, RunStatus
from amends.aggregates.errors import CannotContinueError
from amends.aggregates.journal import Journal
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.blockers import blockers
from amends.sagas.runtime.clock import VirtualClock

CODE = """
import enum
from datetime import timedelta
from eventsourcing.domain import event
from amends import Aggregate, Done, Rejected, Saga, UnitOfWork, transaction


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Car(Aggregate):
    class Built(Aggregate.Created):
        colour: Colour
        # more

    @event(Built)
    def __init__(self, id: str, colour: Colour) -> None:
        self.colour = colour

    class Painted(Aggregate.Event):
        colour: Colour

        def apply(self, car: "Car") -> None:
            car.colour = self.colour


@transaction
def paint(name: str, uow: UnitOfWork) -> str:
    car = uow.find(Car, name) or uow.add(Car(name, Colour(name)))
    car.trigger_event(Car.Painted, colour=car.colour)
    return car.colour.value


@paint.compensation
def unpaint(done: Done[str, str], uow: UnitOfWork) -> None: ...


saga = Saga("painting", str, paint)
"""
UPCASTER = """class_version = 2

        @staticmethod
        def upcast_v1_v2(state: dict[str, object]) -> None:
            """
CASES = {
    "an enum member was renamed": ('RED = "red"', 'RED = "crimson"'),
    "the class is gone": ("Built", "Made"),
    "an upcaster is missing": ("# more", "class_version = 2"),
    "an upcaster raises": ("# more", f'{UPCASTER}if state["colour"] == "red": raise KeyError("red")'),
    "an upcaster returns": ("# more", f'{UPCASTER}return "red" if state["colour"] == "red" else None'),
    "the event cannot be applied": (
        "car.colour = self.colour",
        'car.colour = Colour("blue" if self.colour is Colour.BLUE else "no")',
    ),
}
ONLY_RED = {"an enum member was renamed", "an upcaster raises", "an upcaster returns", "the event cannot be applied"}


def load(code: str) -> Any:  # noqa: ANN401 - a module
    """Return a deploy of the code, as a module of its own, which eventsourcing imports by its name."""
    module = ModuleType(f"deploy_{uuid4().hex}")
    sys.modules[module.__name__] = module
    exec(code, vars(module))  # noqa: S102 - the code is in this file
    return module


async def check_waits(journal: Journal, registry: Registry, code: Any, run_id: str) -> None:  # noqa: ANN401 - as above
    """Check that a run waits, uses no attempt and quotes no value, and that its blockers name its step."""
    with pytest.raises(CannotContinueError, match="aggregate") as raised:
        await Runner(journal, registry, clock=VirtualClock()).run(code.saga, "red", id=run_id)
    record = await journal.record(run_id)
    assert record is not None
    assert [fact.kind for fact in await journal.facts(run_id)] == ["SagaStarted", "StepPostponed"]
    for known in (None, registry):
        assert [(each.node, each.now) for each in blockers(known, record)] == [("paint", True)]
    assert "red" not in str(raised.value).replace(run_id, "").replace("stored", "").replace("required", "")


@pytest.mark.parametrize("name", CASES)
async def test_a_run_waits_for_code_that_reads_its_aggregate(store_url: str, name: str) -> None:
    """The run of the unreadable aggregate waits, another run goes on, and sufficient code continues the first."""
    before, after = load(CODE), load(CODE.replace(*CASES[name]))
    good = Registry([before.saga])
    async with opened(store_url) as journal:
        for colour in ("red", "blue"):
            await Runner(journal, good, clock=VirtualClock()).run(before.saga, colour, id=f"built-{colour}")
    async with opened(store_url) as journal:
        await check_waits(journal, Registry([after.saga]), after, "waits")
        if name in ONLY_RED:
            other = Runner(journal, Registry([after.saga]), clock=VirtualClock())
            assert (await other.run(after.saga, "blue", id="other")).status is RunStatus.COMPLETED
    async with opened(store_url) as journal:
        result = await Runner(journal, good, clock=VirtualClock()).resume("waits")
        assert result.status is RunStatus.COMPLETED


async def test_a_run_waits_for_the_row_of_its_aggregate(store_url: str) -> None:
    """An event that was changed in the store stops only the runs that need it, until the row is back."""
    code = load(CODE)
    registry = Registry([code.saga])
    async with opened(store_url) as journal:
        for colour in ("red", "blue"):
            await Runner(journal, registry, clock=VirtualClock()).run(code.saga, colour, id=f"built-{colour}")
        here = "WHERE originator_id = 'Car/red' AND originator_version = 2"
        change(journal.engine, f"UPDATE stored_events SET topic = 'Car.Bainted' {here}")  # noqa: S608 - a constant
    async with opened(store_url) as journal:
        await check_waits(journal, registry, code, "waits")
        other = Runner(journal, registry, clock=VirtualClock())
        assert (await other.run(code.saga, "blue", id="other")).status is RunStatus.COMPLETED
        change(journal.engine, f"UPDATE stored_events SET topic = 'Car.Painted' {here}")  # noqa: S608 - a constant
        result = await other.resume("waits")
        assert result.status is RunStatus.COMPLETED
