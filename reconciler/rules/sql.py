"""Built-in rules over the store alone: the read model and the streams.

Theory of operation: a scan must not take longer because the store grows. So each scan reads the facts written since the
last scan, reads again every stream with open drift, and continues a sweep of everything by one part of bounded size;
after the last part, the sweep starts again. The positions of the news and of the sweep are recorded with the scan. The
first scan begins with the sweep: facts written before it are not news.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import chain, islice

from sqlalchemy import Engine

from amends.aggregates.audit import Finding, FindingKind
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.run.facts import run_of, stream_of_run
from amends.aggregates.sql.check import (
    READ_MODEL,
    STREAMS,
    Part,
    check_changes,
    check_page,
    check_streams,
    newest_change,
)
from amends.aggregates.sql.damage import damaged_plans
from amends.aggregates.sql.loading import Plans
from amends.reconciler.drift.drift import Drift, DriftKind, Rebuild
from amends.reconciler.drift.observation import Observation
from amends.reconciler.drift.rule import Rule, drift_rule

__all__ = ["SWEPT_EVENTS", "store_rules"]

SWEPT_EVENTS = 2_000
"""The number of events after which a scan leaves the rest of the sweep to the next one."""

_EVERY = timedelta(minutes=1)
_WHOLE = "read model"
_OTHERS = "other streams"
_MANY = 20
_NAMED = 100
_LACKING = frozenset({FindingKind.GAP, FindingKind.NO_PLAN})


def store_rules(engine: Engine, codec: EventCodec) -> tuple[Rule, ...]:
    """Create the rules that need nothing but the store.

    Args:
        engine: Engine of the store; read only.
        codec: Codec for the events of all modules.
    """
    return (
        drift_rule("read-model", every=_EVERY, mode="apply", cap=_MANY)(_read_model(engine, codec)),
        drift_rule("streams", every=_EVERY)(_streams(engine, codec)),
    )


def _read_model(engine: Engine, codec: EventCodec) -> Callable[[Observation], Iterator[Drift]]:
    def read_model(observation: Observation) -> Iterator[Drift]:
        """The rows that runs are listed from are what folding the journal gives."""
        known = [stream_of_run(run_id) for run_id in observation.known if run_id != _WHOLE]
        findings = [*check_streams(engine, codec, known), *_news_and_sweep(engine, codec, observation, READ_MODEL)]
        wrong = {each.subject: each for each in findings if each.fixed_by_rebuild}
        if len(wrong) > _MANY or (_WHOLE in observation.known and _any_wrong(engine, codec)):
            yield Drift(
                subject=_WHOLE,
                kind=DriftKind.DIFFERENT,
                expected="the values of the journal",
                actual="other values for many runs",
                evidence="; ".join(each.message for each in [*wrong.values()][:3]),
                correction=Rebuild(),
            )
            return
        for stream, finding in wrong.items():
            run_id = run_of(stream) or stream
            yield Drift(
                subject=run_id,
                kind=DriftKind.DIFFERENT,
                expected="the values of the journal",
                evidence=finding.message,
                correction=Rebuild((run_id,)),
            )

    return read_model


def _any_wrong(engine: Engine, codec: EventCodec) -> bool:
    """Check whether the read model is wrong anywhere: read everything, up to the first finding."""
    return any(each.fixed_by_rebuild for each in _everything(engine, codec, READ_MODEL))


def _everything(engine: Engine, codec: EventCodec, parts: Sequence[Part]) -> Iterator[Finding]:
    """Yield the findings of the entire store, page by page, for as long as the caller asks for more."""
    position, kept = "", Plans()
    while True:
        page = check_page(engine, codec, position, parts, kept)
        yield from page.findings
        position = page.position
        if not position:
            return


def _streams(engine: Engine, codec: EventCodec) -> Callable[[Observation], Iterator[Drift]]:
    def streams(observation: Observation) -> Iterator[Drift]:
        """Every stream is gapless, readable and possible."""
        # Earlier findings come first, so the named streams stay the same while more are wrong.
        findings: Iterable[Finding] = [
            *damaged_plans(engine),
            *check_streams(engine, codec, [each for each in observation.known if each != _OTHERS]),
            *_news_and_sweep(engine, codec, observation, STREAMS),
        ]
        # One part of the sweep cannot prove that no other stream is wrong.
        if _OTHERS in observation.known:
            findings = chain(findings, _everything(engine, codec, STREAMS))
        found: dict[Finding, None] = {}
        for each in findings:
            if not each.fixed_by_rebuild:
                found[each] = None
            if len(found) > _NAMED:
                break
        yield from map(_damage, islice(found, _NAMED))
        if len(found) > _NAMED:
            yield Drift(
                subject=_OTHERS,
                kind=DriftKind.DIFFERENT,
                expected="sound streams",
                evidence=f"more than {_NAMED} things are wrong; all of them: amends db check",
            )

    return streams


def _damage(finding: Finding) -> Drift:
    # The identity of the drift includes the place: other damage at the same place is another drift.
    return Drift(
        subject=finding.subject[:300],
        kind=DriftKind.MISSING if finding.kind in _LACKING else DriftKind.DIFFERENT,
        expected="a sound stream",
        actual={"found": finding.kind.value, "position": finding.position},
        evidence=finding.message,
    )


def _news_and_sweep(
    engine: Engine, codec: EventCodec, observation: Observation, parts: Sequence[Part]
) -> Iterator[Finding]:
    """Check the new facts, then the next part of the sweep."""
    kept = Plans()
    newest = newest_change(engine)
    position = observation.log_position or newest
    while position < newest:
        changed = check_changes(engine, codec, position, kept, only_runs=Part.RUNS in parts)
        yield from changed.findings
        position = changed.position
    observation.log_position = position
    swept = 0
    while swept < SWEPT_EVENTS:
        part = check_page(engine, codec, observation.sweep, parts, kept, most=SWEPT_EVENTS - swept)
        yield from part.findings
        swept += part.size
        observation.sweep = part.position
        if not part.position:
            break
