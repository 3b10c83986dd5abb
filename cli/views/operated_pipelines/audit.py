"""Views of audits of pipelines: rows, lines and JSON. Pure."""

from collections.abc import Mapping
from dataclasses import asdict

from pydantic import JsonValue

from amends.cli.views.table import Column
from amends.pipelines.control.comparison import SourceAudit
from amends.pipelines.intake.audit import PartitionAudit

__all__ = ["ACCOUNT", "account_row", "audit_json", "source_lines"]

_NAMED = 20

ACCOUNT = (
    Column("pipeline", 8, copied=True),
    Column("partition", 9, copied=True),
    Column("commits", 7, right=True),
    Column("arrived", 7, right=True),
    Column("applied", 7, right=True),
    Column("duplicates", 10, right=True),
    Column("set aside", 9, right=True),
    Column("deferred", 8, right=True),
    Column("skipped", 7, right=True),
    Column("exactly once since", 18, right=True),
    Column("findings", 8, right=True),
)
"""Columns of the audit of accounts."""


def account_row(name: str, partition: str, result: PartitionAudit) -> tuple[str, ...]:
    """Return the audit of a partition's account as a row of `ACCOUNT`."""
    counts = result.counts
    return (
        name,
        partition,
        str(result.batches),
        str(result.arrived),
        str(counts.applied),
        str(counts.repeated + counts.replayed),
        _some(counts.set_aside),
        _some(counts.deferred),
        _some(counts.skipped),
        "" if result.exactly_once_since is None else str(result.exactly_once_since),
        str(len(result.findings)),
    )


def source_lines(name: str, result: SourceAudit) -> list[str]:
    """Return the comparison with the source in lines."""
    found = f"{len(result.missing)} missing, {len(result.doubled)} doubled"
    read = f"{result.messages} messages, {result.ids} ids, {result.effects} with an effect"
    lines = [f"{name} against its source: {read}; {found}"]
    if result.held:
        lines.append(f"  {result.held} messages are held")
    if result.unchecked:
        lines.append(f"  {result.unchecked} ids are unchecked: their mode or their age leaves no trace in the store")
    if result.lost:
        lines.append(f"  {result.lost} positions are no longer in the source")
    for word, ids in (("missing", result.missing), ("doubled", result.doubled)):
        lines += [f"  {word}: {each}" for each in ids[:_NAMED]]
        if len(ids) > _NAMED:
            lines.append(f"  and {len(ids) - _NAMED} more; --json names all")
    return [*lines, *(f"  {each}" for each in result.findings)]


def audit_json(name: str, account: Mapping[str, PartitionAudit], source: SourceAudit | None) -> dict[str, JsonValue]:
    """Return an audit as JSON."""
    return {
        "pipeline": name,
        "partitions": [
            {
                "partition": partition,
                "commits": each.batches,
                "arrived": each.arrived,
                "counts": asdict(each.counts),
                "exactly_once_since": each.exactly_once_since,
                "findings": list(each.findings),
            }
            for partition, each in account.items()
        ],
        "source": None if source is None else {**asdict(source), "exact": source.exact},
    }


def _some(value: int) -> str:
    return str(value) if value else ""
