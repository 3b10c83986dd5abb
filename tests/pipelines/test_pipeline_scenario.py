"""The test kit of pipelines runs the real intake: duplicates, crashes and bad messages behave as in production."""

import pytest
from journal_parts import Counter
from pipeline_parts import Counted, counting, starting

from amends.aggregates.intake import HeldKind
from amends.aggregates.journal import StepWork
from amends.testing import PipelineScenario


def count(counted: Counted, uow: StepWork) -> None:
    """Count the messages of a key, and send their number."""
    counter = uow.find(Counter, counted.sku) or uow.add(Counter(id=counted.sku))
    counter.add_one()
    uow.send("counted", key=counted.sku, value={"count": counter.count})
    if counted.quantity < 0:
        raise LookupError(counted.id)


def test_a_message_takes_effect_once() -> None:
    """Neither a repetition nor the end of the process doubles or loses the change and what it sends."""
    with PipelineScenario(counting(count)) as scenario:
        message = Counted(id="a", sku="x")
        scenario.message(message).redelivered().message(Counted(id="b", sku="x")).crashed_before_commit(2).taken()
        counter = scenario.load(Counter, "x")
        assert counter is not None
        assert counter.count == 2
        assert [each.value for each in scenario.sent] == [b'{"count":1}', b'{"count":2}']
        assert (scenario.counts.applied, scenario.counts.repeated) == (2, 1)


def test_a_bad_message_is_held() -> None:
    """A failed message leaves no change, and the test sees why it is held."""
    with PipelineScenario(counting(count)) as scenario:
        scenario.given(Counter(id="x")).message({"id": "a", "sku": "x", "quantity": -1}).message(b"{").taken()
        assert [each.kind for each in scenario.held] == [HeldKind.FAILED, HeldKind.UNDECODABLE]
        counter = scenario.load(Counter, "x")
        assert counter is not None
        assert (counter.count, scenario.sent) == (0, [])


def test_a_message_starts_a_run() -> None:
    """The run has the message's id."""
    with PipelineScenario(starting()) as scenario:
        scenario.message(Counted(id="a", sku="x")).redelivered().crashed_before_commit().taken()
        assert scenario.started == ["a"]


def test_a_pause_fails_the_test() -> None:
    """A handler that fails for every key pauses the pipeline, and the test learns the fault."""
    with PipelineScenario(counting(count)) as scenario:
        for number in range(6):
            scenario.message(Counted(id=str(number), sku=str(number), quantity=-1))
        with pytest.raises(AssertionError, match="LookupError"):
            scenario.taken()
