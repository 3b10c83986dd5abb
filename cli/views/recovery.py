"""Findings and actions of `amends recover`, as lines and as JSON. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from amends.aggregates.damage import Damage
from amends.cli.views.facts import damage_json
from amends.cli.views.table import Column

__all__ = ["COLUMNS", "Recovered"]

COLUMNS = (Column("run", 12, copied=True), Column("done", 8), Column("why", 24, below=True))
"""Columns of the list of runs."""

_LACKING = "Temporal drives the run for this store, but the store does not have it; connect to the newer store"


@dataclass(frozen=True, slots=True)
class Recovered:
    """The outcome of a recovery, by run.

    Attributes:
        taken: Runs that Temporal has taken over.
        started: Runs whose workflow was started.
        driven: Runs that Temporal drove already.
        refused: Runs that the recovery left unchanged, with the reason.
        unknown: Runs that Temporal drives for this store and that the store lacks.
        damaged: Runs that cannot be read and that the recovery left unchanged, with the damage.
    """

    taken: Sequence[str]
    started: Sequence[str]
    driven: Sequence[str]
    refused: Mapping[str, str]
    unknown: Sequence[str]
    damaged: Mapping[str, Damage] = field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        """Whether any run was refused, is missing or cannot be read."""
        return bool(self.refused or self.unknown or self.damaged)

    def rows(self) -> list[tuple[str, str, str]]:
        """Return a row of `COLUMNS` for each run, faults last."""
        return [
            *((run_id, "taken over", "Temporal now drives the run") for run_id in self.taken),
            *((run_id, "started", "") for run_id in self.started),
            *((run_id, "driven already", "") for run_id in self.driven),
            *((run_id, "refused", reason) for run_id, reason in self.refused.items()),
            *((run_id, "damaged", str(damage)) for run_id, damage in self.damaged.items()),
            *((run_id, "missing", _LACKING) for run_id in self.unknown),
        ]

    def summary(self) -> str:
        """Return the outcome in one line."""
        open_runs = len(self.started) + len(self.driven) + len(self.refused) + len(self.damaged)
        text = f"{open_runs} unfinished: {len(self.started)} started, {len(self.driven)} driven already"
        if self.refused:
            text += f", {len(self.refused)} refused"
        if self.damaged:
            text += f", {len(self.damaged)} damaged and skipped"
        if self.unknown:
            text += f"; {len(self.unknown)} missing in this store"
        return text

    def to_json(self) -> dict[str, JsonValue]:
        """Return the outcome as JSON."""
        return {
            "taken_over": list(self.taken),
            "started": list(self.started),
            "driven": list(self.driven),
            "refused": dict(self.refused),
            "damaged": {run_id: damage_json(damage) for run_id, damage in self.damaged.items()},
            "missing": list(self.unknown),
        }
