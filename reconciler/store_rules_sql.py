"""Built-in rules over the store alone: the read model, the streams, and runs that wait for people."""

from collections.abc import Callable, Iterator
from datetime import timedelta

from sqlalchemy import Engine

from amends.aggregates.audit import Finding, FindingKind
from amends.aggregates.codec import EventCodec
from amends.aggregates.journal import RunQuery
from amends.aggregates.maintenance_sql import check
from amends.aggregates.state import RunStatus
from amends.reconciler.drift import Drift, DriftKind, Rebuild
from amends.reconciler.observation import Observation
from amends.reconciler.rule import Rule, drift_rule

__all__ = ["store_rules"]

_PAGE = 200
_NAMED = 20
_LACKING = frozenset({FindingKind.GAP, FindingKind.NO_PLAN})

ATTENDED_WITHIN = timedelta(hours=1)
"""How long a run may wait for people before it is said."""


def store_rules(engine: Engine, codec: EventCodec, *, attended_within: timedelta = ATTENDED_WITHIN) -> tuple[Rule, ...]:
    """Make the rules that need nothing but the store.

    Args:
        engine: Of the store; read only.
        codec: Knows the events of all modules.
        attended_within: How long a run may wait for people before it is said.
    """

    @drift_rule("read-model", every=timedelta(hours=1), mode="apply")
    def read_model(observation: Observation) -> Iterator[Drift]:  # noqa: ARG001 - it reads page by page itself
        """The rows that runs are listed from are what folding the journal gives."""
        wrong = [each for each in check(engine, codec) if each.mended_by_rebuilding]
        if wrong:
            subjects = sorted({each.subject for each in wrong})
            yield Drift(
                subject="read model",
                kind=DriftKind.DIFFERENT,
                expected="what the journal says",
                actual={"wrong": len(subjects), "first": [*subjects[:_NAMED]]},
                evidence=wrong[0].message,
                correction=Rebuild(),
            )

    @drift_rule("streams", every=timedelta(hours=1))
    def streams(observation: Observation) -> Iterator[Drift]:  # noqa: ARG001 - as above
        """Every stream is gapless, readable and possible."""
        yield from (_damage(each) for each in check(engine, codec) if not each.mended_by_rebuilding)

    return (read_model, streams, drift_rule("attention", every=timedelta(minutes=10))(_attention(attended_within)))


def _damage(finding: Finding) -> Drift:
    # What is known of a place is said in the drift's identity: other damage at the same place is another drift.
    return Drift(
        subject=finding.subject[:300],
        kind=DriftKind.MISSING if finding.kind in _LACKING else DriftKind.DIFFERENT,
        expected="a sound stream",
        actual={"found": finding.kind.value, "position": finding.position},
        evidence=finding.message,
    )


def _attention(within: timedelta) -> Callable[[Observation], Iterator[Drift]]:
    def attention(observation: Observation) -> Iterator[Drift]:
        """No run waits for people for too long."""
        latest_ms = observation.now_ms - within // timedelta(milliseconds=1)
        for row in observation.runs(RunQuery(statuses=frozenset({RunStatus.NEEDS_ATTENTION}), limit=_PAGE)):
            if row.updated_ms <= latest_ms:
                yield Drift(
                    subject=row.run_id,
                    kind=DriftKind.DIFFERENT,
                    expected="a decision",
                    actual={"status": row.status.value, "since_ms": row.updated_ms, "open": row.current},
                    evidence=row.error or "",
                )

    return attention
