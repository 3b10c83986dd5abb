"""Results of reading runs, some of which may be unreadable. Pure."""

from dataclasses import dataclass

from amends.aggregates.damage import Damage
from amends.aggregates.run.facts import Fact
from amends.aggregates.run.record import RunRecord

__all__ = ["RunReading", "RunRecords"]


@dataclass(frozen=True, slots=True)
class RunRecords:
    """The records of several runs, and the damage of the unreadable ones.

    Attributes:
        records: By run id; `None` where there is no such run. A damaged run has no entry.
        damaged: By run id, the first unreadable place.
    """

    records: dict[str, RunRecord | None]
    damaged: dict[str, Damage]


@dataclass(frozen=True, slots=True)
class RunReading:
    """The readable part of one run.

    Attributes:
        record: The record up to the first damage; `None` when even the first fact is unusable.
        facts: Every readable fact, in order, also those after a damage.
        damage: The unreadable places, in order; empty for an intact run.
    """

    record: RunRecord | None
    facts: tuple[Fact, ...]
    damage: tuple[Damage, ...]
