"""Results of reading runs of which some cannot be read. Pure."""

from dataclasses import dataclass

from amends.aggregates.damage import Damage
from amends.aggregates.run.facts import Fact
from amends.aggregates.run.record import RunRecord

__all__ = ["RunReading", "RunRecords"]


@dataclass(frozen=True, slots=True)
class RunRecords:
    """The records of several runs, and the damage of those that cannot be read.

    Attributes:
        records: By run id; `None` where there is no such run. A damaged run has no entry.
        damaged: By run id, the first place that cannot be read.
    """

    records: dict[str, RunRecord | None]
    damaged: dict[str, Damage]


@dataclass(frozen=True, slots=True)
class RunReading:
    """As much of one run as can be read.

    Attributes:
        record: The record up to the first damage; `None` where not even the first fact can be used.
        facts: Every fact that can be read, in order, also those after a damage.
        damage: The places that cannot be read, in order; empty for a sound run.
    """

    record: RunRecord | None
    facts: tuple[Fact, ...]
    damage: tuple[Damage, ...]
