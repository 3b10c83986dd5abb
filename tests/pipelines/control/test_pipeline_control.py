"""Test the facts about a pipeline: decisions, their fold, and the modes of keys."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pydantic import JsonValue

from amends.aggregates.errors import InputError, NotFoundError, RefusedError
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.events.snapshot import Snapshot, restore_snapshot, take_snapshot
from amends.aggregates.intake import Position, Token
from amends.pipelines.control.decide import (
    accept_losses,
    change_mode,
    changes_of,
    declare,
    lose,
    moved,
    pause,
    pause_automatically,
    replace_source,
    restore_source,
    resume,
    seek,
)
from amends.pipelines.control.facts import PIPELINE_FACTS, MessageSkipped, MessagesReleased, PipelineFact
from amends.pipelines.control.state import PipelineControl, PipelineState, percentile_of
from amends.pipelines.intake.modes import Mode

HANDLES: dict[str, JsonValue] = {"work": {"kind": "handles", "function": "shop:recount"}, "version": 1}
STARTS: dict[str, JsonValue] = {"work": {"kind": "starts", "saga": "place-order"}, "version": 1}
AT_7 = Position(first=0, next=7, cursor="byte 99", incarnation="topic-1", epoch=0, token=Token(3, 1))


class Past:
    """The stream of a pipeline as it grows."""

    def __init__(self, declaration: dict[str, JsonValue] = HANDLES, **fields: Any) -> None:  # noqa: ANN401 - fields
        self.stream = PipelineControl(id="orders", state=PipelineState())
        self.record(declare(self.now(), "orders", declaration, 1, actor="worker", **fields))

    def now(self) -> PipelineState:
        """Return the current state."""
        return self.stream.state

    def record(self, *facts: PipelineFact | None) -> None:
        """Record facts."""
        for fact in facts:
            if fact is not None:
                self.stream.record(fact)

    def pause(self, reason: str = "deploy") -> None:
        """Pause by a person's decision."""
        self.record(pause(self.now(), "orders", 2, actor="ann", reason=reason))

    def change(self, mode: Mode, share: int = 100, positions: dict[str, int] | None = None) -> None:
        """Change the mode by a person's decision."""
        fact = change_mode(
            self.now(), "orders", mode, 3, actor="ann", reason="why not", share=share, positions=positions or {}
        )
        self.record(fact)

    def seek(self, to: int, position: Position | None = AT_7, **fields: Any) -> Position:  # noqa: ANN401 - fields
        """Move the position of partition 0."""
        given_ = {"actor": "ann", "reason": "again", **fields}
        fact = seek(self.now(), "orders", "0", position, 4, to=to, **given_)
        self.record(fact)
        assert position is not None
        return moved(position, fact)


# ---- declaration


def test_a_pipeline_is_declared_once() -> None:
    """The first declaration counts, and an equal second one records nothing."""
    past = Past()
    assert past.now().declared is not None
    assert declare(past.now(), "orders", dict(reversed(HANDLES.items())), 2, actor="worker") is None


def test_an_undeclared_change_is_refused_until_somebody_accepts_it() -> None:
    """A worker with another definition does not run, and the message names the differences."""
    past = Past()
    changed = {**HANDLES, "version": 2}
    with pytest.raises(RefusedError, match=r"differs from the declared one \(version: declared 1, now 2\)"):
        declare(past.now(), "orders", changed, 2, actor="worker")
    past.record(declare(past.now(), "orders", changed, 2, actor="ann", accept=True, mode=Mode.OBSERVED))
    assert changes_of(past.now(), changed) == []
    assert past.now().mode is Mode.EXACTLY_ONCE, "a later declaration does not change the mode"


def test_a_pipeline_that_starts_runs_has_one_mode() -> None:
    """For such a pipeline another mode is an error, at its declaration and later."""
    with pytest.raises(InputError, match="the id of a run makes that exactly-once"):
        Past(STARTS, mode=Mode.OBSERVED)
    with pytest.raises(InputError, match="the id of a run makes that exactly-once"):
        Past(STARTS).change(Mode.OBSERVED)


def test_nothing_can_be_decided_about_a_pipeline_that_has_never_run() -> None:
    """Decisions of operators need a declared pipeline, and say how to run it."""
    state = PipelineState()
    common: dict[str, Any] = {"actor": "ann", "reason": "why not"}
    with pytest.raises(NotFoundError, match="amends pipeline run orders"):
        pause(state, "orders", 1, **common)
    with pytest.raises(NotFoundError, match="never run"):
        resume(state, "orders", 1, actor="ann")
    with pytest.raises(NotFoundError, match="never run"):
        seek(state, "orders", "0", AT_7, 1, to=0, **common)
    with pytest.raises(NotFoundError, match="never run"):
        change_mode(state, "orders", Mode.OBSERVED, 1, positions={}, **common)


# ---- pause and resume


def test_a_persons_pause_replaces_an_automatic_one_but_not_another_persons() -> None:
    """An operator may take over an automatic pause; the pipeline leaves any pause as it is."""
    past = Past()
    past.record(pause_automatically(past.now(), 1, actor="worker", reason="five keys failed alike"))
    assert past.now().attention == ("paused automatically: five keys failed alike",)
    past.pause()
    assert past.now().attention == ()
    assert pause_automatically(past.now(), 2, actor="worker", reason="again") is None
    with pytest.raises(RefusedError, match="is paused already, by ann: deploy"):
        past.pause()


def test_only_a_paused_pipeline_is_resumed() -> None:
    """A second resume is refused, because nothing is paused any more."""
    past = Past()
    past.pause()
    past.record(resume(past.now(), "orders", 3, actor="bob"))
    assert past.now().paused is None
    with pytest.raises(RefusedError, match="is not paused"):
        resume(past.now(), "orders", 4, actor="bob")


@pytest.mark.parametrize("reason", ["", "  "])
def test_decisions_need_a_reason(reason: str) -> None:
    """A decision without a reason is refused, because the journal is to explain it."""
    past = Past()
    with pytest.raises(InputError, match="a pause needs a reason"):
        past.pause(reason)
    past.pause()
    with pytest.raises(InputError, match="a seek needs a reason"):
        past.seek(0, reason=reason)


# ---- modes


@given(st.text(max_size=20), st.integers(0, 100), st.integers(0, 100))
def test_a_greater_share_keeps_the_keys_of_a_smaller_one(key: str, small: int, large: int) -> None:
    """Keys change sides in one direction only while somebody raises the share."""
    small, large = sorted((small, large))
    states = [PipelineState(mode=Mode.OBSERVED, share=share, former=Mode.EXACTLY_ONCE) for share in (small, large)]
    before, after = (state.mode_of(key) for state in states)
    assert (before is Mode.OBSERVED) <= (after is Mode.OBSERVED)
    assert after is (Mode.OBSERVED if percentile_of(key) < large else Mode.EXACTLY_ONCE)


def test_keys_are_spread_evenly() -> None:
    """A share of a tenth has about a tenth of the keys."""
    tenth = sum(percentile_of(f"customer-{number}") < 10 for number in range(10_000))
    assert 800 < tenth < 1_200


def test_a_mode_holds_from_recorded_positions() -> None:
    """The state knows for each partition the position from which its mode holds."""
    past = Past()
    assert past.now().mode_since("0") is None
    past.change(Mode.OBSERVED, positions={"0": 17})
    assert (past.now().mode_since("0"), past.now().mode_since("new")) == (17, 0)


def test_a_share_can_be_raised_and_taken_back() -> None:
    """A partial mode grows, becomes the mode of all keys, or gives way to the former mode."""
    past = Past()
    past.change(Mode.OBSERVED, 10)
    assert past.now().modes == {Mode.OBSERVED, Mode.EXACTLY_ONCE}
    past.change(Mode.OBSERVED, 50)
    assert (past.now().mode, past.now().share, past.now().former) == (Mode.OBSERVED, 50, Mode.EXACTLY_ONCE)
    with pytest.raises(RefusedError, match="50 % of the keys of pipeline 'orders' have mode observed"):
        past.change(Mode.AT_LEAST_ONCE, 10)
    past.change(Mode.OBSERVED, 0)
    assert past.now().uniform_mode is Mode.EXACTLY_ONCE
    past.change(Mode.AT_LEAST_ONCE)
    assert past.now().uniform_mode is Mode.AT_LEAST_ONCE
    with pytest.raises(RefusedError, match="has that mode already"):
        past.change(Mode.AT_LEAST_ONCE)
    with pytest.raises(InputError, match="the share is 101"):
        past.change(Mode.OBSERVED, 101)


def test_no_pipeline_enters_shadow_later() -> None:
    """A pipeline may begin in the shadow and leave it key by key; none goes there, since its messages would be lost."""
    past = Past(mode=Mode.SHADOW)
    past.change(Mode.EXACTLY_ONCE, 10)
    assert past.now().modes == {Mode.EXACTLY_ONCE, Mode.SHADOW}
    past.change(Mode.EXACTLY_ONCE)
    with pytest.raises(RefusedError, match="define a second pipeline"):
        past.change(Mode.SHADOW)


def test_modes_differ_in_their_treatment_of_duplicates() -> None:
    """Each mode has the properties that its name promises."""
    assert {mode for mode in Mode if mode.refuses_duplicates} == {Mode.EXACTLY_ONCE}
    assert {mode for mode in Mode if not mode.remembers_ids} == {Mode.AT_LEAST_ONCE}


class Modes(RuleBasedStateMachine):
    """Changes of mode against a model: the mode of each of 100 keys, one for each percentile."""

    def __init__(self) -> None:
        super().__init__()
        self.past = Past()
        keys = {percentile_of(f"k{number}"): f"k{number}" for number in range(2_000)}
        self.keys = [keys[place] for place in range(100)]
        self.model = [Mode.EXACTLY_ONCE] * 100

    @rule(mode=st.sampled_from(Mode), share=st.integers(0, 100))
    def change(self, mode: Mode, share: int) -> None:
        """Change the mode of the first keys; those that leave the share return to the mode of the others."""
        others = self.past.now().former if mode is self.past.now().mode else self.model[-1]
        try:
            self.past.change(mode, share)
        except RefusedError:
            return
        if len(set(self.model)) == 1:
            others = self.model[0]
        self.model = [mode if place < share else others for place in range(100)]

    @invariant()
    def keys_have_the_modes_of_the_model(self) -> None:
        """Every key has the mode of the model, and there are at most two."""
        assert [self.past.now().mode_of(key) for key in self.keys] == self.model
        assert set(self.model) == self.past.now().modes


test_modes_follow_a_model = Modes.TestCase


# ---- positions


def test_a_seek_begins_a_new_epoch() -> None:
    """After a seek the position, its first message and its epoch are new, and the token stays with the owner."""
    past = Past()
    past.pause()
    after = past.seek(2)
    assert after == Position(first=2, next=2, cursor="", incarnation="topic-1", epoch=1, token=Token(3, 1))


@pytest.mark.parametrize(
    ("to", "position", "error", "message"),
    [
        (0, None, NotFoundError, "has not read partition '0'"),
        (-1, AT_7, InputError, "the position is -1"),
        (7, AT_7, RefusedError, "is at position 7 already"),
    ],
)
def test_a_seek_that_is_wrong_is_refused(
    to: int, position: Position | None, error: type[Exception], message: str
) -> None:
    """A seek needs a partition that was read, and another position from 0."""
    past = Past()
    past.pause()
    with pytest.raises(error, match=message):
        past.seek(to, position)


def test_a_running_pipeline_is_paused_before_a_seek() -> None:
    """A seek of a running pipeline is refused with the command that pauses it."""
    with pytest.raises(RefusedError, match="pause it first: amends pipeline pause orders"):
        Past().seek(0)


def test_a_seek_accepts_a_replaced_source() -> None:
    """A partition whose source was replaced reads the new one from the chosen position, without a pause."""
    past = Past()
    past.record(replace_source(past.now(), "0", 5, actor="worker", expected="topic-1", found="topic-2"))
    assert replace_source(past.now(), "0", 6, actor="worker", expected="topic-1", found="topic-2") is None
    assert past.now().attention == ("partition 0 stopped: its source is another one than the pipeline has read",)
    after = past.seek(0)
    assert (after.next, after.epoch, after.incarnation) == (0, 1, "topic-2")
    assert past.now().attention == ()


def test_a_restored_source_needs_no_decision() -> None:
    """When the former topic is there again, the partition goes on from its position."""
    past = Past()
    assert restore_source(past.now(), "0", 5, actor="worker") is None
    past.record(replace_source(past.now(), "0", 5, actor="worker", expected="topic-1", found="topic-2"))
    past.record(restore_source(past.now(), "0", 6, actor="worker"))
    assert past.now().replaced == {}


# ---- lost, skipped and released messages


def test_lost_messages_need_attention_until_somebody_accepts_the_loss() -> None:
    """Losses of a partition add up; the number of all losses stays after they are accepted."""
    past = Past()
    past.record(lose("0", 5, actor="worker", first=10, last=14), lose("0", 6, actor="worker", first=20, last=20))
    assert past.now().attention == ("partition 0: the source lost 6 messages, positions 10 to 20",)
    past.record(accept_losses(past.now(), "orders", "0", 7, actor="ann", reason="sent again"))
    assert (past.now().attention, past.now().lost) == ((), 6)
    with pytest.raises(NotFoundError, match="has no lost messages"):
        accept_losses(past.now(), "orders", "0", 8, actor="ann", reason="sent again")


def test_skipped_and_released_messages_are_counted() -> None:
    """The state knows how many held messages persons skipped and had applied."""
    past = Past()
    common: dict[str, Any] = {"as_of_ms": 5, "actor": "ann", "reason": "fixed", "key": "bob"}
    past.record(MessageSkipped(partition="0", position=3, message_id="m3", **common))
    past.record(MessagesReleased(applied=4, held=0, **common))
    assert (past.now().skipped, past.now().released) == (1, 4)


# ---- the stream


def test_every_fact_is_stored_and_folded_alike() -> None:
    """A stream that is read back, or restored from a snapshot, has the state of the one that was written."""
    past = Past(mode=Mode.SHADOW)
    past.change(Mode.EXACTLY_ONCE, 10, {"0": 3})
    past.pause()
    past.seek(2)
    past.record(resume(past.now(), "orders", 5, actor="ann"))
    past.record(replace_source(past.now(), "1", 5, actor="worker", expected="a", found="b"))
    past.record(restore_source(past.now(), "1", 6, actor="worker"))
    past.record(lose("0", 5, actor="worker", first=10, last=14))
    past.record(accept_losses(past.now(), "orders", "0", 7, actor="ann", reason="sent again"))
    past.record(MessageSkipped(as_of_ms=5, actor="ann", reason="x", key="", partition="0", position=3, message_id=""))
    past.record(MessagesReleased(as_of_ms=5, actor="ann", reason="x", key="k", applied=4, held=1))
    codec = EventCodec([PipelineControl])
    events = list(past.stream.collect_events())
    stored = [codec.to_stored(each) for each in events]
    assert {each.topic for each in stored} == {
        "pipeline.PipelineOpened",
        *(f"pipeline.{name}" for name in PIPELINE_FACTS),
    }
    copy: PipelineControl | None = None
    for each in stored:
        copy = codec.to_domain(each).mutate(copy)
    assert copy is not None
    assert copy.state == past.now()
    snapshot = take_snapshot(past.stream)
    assert isinstance(snapshot, Snapshot)
    restored = restore_snapshot(PipelineControl, snapshot)
    assert restored is not None
    assert restored.state == past.now()
