"""The rules of ownership: when an owner stops, and how soon the next slice begins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amends.pipelines.runtime.partition_work import OwnedKind
from amends.pipelines.temporal.ownership import (
    SliceReason,
    Withdrawal,
    pause_before_next,
    reason_to_stop,
    workflow_id,
)

NAMES = st.builds(str.__mul__, st.text(st.characters(), min_size=1, max_size=12), st.sampled_from([1, 1, 2, 200]))
WITHDRAWALS = st.sampled_from([None, *Withdrawal])


@given(WITHDRAWALS, st.booleans(), st.booleans())
def test_a_worker_that_shuts_down_ends_every_slice(withdrawal: Withdrawal | None, away: bool, over: bool) -> None:  # noqa: FBT001 - generated
    """A shutdown ends the slice, whatever Temporal does."""
    assert reason_to_stop(withdrawal, shuts_down=True, temporal_was_away=away, over=over) is SliceReason.HANDED_OVER


@pytest.mark.parametrize("away", [False, True])
def test_an_order_is_obeyed_at_once(away: bool) -> None:  # noqa: FBT001 - a table's column
    """A cancellation on request ends the slice even if Temporal was away a moment ago."""
    reason = reason_to_stop(Withdrawal.ORDERED, shuts_down=False, temporal_was_away=away, over=False)
    assert reason is SliceReason.CANCELLED


def test_an_owner_that_temporal_gave_up_goes_on_while_nobody_could_replace_it() -> None:
    """An owner obeys the withdrawal only when Temporal has answered for a while, and could start another one."""
    gone = {
        away: reason_to_stop(Withdrawal.GIVEN_UP, shuts_down=False, temporal_was_away=away, over=True)
        for away in (True, False)
    }
    assert gone == {True: None, False: SliceReason.SUPERSEDED}


@given(st.booleans())
def test_an_owner_goes_on_until_its_slice_is_over(away: bool) -> None:  # noqa: FBT001 - generated
    """An owner that nobody disturbs ends with its slice, and not before."""
    reasons = [reason_to_stop(None, shuts_down=False, temporal_was_away=away, over=over) for over in (False, True)]
    assert reasons == [None, SliceReason.OVER]


def test_two_fenced_slices_in_a_row_slow_the_partition_down() -> None:
    """One fenced slice is a takeover and costs no time; a second one means that somebody else keeps claiming."""
    fenced, over = SliceReason.FENCED, SliceReason.OVER
    pauses = [pause_before_next(each) for each in ((over, over), (over, fenced), (fenced, over), (fenced, fenced))]
    assert [pause > 0 for pause in pauses] == [False, False, False, True]


@given(NAMES, NAMES)
def test_workflow_ids_are_printable_and_distinct(one: str, other: str) -> None:
    """Any two partitions have different ids, which Temporal accepts and a terminal can show."""
    first, second = (workflow_id(OwnedKind.PIPELINE, "orders", each) for each in (one, other))
    assert (first == second) == (one == other)
    assert first.isprintable()
    assert first.isascii()
    assert len(first) < 1_000


def test_the_id_of_a_plain_partition_reads_like_its_name() -> None:
    """Ids name the work and the partition."""
    assert workflow_id(OwnedKind.PIPELINE, "orders", "3") == "amends/pipeline/orders/3"
    assert workflow_id(OwnedKind.RELAY, "stock", "in/a.jsonl") == "amends/relay/stock/in/a.jsonl"
