"""Test maintenance windows: a declaration holds until it ends, and a mistake is one line."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading_shop import Amends, Shop, change, copy_of, one_line

from amends.aggregates.errors import InputError, NotFoundError
from amends.aggregates.events.event_codec import EventCodec
from amends.reconciler.maintenance_windows import (
    EVERY_RULE,
    MAINTENANCE_FACTS,
    Maintenance,
    Windows,
    end_maintenance,
    start_maintenance,
)

steps = st.lists(
    st.tuples(st.sampled_from([None, "a", "b"]), st.booleans(), st.integers(1, 100), st.integers(0, 50)), max_size=20
)


@given(steps=steps)
def test_a_window_holds_until_the_time_that_was_named_last_or_its_end(
    steps: list[tuple[str | None, bool, int, int]],
) -> None:
    """For any windows started and ended: a rule is closed exactly while one for it, or for every rule, is open."""
    stream = Maintenance(id=Maintenance.ID, windows=Windows())
    ends: dict[str, int] = {}
    now_ms = 0
    for rule, starts, length_ms, after_ms in steps:
        now_ms += after_ms
        named, key = ([rule], rule) if rule else ([], EVERY_RULE)
        open_ones = {each for each, end in ends.items() if now_ms < end}
        if starts:
            until_ms = now_ms + length_ms
            facts: Any = start_maintenance(named, now_ms, actor="ann", reason="r", until_ms=until_ms)
            ends[key] = until_ms
        elif (key in open_ones) if rule else open_ones:
            facts = end_maintenance(stream.windows, named, now_ms, actor="bob")
            ends = {each: end for each, end in ends.items() if rule and each != key}
        else:
            with pytest.raises(NotFoundError, match="no maintenance window is open"):
                end_maintenance(stream.windows, named, now_ms, actor="bob")
            facts = []
        for fact in facts:
            stream.record(fact)
        for each in ("a", "b", "c"):
            expected = any(now_ms < ends.get(scope, 0) for scope in (each, EVERY_RULE))
            assert (stream.windows.closed_for(each, now_ms) is not None) is expected
    codec, read = EventCodec([Maintenance]), None
    for event in stream.collect_events():
        read = codec.to_domain(codec.to_stored(event)).mutate(read)
    assert read is not None
    assert read.windows == stream.windows


def test_every_kind_of_fact_can_be_recorded() -> None:
    """Each fact about maintenance has its event, under its own name."""
    assert set(MAINTENANCE_FACTS) <= {each.__name__ for each in vars(Maintenance).values() if isinstance(each, type)}


def test_a_window_needs_a_reason_and_a_time_to_come() -> None:
    """A window without a reason, or with an end in the past, is refused."""
    with pytest.raises(InputError, match="reason"):
        start_maintenance([], 0, actor="ann", reason=" ", until_ms=1)
    with pytest.raises(InputError, match="in the past"):
        start_maintenance([], 1, actor="ann", reason="r", until_ms=1)


@pytest.fixture
def spoilt(shop: Shop, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> Amends:  # noqa: ANN401 - a Path
    """Return the program on a copy of the shop whose read model lacks a run."""
    folder = copy_of(shop, tmp_path)
    change(folder, "DELETE FROM saga_index WHERE run_id = (SELECT min(run_id) FROM saga_index)")
    return Amends(folder, capsys)


def test_nothing_is_corrected_until_maintenance_is_over(spoilt: Amends) -> None:
    """A window is listed, is named as the reason of a held correction, and ends when somebody ends it."""
    (drift,) = spoilt("reconcile", "read-model", "--json").json[0]["drift"]
    started = spoilt("maintenance", "start", "read-model", "--for", "2h", "--reason", "restoring")
    assert started.out.startswith("nothing is corrected by read-model until ")
    (window,) = spoilt("maintenance", "list", "--json").json
    assert (window["rule"], window["reason"]) == ("read-model", "restoring")
    held = spoilt("reconcile", "read-model", "--approve", drift["id"])
    assert held.code == 1
    assert "restoring" in held.out
    assert spoilt("maintenance", "stop").out == "drift is corrected again by read-model\n"
    assert "no maintenance window" in spoilt("maintenance", "list").err
    assert spoilt("reconcile", "read-model").code == 0
    assert spoilt("db", "check").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("start", "--for", "soon", "--reason", "r"), "--for is 'soon', which is not a duration"),
        (("start", "--for", "90d", "--reason", "r"), "use 1s to 30d"),
        (("start", "--for", "1h", "--reason", " "), "needs a reason"),
        (("start", "nosuch", "--for", "1h", "--reason", "r"), "no drift rule 'nosuch'"),
        (("stop",), "no maintenance window is open"),
        (("stop", "streams"), "no maintenance window is open for rule 'streams' alone"),
    ],
)
def test_a_mistake_is_one_line(spoilt: Amends, arguments: tuple[str, ...], said: str) -> None:
    """Each mistake is reported in one line, with exit status 2."""
    answer = spoilt("maintenance", *arguments)
    assert answer.code == 2
    assert said in one_line(answer)
