"""The test kit for users: given / when / then."""

from datetime import timedelta

import pytest
from runs.driving import SAGA, Goods, Order, charge, hold, notify, thank

from amends import Attempted, Call, Done, Rejected, Retry, Saga, UnitOfWork, effect, pivot, transaction
from amends.testing import LostReply, Scenario


@effect(retry=Retry(max_attempts=1))
async def ask(_: int, __: Call) -> str:
    """Ask a participant; the scenario answers."""
    return ""


@ask.compensation
async def unask(_: Attempted[int, str], __: Call) -> None:
    """Undo it; the scenario answers."""


@ask.probe
async def find(_: int, __: Call) -> str | None:
    """Find out; the scenario answers."""
    return None


@transaction
def announce(order: Order, uow: UnitOfWork) -> None:
    """Send a message."""
    uow.send("orders", key=order.order_id, value={"state": "announced"})


@announce.compensation
def withdraw(done: Done[Order, None], uow: UnitOfWork) -> None:
    """Send another message."""
    uow.send("orders", key=done.input.order_id, value={"state": "withdrawn"})


@transaction
def announce_and_refuse(order: Order, uow: UnitOfWork) -> None:
    """Send a message, and fail."""
    uow.send("orders", key=order.order_id, value={"state": "never sent"})
    raise Rejected("no")


@pytest.fixture
def scenario() -> Scenario[Order]:
    """Return a scenario in which every effect succeeds."""
    made = Scenario(SAGA)
    return made.answers(charge, "paid").answers(notify, "told").answers(thank, "thanked")


def test_a_run_that_completes(scenario: Scenario[Order]) -> None:
    """Transactions really run, and effects give the scenario's answers, with the run's key."""
    with scenario:
        then = scenario.when(Order(order_id="a")).completed()
        assert then.result_of(charge) == "paid"
        assert then.aggregate(Goods, "goods").sold == 1
        assert [call.key for call in then.calls(charge)] == ["run-1/charge/do/0"]
        assert then.elapsed == timedelta(0)


def test_a_refusal_is_compensated() -> None:
    """The kit sees the undone nodes and their order."""
    with Scenario(SAGA) as fresh:
        then = fresh.answers(charge, "paid").answers(notify, Rejected("no")).when(Order(order_id="a"))
        then.compensated("charge", "hold")
        assert then.aggregate(Goods, "goods").held == 0
        assert len(then.compensation_calls(charge)) == 1


def test_a_lost_reply_is_repeated_with_the_same_key() -> None:
    """Attempts share the key, and waiting between them takes only virtual time."""
    with Scenario(SAGA) as fresh:
        fresh.answers(charge, LostReply(), "paid").answers(notify, "told").answers(thank, "thanked")
        then = fresh.when(Order(order_id="a")).completed()
        assert len({call.key for call in then.calls(charge)}) == 1
        assert then.elapsed == timedelta(milliseconds=10)


def test_an_effect_without_an_answer_fails_the_test() -> None:
    """No unit test calls a participant by accident."""
    with (
        Scenario(SAGA) as scenario,
        pytest.raises(AssertionError, match=r"has no answer in the scenario; add scenario\.answers"),
    ):
        scenario.when(Order(order_id="a"))


def test_given_aggregates_are_there(scenario: Scenario[Order]) -> None:
    """The steps find the given aggregates."""
    goods = Goods("goods")
    goods.hold()
    with scenario:
        assert scenario.given(goods).when(Order(order_id="a")).aggregate(Goods, "goods").held == 1


def test_a_wrong_expectation_shows_the_run(scenario: Scenario[Order]) -> None:
    """An assertion that fails names the expected value and lists every fact."""
    with scenario:
        then = scenario.when(Order(order_id="a"))
        with pytest.raises(
            AssertionError, match=r"(?s)expected the run to be COMPENSATED, it is COMPLETED.*1 SagaStarted"
        ):
            then.compensated()
        with pytest.raises(AssertionError, match=r"(?s)expected the facts SagaStarted.*SagaCompleted"):
            then.facts("SagaStarted")
        with pytest.raises(AssertionError, match=r"there is no Goods 'other'"):
            then.aggregate(Goods, "other")


def test_needs_attention_names_what_is_open() -> None:
    """The kit compares exactly the open nodes."""
    with Scenario(SAGA) as scenario:
        scenario.answers(charge, "paid").answers(notify, Rejected("no")).compensation_answers(charge, LostReply())
        then = scenario.when(Order(order_id="a")).needs_attention("charge")
        with pytest.raises(AssertionError, match=r"expected open steps: hold; open steps: charge"):
            then.needs_attention("hold")
        assert then.result_of(hold) is not None


def test_answers_that_are_given_again_replace_the_former_ones(scenario: Scenario[Order]) -> None:
    """The last script counts: for the step, for its probe and for its compensation."""
    with scenario:
        scenario.answers(charge, "first", "second").answers(charge, "third")
        assert scenario.when(Order(order_id="a")).completed().result_of(charge) == "third"
        scenario.answers(charge, "paid").answers(notify, Rejected("no"))
        scenario.compensation_answers(charge, LostReply()).compensation_answers(charge, None)
        assert len(scenario.when(Order(order_id="c")).compensated().compensation_calls(charge)) == 1
    with Scenario(Saga("asking", int, ask)) as asking:
        asking.answers(ask, LostReply()).probe_answers(ask, "found", "never").probe_answers(ask, "seen")
        assert asking.when(1).completed().result_of(ask) == "seen"


def test_answers_can_be_taken_back(scenario: Scenario[Order]) -> None:
    """Without any answer a call of the effect fails the test again."""
    with scenario, pytest.raises(AssertionError, match="has no answer in the scenario"):
        scenario.answers(charge).when(Order(order_id="a"))


def test_a_result_shows_no_user_data() -> None:
    """The text of a result is one short line without input and results, also when an error is long."""
    with Scenario(SAGA) as scenario:
        scenario.answers(charge, Rejected("no " * 100)).answers(notify, "told")
        result = scenario.when(Order(order_id="canary")).compensated().result
        assert repr(result).startswith("<RunResult run-1 of ")
        assert "COMPENSATED" in repr(result)
        assert "canary" not in repr(result)
        assert len(repr(result)) < 160


def test_a_run_that_completes_has_no_error(scenario: Scenario[Order]) -> None:
    """Errors on the way to success are in the history, and are not the error of the run."""
    with scenario:
        then = scenario.answers(charge, LostReply(), "paid").when(Order(order_id="a")).completed()
        assert "StepAttemptFailed" in {fact.kind for fact in then.history}
        assert then.result.error is None


def test_a_run_that_was_undone_says_why_and_what_came_after(scenario: Scenario[Order]) -> None:
    """The reason of the turn and an undo's error are both shown; neither replaces the other."""
    with scenario:
        scenario.answers(notify, Rejected("no seats")).compensation_answers(charge, OSError("line is busy"), None)
        error = scenario.when(Order(order_id="a")).compensated().result.error
        assert error == "notify: no seats; then charge: OSError: line is busy"


def test_a_run_that_was_undone_at_once_says_why(scenario: Scenario[Order]) -> None:
    """Without a later error the reason stands alone."""
    with scenario:
        scenario.answers(notify, Rejected("no seats"))
        assert scenario.when(Order(order_id="a")).compensated().result.error == "notify: no seats"


def test_a_run_sends_the_messages_of_its_steps_that_took_effect() -> None:
    """A step that fails sends nothing, its compensation sends, and the run is the cause of each message."""
    with Scenario(Saga("announcing", Order, announce, pivot(announce_and_refuse))) as fresh:
        then = fresh.when(Order(order_id="a")).compensated("announce")
        assert [each.value for each in then.sent("orders")] == [b'{"state":"announced"}', b'{"state":"withdrawn"}']
        assert {(each.key, each.cause) for each in then.sent("orders")} == {("a", then.result.run_id)}
        assert then.sent("others") == ()
