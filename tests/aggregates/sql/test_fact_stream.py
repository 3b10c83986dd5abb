"""Test aggregates whose events are facts."""

from typing import NamedTuple

from pydantic import BaseModel

from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.events.fact_stream import FactStream


class Filled(BaseModel):
    """Water was filled in."""

    litres: int


class Drained(BaseModel):
    """Water was drained."""

    litres: int


class Level(NamedTuple):
    """The fold of the facts."""

    litres: int = 0

    def apply(self, fact: Filled | Drained) -> "Level":
        """Return the level after one more fact."""
        return Level(self.litres + (fact.litres if isinstance(fact, Filled) else -fact.litres))


class Tank(FactStream, facts=(Filled, Drained), folds="level"):
    """A tank of water."""

    CATEGORY = "tank"

    def __init__(self, id: str) -> None:  # noqa: A002, ARG002 - the signature of aggregates
        self.level = Level()


def test_each_kind_of_fact_is_an_event_of_its_own() -> None:
    """A recorded fact is folded, stored under the name of its kind, and read back as the same fact."""
    tank = Tank(id="t-1")
    tank.record(Filled(litres=5))
    tank.record(Drained(litres=2))
    codec = EventCodec([Tank])
    stored = [codec.to_stored(event) for event in tank.collect_events()]
    assert tank.level.litres == 3
    assert [each.topic for each in stored] == ["tank.Created", "tank.Filled", "tank.Drained"]
    assert [codec.to_domain(each).fact for each in stored[1:]] == [Filled(litres=5), Drained(litres=2)]
