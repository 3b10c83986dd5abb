"""Audit pipelines: the account of their commits, and their effects against the source's own list of ids."""

from typing import TYPE_CHECKING

from amends.aggregates.intake import HeldKind
from amends.pipelines.intake.audit import AccountAudit, PartitionAudit

if TYPE_CHECKING:
    from amends.aggregates.sql.journal import SqlJournal

__all__ = ["account_of"]

_PAGE = 1_000
_ALL = 1_000_000


def account_of(journal: "SqlJournal", name: str) -> dict[str, PartitionAudit]:
    """Audit the account of every partition of a pipeline or relay; return the results by partition."""
    intake = journal.intake
    found: dict[str, PartitionAudit] = {}
    for partition, position in sorted(intake.positions(name).items()):
        audit, after = AccountAudit(partition), 0
        while rows := intake.batches(name, partition, after=after, limit=_PAGE):
            audit.feed(rows)
            after = rows[-1].number
        held = intake.held(name, partition=partition, limit=_ALL)
        deferred = sum(1 for each in held if each.kind is HeldKind.DEFERRED)
        found[partition] = audit.end(position, set_aside=len(held) - deferred, deferred=deferred)
    return found
