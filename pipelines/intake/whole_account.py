"""The audit of a whole account, read through the port of the tables. Pure, like the port.

The pipeline may go on meanwhile: the audit reads on until the position and the last commit that it has read agree.
"""

from amends.aggregates.intake import HeldKind, IntakeReader
from amends.pipelines.intake.audit import AccountAudit, PartitionAudit

__all__ = ["audit_account"]

_PAGE = 1_000
_ALL = 1_000_000
_TRIES = 100


def audit_account(intake: IntakeReader, name: str, partition: str) -> PartitionAudit:
    """Audit the account of one partition from its first commit to its last."""
    audit, after = AccountAudit(partition), 0
    for _ in range(_TRIES):
        while rows := intake.batches(name, partition, after=after, limit=_PAGE):
            audit.feed(rows)
            after = rows[-1].number
        held = intake.held(name, partition=partition, limit=_ALL)
        position = intake.position(name, partition)
        if position is None or position.batch <= after:
            break
    deferred = sum(1 for each in held if each.kind is HeldKind.DEFERRED)
    return audit.end(position, set_aside=len(held) - deferred, deferred=deferred)
