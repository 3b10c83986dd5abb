"""Test the decisions about drift: every guard, and the invariants for any scans."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amends.aggregates.errors import DefinitionError, InputError, NotFoundError, RefusedError
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.events.snapshot import Snapshot, restore_snapshot, take_snapshot
from amends.reconciler.drift.decide import ScanResult, Verdict, approve, decide, hold_reason, ignore, stop_ignoring
from amends.reconciler.drift.drift import Command, Correction, Drift, DriftKind, Intervene, described
from amends.reconciler.drift.facts import CorrectionFailed, CorrectionStarted, DriftCorrected
from amends.reconciler.drift.rule import Mode, Rule, drift_rule
from amends.reconciler.drift.rule_state import RuleState
from amends.reconciler.drift.stream import RECONCILIATION_FACTS, Reconciliation
from amends.sagas.engine.interventions import Intervention, InterventionKind

CONFIRM_AFTER = 10_000


def mend(*_: object) -> None:
    """Stand for a correction; no test runs it."""


@drift_rule("stock", every=timedelta(minutes=1), mode="apply")
def stock(_: object) -> list[Drift]:
    """Find nothing; each test supplies the drift of its scans."""
    return []


def rule(**policy: Any) -> Rule:  # noqa: ANN401 - any part of a policy
    """Return the rule with another policy."""
    return replace(stock, policy=replace(stock.policy, **policy))


def drift(subject: str = "sku-1", correction: Correction | None = Command(mend), **fields: Any) -> Drift:  # noqa: ANN401, B008 - any field; it is immutable
    """Return a drift."""
    return Drift(**{"subject": subject, "kind": DriftKind.DIFFERENT, "correction": correction, **fields})


class Past:
    """A rule's stream as it grows, and the time."""

    def __init__(self, by: Rule = stock) -> None:
        self.rule = by
        self.rule_state = RuleState()
        self.now_ms = 1_000_000

    def scan(self, *drifts: Drift, after: int = CONFIRM_AFTER, **scan: Any) -> Verdict:  # noqa: ANN401 - any field of a scan
        """Scan some time later."""
        self.now_ms += after
        verdict = decide(self.rule_state, self.rule, ScanResult(drifts=drifts, **scan), self.now_ms, actor="test")
        self.rule_state = verdict.rule_state
        return verdict

    def correct(self, name: str, *, error: str | None = None) -> None:
        """Record that a correction was made, or failed."""
        common: dict[str, Any] = {
            "scan": self.rule_state.scans,
            "as_of_ms": self.now_ms,
            "actor": "test",
            "drift": name,
        }
        fact = (
            DriftCorrected(**common, correction="mend", changed=())
            if error is None
            else CorrectionFailed(**common, error=error)
        )
        self.rule_state = self.rule_state.apply(fact)

    def begin(self, name: str) -> None:
        """Record that a correction is about to be made."""
        fact = CorrectionStarted(
            scan=self.rule_state.scans, as_of_ms=self.now_ms, actor="test", drift=name, correction="mend"
        )
        self.rule_state = self.rule_state.apply(fact)

    def approve(self, name: str) -> None:
        """Approve a drift."""
        self.rule_state = self.rule_state.apply(approve(self.rule_state, name, self.now_ms, actor="ann"))

    def seen_twice(self, *drifts: Drift) -> Verdict:
        """Scan twice, far enough apart."""
        self.scan(*drifts)
        return self.scan(*drifts)


def only(verdict: Verdict) -> str:
    """Return the id of the only drift that was seen."""
    (name,) = verdict.seen
    return name


def held(verdict: Verdict) -> str:
    """Return why the only drift that was seen is held."""
    assert not verdict.due
    return verdict.held[only(verdict)]


# ---- guards


def test_one_look_is_not_enough() -> None:
    """A drift is corrected after two scans saw it far enough apart, and not after two that are closer."""
    past = Past()
    assert "second scan" in held(past.scan(drift()))
    assert "second scan" in held(past.scan(drift(), after=CONFIRM_AFTER - 1))
    assert len(past.scan(drift(), after=1).due) == 1


def test_two_looks_are_needed_however_close() -> None:
    """A drift that one scan saw is not corrected, even when scans may follow at once or somebody has approved it."""
    past = Past(rule(confirm_after_ms=0))
    name = only(past.scan(drift()))
    past.approve(name)
    reason = hold_reason(past.rule_state, name, drift(), past.rule.policy, past.now_ms, in_flight={}, maintenance=None)
    assert reason is not None
    assert "second scan" in reason
    assert "second scan" in held(past.scan(drift("sku-2")))
    assert past.scan(drift("sku-2"), after=0).due


def test_a_clock_that_is_ahead_holds_nothing_up() -> None:
    """A drift first seen by a clock a day ahead is corrected after two scans apart by the other clocks."""
    past = Past()
    past.scan(drift(), after=24 * 3_600_000)
    assert "second scan" in held(past.scan(drift(), after=-24 * 3_600_000))
    assert past.scan(drift()).due


def test_a_version_that_is_compared_takes_the_place_of_the_second_look() -> None:
    """A drift with a version is due at once, if its correction compares the version."""
    decision = Intervention(kind=InterventionKind.RETRY, actor="", reason="stuck")
    assert Past().scan(drift(version=3, correction=Intervene("run-1", decision))).due
    assert "second scan" in held(Past().scan(drift(version=3)))


def test_a_look_that_could_not_look_changes_nothing() -> None:
    """A scan that could not scan neither clears nor corrects drift, and does not count as a sighting."""
    past = Past()
    name = only(past.scan(drift()))
    blind = past.scan(unobservable="the bank is away")
    assert [type(fact).__name__ for fact in blind.facts] == ["DriftUnobservable"]
    assert not blind.due
    assert past.rule_state.drifts[name].sightings == 1
    assert past.rule_state.unobservable == "the bank is away"


def test_a_drift_is_corrected_once() -> None:
    """A drift that was corrected and is still there is not corrected again."""
    past = Past()
    past.correct(only(past.seen_twice(drift())))
    assert "find the cause" in held(past.scan(drift()))


def test_the_same_difference_after_it_was_gone_is_another_drift() -> None:
    """A difference that comes back has another id, so it can be corrected as well."""
    past = Past()
    first = only(past.seen_twice(drift()))
    past.correct(first)
    assert [type(fact).__name__ for fact in past.scan().facts] == ["DriftCleared", "RuleScanned"]
    again = past.seen_twice(drift())
    assert again.due == (only(again),)
    assert only(again) != first


def test_what_another_one_corrects_is_left_to_it_until_its_lease_ends() -> None:
    """A correction under way is not repeated before its lease ends; a clock a day ahead does not change that."""
    past = Past()
    past.begin(only(past.seen_twice(drift())))
    assert held(past.scan(drift(), after=1_000)) == "is being corrected"
    assert past.scan(drift(), after=past.rule.policy.lease_ms).due
    past.now_ms += 24 * 3_600_000
    past.begin(only(past.scan(drift())))
    past.now_ms -= 24 * 3_600_000
    assert past.scan(drift()).due


def test_nothing_in_flight_is_touched() -> None:
    """A run that is driven, or that has a call under way, is not touched."""
    decision = Intervention(kind=InterventionKind.RETRY, actor="", reason="stuck")
    found = drift(version=3, correction=Intervene("run-1", decision))
    past = Past()
    assert held(past.scan(found, in_flight={"run-1": "its workflow runs"})) == "its workflow runs"
    assert past.scan(found, in_flight={"run-2": "its workflow runs"}).due


def test_in_a_maintenance_window_nothing_is_corrected() -> None:
    """In an open window, scans continue and nothing is corrected, approved or not; afterwards everything is."""
    past = Past()
    name = only(past.scan(drift()))
    past.approve(name)
    assert held(past.scan(drift(), maintenance="the bank moves")) == "the bank moves"
    proposing = Past(rule(mode=Mode.PROPOSE))
    kinds = [type(fact).__name__ for fact in proposing.scan(drift(), maintenance="the bank moves").facts]
    assert kinds == ["DriftDetected", "DriftProposed", "RuleScanned"]
    assert past.scan(drift()).due


def test_above_the_cap_nothing_is_corrected() -> None:
    """When more is due than the cap or the share allows, nothing is corrected, and the verdict says so."""
    many = [drift(f"sku-{number}") for number in range(3)]
    past = Past(rule(cap=2))
    stopped = past.seen_twice(*many)
    assert not stopped.due
    assert "cap of 2" in str(stopped.stopped)
    assert set(stopped.held) == set(stopped.seen)
    assert len(Past(rule(cap=3)).seen_twice(*many).due) == 3
    assert "share of 0.1" in str(_shared(0.1, many, 29).stopped)
    assert len(_shared(0.1, many, 30).due) == 3
    assert "does not report" in str(_shared(0.1, many, None).stopped)


def _shared(share: float, drifts: list[Drift], count: int | None) -> Verdict:
    past = Past(rule(share=share))
    past.scan(*drifts)
    return past.scan(*drifts, count=count)


def test_what_is_approved_does_not_count_against_the_cap() -> None:
    """Approved drift is corrected in addition to the number that the cap allows."""
    drifts = [drift(f"sku-{number}") for number in range(3)]
    past = Past(rule(cap=2))
    assert past.seen_twice(*drifts).stopped is not None
    past.approve(next(iter(past.rule_state.drifts)))
    assert len(past.scan(*drifts).due) == 3


def test_a_subject_that_flips_is_left_alone() -> None:
    """A subject that was corrected some times within a day and drifts again waits for an approval."""
    past = Past()
    for _ in range(past.rule.policy.flips):
        past.correct(only(past.seen_twice(drift())))
        past.scan()
    flipping = past.seen_twice(drift())
    assert "drifts again" in held(flipping)
    assert past.seen_twice(drift("sku-1"), drift("sku-2")).due, "other subjects are not concerned"
    past.approve(only(flipping))
    assert only(flipping) in past.scan(drift()).due


def test_corrections_of_long_ago_break_nothing() -> None:
    """A subject that is corrected now and then, each time after a day, is corrected for ever."""
    past = Past()
    for _ in range(2 * past.rule.policy.flips):
        verdict = past.seen_twice(drift())
        assert verdict.due
        past.correct(only(verdict))
        past.scan(after=past.rule.policy.flips_within_ms)


def test_a_failing_correction_waits_longer_each_time_and_ends() -> None:
    """After a failure a subject waits, twice as long after the next one; after the last one nothing follows."""
    past = Past()
    wait_ms = past.rule.policy.backoff_ms
    name = only(past.seen_twice(drift()))
    for failed in range(past.rule.policy.attempts - 1):
        past.correct(name, error="no")
        assert "next attempt" in held(past.scan(drift(), after=wait_ms * 2**failed - 1))
        assert past.scan(drift(), after=1).due
    past.correct(name, error="no")
    assert "failed 3 times: no" in held(past.scan(drift(), after=1_000 * wait_ms))


def test_a_success_gives_the_budget_back() -> None:
    """After a failure and a success, a subject has its whole budget when it drifts again."""
    past = Past()
    name = only(past.seen_twice(drift()))
    for _ in range(past.rule.policy.attempts - 1):
        past.correct(name, error="no")
    past.correct(name)
    past.scan()
    past.correct(only(past.seen_twice(drift())), error="no")
    assert "next attempt" in held(past.scan(drift(), after=0))


def test_an_approval_is_for_one_try() -> None:
    """When an approved correction fails, the approval ends: the drift waits, for approval where the mode needs it."""
    for by, said in ((stock, "next attempt"), (rule(mode=Mode.PROPOSE), "waits for approval")):
        past = Past(by)
        name = only(past.seen_twice(drift()))
        past.approve(name)
        assert past.scan(drift()).due == (name,)
        past.correct(name, error="no")
        assert said in held(past.scan(drift(), after=0))


def test_a_failure_by_a_clock_that_is_ahead_is_waited_out_by_no_one() -> None:
    """After a failure by a clock a day ahead, the others try again without a wait of a day and its back-off."""
    past = Past()
    name = only(past.seen_twice(drift()))
    past.now_ms += 24 * 3_600_000
    past.correct(name, error="no")
    assert past.scan(drift(), after=-24 * 3_600_000).due == (name,)


@pytest.mark.parametrize(("mode", "said"), [(Mode.OBSERVE, "only observes"), (Mode.PROPOSE, "waits for approval")])
def test_a_rule_goes_as_far_as_its_mode(mode: Mode, said: str) -> None:
    """A rule that does not apply corrections corrects approved drift and nothing else."""
    past = Past(rule(mode=mode))
    both = drift(), drift("sku-2")
    verdict = past.seen_twice(*both)
    assert set(verdict.held.values()) == {f"the rule {said}" if mode is Mode.OBSERVE else said}
    assert not verdict.due
    past.approve(next(iter(verdict.seen)))
    assert past.scan(*both).due == (next(iter(verdict.seen)),)


def test_a_proposal_is_made_once() -> None:
    """A rule that proposes records one proposal for each drift that has a correction, and none for other drift."""
    past = Past(rule(mode=Mode.PROPOSE))
    found = drift(), drift("sku-2", correction=None)
    proposals = [fact for _ in range(3) for fact in past.scan(*found).facts if type(fact).__name__ == "DriftProposed"]
    assert len(proposals) == 1


@pytest.mark.parametrize("by_subject", [True, False])
def test_what_is_ignored_is_left_alone_until_then(by_subject: bool) -> None:  # noqa: FBT001 - a parameter's value
    """An ignored drift or subject is not corrected before the declared time, or until the decision is removed."""
    past = Past()
    name = only(past.seen_twice(drift()))
    what = "sku-1" if by_subject else name
    until_ms = past.now_ms + 2 * CONFIRM_AFTER
    fact = ignore(past.rule_state, what, past.now_ms, actor="ann", reason="stocktaking", until_ms=until_ms)
    past.rule_state = past.rule_state.apply(fact)
    assert held(past.scan(drift())) == "ignored by ann: stocktaking"
    removed = past.rule_state.apply(stop_ignoring(past.rule_state, what, past.now_ms, actor="ann"))
    assert decide(removed, past.rule, ScanResult(drifts=(drift(),)), past.now_ms, actor="test").due
    assert past.scan(drift()).due


# ---- invariants for any scans

scans = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1)), max_size=4),
        st.sampled_from([-50_000, 1, 5_000, 20_000, 90_000_000]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=15,
)


@given(scans=scans, cap=st.integers(1, 3))
def test_whatever_is_seen_no_drift_is_corrected_twice(
    scans: list[tuple[list[tuple[str, int]], int, bool, bool]], cap: int
) -> None:
    """For any scans and clocks: at most one correction a drift, at most the cap a scan, and only of seen drift."""
    past = Past(rule(cap=cap))
    corrected: list[str] = []
    for found, after, blind, fails in scans:
        drifts = [drift(subject, actual=actual) for subject, actual in found]
        verdict = past.scan(*drifts, after=after, unobservable="away" if blind else None)
        assert len(verdict.due) <= cap
        assert set(verdict.due) | set(verdict.held) == set(verdict.seen)
        assert not (blind and verdict.due)
        for name in verdict.due:
            assert past.rule_state.drifts[name].sightings > 1
            past.correct(name, error="no" if fails else None)
            corrected += [] if fails else [name]
    assert len(corrected) == len(set(corrected))


@given(scans=scans)
def test_the_stream_folds_to_what_was_decided_on(
    scans: list[tuple[list[tuple[str, int]], int, bool, bool]],
) -> None:
    """The facts of every scan, stored and read back, fold to the same state; so do snapshots."""
    past = Past()
    codec = EventCodec([Reconciliation])
    aggregate = Reconciliation(id="stock", rule_state=RuleState())
    for found, after, blind, _ in scans:
        drifts = [drift(subject, actual=actual) for subject, actual in found]
        verdict = past.scan(*drifts, after=after, unobservable="away" if blind else None)
        for fact in verdict.facts:
            aggregate.record(fact)
    events = aggregate.collect_events()
    read: Any = None
    for each in events:
        read = codec.to_domain(codec.to_stored(each)).mutate(read)
    assert read.rule_state == past.rule_state
    assert read.rule_state.position == read.version
    taken = take_snapshot(aggregate)
    assert isinstance(taken, Snapshot), taken
    restored = restore_snapshot(Reconciliation, taken)
    assert restored is not None
    assert restored.rule_state == past.rule_state


def test_every_kind_of_fact_can_be_recorded() -> None:
    """Each fact of reconciliation has its event, under its own name."""
    names = {each.__name__ for each in vars(Reconciliation).values() if isinstance(each, type)}
    assert set(RECONCILIATION_FACTS) <= names


# ---- values and definitions


def test_a_drift_is_told_apart_by_rule_subject_kind_and_values() -> None:
    """The key is the same for the same difference with any evidence, and differs for every other difference."""
    same = {drift(evidence="a").key("r"), drift(evidence="b", version=3, correction=None).key("r")}
    others = {
        drift().key("s"),
        drift("sku-2").key("r"),
        drift(kind=DriftKind.MISSING).key("r"),
        drift(expected=1).key("r"),
        drift(actual=1).key("r"),
    }
    assert len(same) == 1
    assert len(same | others) == 6


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"subject": ""}, "printable text"),
        ({"subject": "a\x1b"}, "printable text"),
        ({"expected": float("nan")}, "nan is not JSON"),
        ({"actual": "x" * 30_000}, "20000"),
    ],
)
def test_a_drift_that_could_not_be_recorded_is_refused(fields: dict[str, Any], said: str) -> None:
    """A value that the journal would refuse is refused when the rule creates the drift."""
    with pytest.raises(InputError, match=said):
        drift(**fields)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("Stock!", {}, "lower-case"),
        ("stock", {"mode": "fix"}, "observe, propose, apply"),
        ("stock", {"every": timedelta(0)}, "above 0"),
        ("stock", {"every": 5}, "every is 5; give a timedelta"),
        ("stock", {"timeout": timedelta(0)}, "above 0"),
        ("stock", {"cap": 0}, "cap from 1"),
        ("stock", {"share": 1.5}, "share above 0 up to 1"),
    ],
)
def test_a_rule_that_could_not_work_is_refused(name: str, fields: dict[str, Any], said: str) -> None:
    """A rule's faults are raised at its definition."""
    with pytest.raises(DefinitionError, match=said):
        drift_rule(name, **{"every": timedelta(minutes=1), **fields})


def test_a_correction_names_what_it_calls() -> None:
    """A lambda is refused, since the journal must name the correction."""
    assert described(Command(mend)) == "call mend"
    with pytest.raises(DefinitionError, match="lambda"):
        Command(lambda: None)


def test_people_can_decide_only_about_what_is_there() -> None:
    """An approval needs an open drift with a correction; a decision to ignore needs a reason and a time to come."""
    past = Past()
    name = only(past.scan(drift(correction=None)))
    with pytest.raises(RefusedError, match="no correction"):
        approve(past.rule_state, name, 0, actor="ann")
    with pytest.raises(NotFoundError, match="no open drift"):
        approve(past.rule_state, "other", 0, actor="ann")
    with pytest.raises(InputError, match="reason"):
        ignore(past.rule_state, name, 0, actor="ann", reason=" ", until_ms=1)
    with pytest.raises(InputError, match="in the past"):
        ignore(past.rule_state, name, 5, actor="ann", reason="why", until_ms=5)
    with pytest.raises(NotFoundError, match="not ignored"):
        stop_ignoring(past.rule_state, name, 0, actor="ann")
