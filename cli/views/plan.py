"""Views of definitions: plans and the catalog, as rows for people and as JSON for programs. Pure."""

from collections.abc import Mapping

from pydantic import JsonValue

from amends.aggregates.run.plan import Plan, PlanNode, RetryPolicy, Role, Stage, StepKind
from amends.cli.views.table import Column
from amends.cli.views.times import duration
from amends.compensations.catalog import CatalogEntry

__all__ = [
    "CATALOG",
    "PLAN",
    "catalog_row",
    "entry_json",
    "plan_json",
    "plan_rows",
    "policy_text",
    "shape_of",
    "undone_by",
]


def policy_text(retry: RetryPolicy | None, timeout_ms: int | None = None) -> str:
    """Return a policy on one line, such as `5 attempts, 200 ms x2 up to 30 s, timeout 10 s`."""
    parts: list[str] = []
    if retry is not None and retry.max_attempts == 1:
        parts.append("1 attempt")
    elif retry is not None:
        parts.append("no limit" if retry.max_attempts is None else f"{retry.max_attempts} attempts")
        delay = duration(retry.first_ms)
        if retry.factor > 1:
            delay += f" x{retry.factor:g} up to {duration(retry.longest_ms)}"
        parts.append(delay)
    if timeout_ms is not None:
        parts.append(f"timeout {duration(timeout_ms)}")
    return ", ".join(parts)


# ---- plans


PLAN = (
    Column("#", 3),
    Column("step", 10, copied=True),
    Column("kind", 11),
    Column("role", 13),
    Column("undone by", 14),
    Column("probe", 10),
    Column("policy", 52, below=True),
    Column("undo policy", 52, below=True),
    Column("input from", 10, below=True),
    Column("runs on", 10, below=True),
)
"""Columns of a saga's plan."""


def shape_of(plan: Plan) -> str:
    """Return a plan's shape on one line: `>` separates stages, `|` separates the members of a parallel group."""
    return " > ".join(_stage_shape(stage) for stage in plan.stages)


def _stage_shape(stage: Stage) -> str:
    names = [node.name if node.role is Role.COMPENSATABLE else f"{node.role.value} {node.name}" for node in stage.nodes]
    return names[0] if len(names) == 1 else f"({' | '.join(names)})"


def plan_rows(plan: Plan, catalog: Mapping[str, CatalogEntry]) -> list[tuple[str, ...]]:
    """Return a plan as rows of `PLAN`.

    Args:
        plan: The plan.
        catalog: The catalog's entries by step.
    """
    rows: list[tuple[str, ...]] = []
    for number, stage in enumerate(plan.stages, 1):
        for member, node in enumerate(stage.nodes, 1):
            entry = catalog[node.step]
            rows.append(
                (
                    str(number) if len(stage.nodes) == 1 else f"{number}.{member}",
                    node.name if node.name == node.step else f"{node.name} ({node.step})",
                    node.kind.value,
                    node.role.value,
                    undone_by(node, entry),
                    _function(entry.probe) if entry.probe else "",
                    policy_text(node.retry, node.timeout_ms),
                    policy_text(node.undo.retry, node.undo.timeout_ms) if node.undo else "",
                    _function(node.mapping) if node.mapping else "",
                    "the saga's worker" if node.local else node.queue or "",
                )
            )
    return rows


def undone_by(node: PlanNode, entry: CatalogEntry) -> str:
    """Return how a node of a plan is undone, or why it is not."""
    if node.undo is not None and entry.compensation is not None:
        return _function(entry.compensation)
    if node.read_only:
        return "nothing to undo"
    if node.irreversible is not None:
        return f"irreversible: {node.irreversible}"
    return "decides" if node.role is Role.PIVOT else "only goes forward"


def plan_json(plan: Plan) -> dict[str, JsonValue]:
    """Return a plan as JSON, as it is stored, with its fingerprint."""
    return {**plan.model_dump(mode="json"), "fingerprint": plan.fingerprint}


def _function(location: str) -> str:
    return location.rpartition(":")[2]


# ---- the catalog


CATALOG = (
    Column("step", 24, copied=True),
    Column("kind", 11),
    Column("undone by", 27),
    Column("probe", 10),
    Column("participant", 24, below=True),
    Column("guarantee", 34, below=True),
    Column("policy", 52, below=True),
    Column("undo policy", 52, below=True),
    Column("owner", 12, below=True),
    Column("runbook", 20, copied=True, below=True),
    Column("sagas", 12, below=True),
)
"""Columns of the catalog."""


def catalog_row(entry: CatalogEntry) -> tuple[str, ...]:
    """Return an entry as a row of `CATALOG`."""
    probe = entry.probe or ("" if entry.kind is StepKind.TRANSACTION else "none")
    return (
        entry.step,
        entry.kind.value,
        entry.undone_by,
        probe,
        "" if entry.participant is None else f"{entry.participant}: {entry.contract}",
        entry.guarantee.value,
        policy_text(entry.retry, entry.timeout_ms),
        policy_text(entry.undo.retry, entry.undo.timeout_ms) if entry.undo else "",
        entry.owner or "",
        entry.runbook or "",
        ", ".join(entry.sagas) or "none",
    )


def entry_json(entry: CatalogEntry) -> dict[str, JsonValue]:
    """Return an entry as JSON, with its derived values."""
    return {**entry.model_dump(mode="json"), "guarantee": entry.guarantee.value, "undone_by": entry.undone_by}
