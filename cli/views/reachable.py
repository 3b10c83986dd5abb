"""View of the ways in which runs of a plan can end, as rows for people and as JSON for programs. Pure."""

from pydantic import JsonValue
from rich.text import Text

from amends.cli.views.table import STATUS_STYLES, Column
from amends.sagas.prove.plans.reachable import Reachable

__all__ = ["REACHABLE", "reachable_json", "reachable_rows"]

REACHABLE = (Column("end", 15), Column("faults", 6, right=True), Column("open steps", 30, copied=True))
"""Columns of the ways to end."""


def reachable_rows(found: Reachable) -> list[tuple[Text, str, str]]:
    """Return the ways to end as rows of `REACHABLE`."""
    return [
        (
            Text(end.status.value, STATUS_STYLES[end.status]),
            str(end.faults),
            ", ".join(f"{each.node} ({each.status.value})" for each in end.open_nodes),
        )
        for end in found.ends
    ]


def reachable_json(found: Reachable) -> dict[str, JsonValue]:
    """Return the ways to end as JSON."""
    return {
        "faults": found.faults,
        "complete_up_to": found.complete,
        "ends": [
            {
                "status": end.status.value,
                "faults": end.faults,
                "open_nodes": [{"node": each.node, "status": each.status.value} for each in end.open_nodes],
            }
            for end in found.ends
        ],
    }
