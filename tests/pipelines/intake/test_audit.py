"""The audit of a pipeline: a right account has no finding, and every kind of damage has one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amends.aggregates.intake import BatchRow, Counts, Position, Token
from amends.pipelines.intake.audit import AccountAudit, PartitionAudit, compare_ids

TOKEN = Token(1, 1)


def rows_of(batches: list[tuple[int, int, int]]) -> list[BatchRow]:
    """Create the rows of batches with numbers of applied messages, of set aside ones, and of holes."""
    rows, first = [], 0
    for number, (applied, aside, holes) in enumerate(batches, 1):
        following = first + applied + aside + holes
        counts = Counts(applied=applied, set_aside=aside)
        rows.append(
            BatchRow(number=number, token=TOKEN, epoch=0, first=first, next=following, holes=holes, counts=counts)
        )
        first = following
    return rows


def position_after(rows: list[BatchRow]) -> Position:
    """Create the position that belongs to the rows."""
    last = rows[-1]
    return Position(
        first=0, next=last.next, cursor="", incarnation="", epoch=last.epoch, token=TOKEN, batch=last.number
    )


def audit(rows: list[BatchRow], *, held: int, position: Position | None = None) -> PartitionAudit:
    """Audit all rows of a partition."""
    account = AccountAudit("0")
    account.feed(rows)
    return account.end(position or position_after(rows), set_aside=held, deferred=0)


BATCHES = st.lists(st.tuples(*[st.integers(0, 50)] * 3), min_size=1, max_size=8)


@given(BATCHES)
def test_a_right_account_has_no_finding(batches: list[tuple[int, int, int]]) -> None:
    """The sums are those of the batches, whatever they contain."""
    applied, aside, _ = (sum(each) for each in zip(*batches, strict=True))
    result = audit(rows_of(batches), held=aside)
    assert result.findings == ()
    assert (result.arrived, result.counts.applied) == (applied + aside, applied)


ROWS = rows_of([(10, 2, 0), (5, 0, 3), (7, 1, 0)])


@pytest.mark.parametrize(
    ("rows", "finding"),
    [
        ([ROWS[0], ROWS[2]], "expected number 2"),
        ([ROWS[0], replace(ROWS[1], first=13), ROWS[2]], "begins at position 13"),
        ([ROWS[0], replace(ROWS[1], holes=2), ROWS[2]], "counts add up to 5"),
        ([ROWS[0], replace(ROWS[1], counts=Counts(applied=-1, repeated=6)), ROWS[2]], "a count is negative"),
        (ROWS[:2], "but the position"),
        ([ROWS[0], replace(ROWS[1], epoch=1), ROWS[2]], "its epoch is 0, after 1"),
    ],
    ids=["missing", "gap", "counts", "negative", "position", "epoch"],
)
def test_damage_has_a_finding(rows: list[BatchRow], finding: str) -> None:
    """A lost row, a gap, wrong counts and a wrong position are each named in one line."""
    result = audit(rows, held=3, position=position_after(ROWS))
    assert any(finding in each for each in result.findings), result.findings


def test_held_messages_must_be_those_of_the_account() -> None:
    """A held message that nobody accounts for, or that has vanished, is found."""
    assert audit(ROWS, held=3).findings == ()
    assert "3 messages are set_aside by the account, but 2 are held" in audit(ROWS, held=2).findings[0]


def test_a_release_moves_a_message_from_one_count_to_another() -> None:
    """A commit without a range keeps the balance: nothing arrives, and the held message becomes an applied one."""
    counts = Counts(applied=1, set_aside=-1)
    release = BatchRow(number=4, token=TOKEN, epoch=0, first=28, next=28, holes=0, counts=counts)
    result = audit([*ROWS, release], held=2)
    assert result.findings == ()
    assert (result.counts.applied, result.counts.set_aside) == (23, 2)


def test_exactly_once_since_the_last_other_mode() -> None:
    """The position is that of the first commit after which no other mode was in force."""
    observed = replace(ROWS[1], mode="observed")
    assert audit(ROWS, held=3).exactly_once_since == 0
    assert audit([ROWS[0], observed, ROWS[2]], held=3).exactly_once_since == 20
    assert audit([ROWS[0], ROWS[1], replace(ROWS[2], mode="observed")], held=3).exactly_once_since is None


@given(st.lists(st.sampled_from("abcd")), st.lists(st.sampled_from("abcde")), st.sets(st.sampled_from("abcd")))
def test_a_comparison_names_every_missing_doubled_and_unknown_id(
    source: list[str], effects: list[str], excused: set[str]
) -> None:
    """Each id of the source has one effect or an excuse, or the comparison names it."""
    result = compare_ids(source, effects, excused=excused)
    assert set(result.missing) == set(source) - set(effects) - excused
    assert set(result.doubled) == {each for each in effects if effects.count(each) > 1}
    assert set(result.unknown) == set(effects) - set(source)
    assert result.exact == (not (result.missing or result.doubled or result.unknown))
    assert (result.messages, result.distinct) == (len(source), len(set(source)))
