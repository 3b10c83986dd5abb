"""Unit tests of the transfer: every way that it can end, without a bank, a server or waiting.

Most tests show one end; the last one explores every way to fail with two faults.
"""

from datetime import timedelta
from decimal import Decimal

import pytest
from pydantic import ValidationError
from transfer import (
    Booking,
    NoAnswerError,
    Transfer,
    TransferMoney,
    confirm_hold,
    deposit_money,
    hold_money,
    transfer_money,
)

from amends import Rejected
from amends.testing import End, LostReply, Scenario, prove

ORDER = TransferMoney(transfer_id="t-1", payer="alice", payee="bob", amount=Decimal("30.00"))


def booked(step: str, entry: int) -> Booking:
    """The answer of the bank to a successful call."""
    return Booking(key=f"run-1/{step}/do/0", entry=entry)


@pytest.fixture
def scenario() -> Scenario[TransferMoney]:
    """A bank that accepts."""
    made = Scenario(transfer_money).answers(hold_money, booked("hold_money", 1))
    return made.answers(deposit_money, booked("deposit_money", 2)).answers(confirm_hold, booked("confirm_hold", 3))


def test_money_goes_from_payer_to_payee(scenario: Scenario[TransferMoney]) -> None:
    """Each effect is called once, in the order hold, deposit, confirm, and the intent stands."""
    with scenario:
        then = scenario.when(ORDER).completed()
        done = [getattr(fact, "node", "") for fact in then.history if fact.kind == "StepSucceeded"]
        assert done == ["note_transfer", "hold_money", "deposit_money", "confirm_hold"]
        assert not then.aggregate(Transfer, "t-1").called_off


def test_a_payer_without_funds_is_told_no() -> None:
    """A hold that the bank refuses leaves nothing to release; the intent is called off."""
    with Scenario(transfer_money) as scenario:
        then = scenario.answers(hold_money, Rejected("insufficient funds")).when(ORDER)
        then.compensated("note_transfer")
        assert then.compensation_calls(hold_money) == ()
        assert then.aggregate(Transfer, "t-1").called_off


def test_a_refused_deposit_frees_the_money() -> None:
    """The hold is voided by its own key, and nothing is taken from the payer."""
    with Scenario(transfer_money) as scenario:
        scenario.answers(hold_money, booked("hold_money", 1)).answers(deposit_money, Rejected("account is unknown"))
        then = scenario.when(ORDER).compensated("hold_money", "note_transfer")
        (void,) = then.compensation_calls(hold_money)
        assert void.do_key == then.calls(hold_money)[0].key != void.key
        assert then.calls(confirm_hold) == ()


def test_a_lost_reply_of_the_hold_is_asked_for_again() -> None:
    """The second attempt has the key of the first, so that the bank holds the money once."""
    with Scenario(transfer_money) as scenario:
        scenario.answers(hold_money, LostReply(), booked("hold_money", 1))
        scenario.answers(deposit_money, booked("deposit_money", 2)).answers(confirm_hold, booked("confirm_hold", 3))
        then = scenario.when(ORDER).completed()
        assert [call.key for call in then.calls(hold_money)] == ["run-1/hold_money/do/0"] * 2


def test_a_hold_that_the_probe_finds_is_used() -> None:
    """If every reply was lost, the bank's answer to the probe is as good as a reply."""
    with Scenario(transfer_money) as scenario:
        scenario.answers(hold_money, LostReply()).probe_answers(hold_money, booked("hold_money", 1))
        scenario.answers(deposit_money, booked("deposit_money", 2)).answers(confirm_hold, booked("confirm_hold", 3))
        assert scenario.when(ORDER).completed().result_of(hold_money) == booked("hold_money", 1)


def test_a_hold_that_nobody_knows_of_is_voided() -> None:
    """Silence is not a refusal: the hold may still arrive, so it is undone like a successful one."""
    with Scenario(transfer_money) as scenario:
        scenario.answers(hold_money, LostReply()).probe_answers(hold_money, NoAnswerError("nothing is known"))
        then = scenario.when(ORDER).compensated("hold_money", "note_transfer")
        assert "StepInDoubt" in [fact.kind for fact in then.history]


def test_a_silent_bank_cannot_turn_the_deposit_round() -> None:
    """However long the bank is away, the deposit is repeated under one key, and the hold stays."""
    with Scenario(transfer_money) as scenario:
        scenario.answers(hold_money, booked("hold_money", 1)).answers(confirm_hold, booked("confirm_hold", 3))
        scenario.answers(deposit_money, *[LostReply()] * 100, booked("deposit_money", 2))
        then = scenario.when(ORDER).completed()
        assert len({call.key for call in then.calls(deposit_money)}) == 1
        assert then.elapsed > timedelta(hours=1)


def test_a_hold_that_was_taken_away_needs_attention() -> None:
    """After the deposit nothing is undone; that the payer's money is gone from hold is for people to examine."""
    with Scenario(transfer_money) as scenario:
        scenario.answers(hold_money, booked("hold_money", 1)).answers(deposit_money, booked("deposit_money", 2))
        then = scenario.answers(confirm_hold, Rejected("the hold is released")).when(ORDER)
        then.needs_attention("confirm_hold")
        assert then.compensation_calls(hold_money) == ()


def test_a_transfer_is_noted_once(scenario: Scenario[TransferMoney]) -> None:
    """A second run of the same transfer is refused before it asks the bank for anything."""
    with scenario:
        calls = len(scenario.when(ORDER).completed().calls(hold_money))
        second = scenario.when(ORDER)
        second.compensated()
        assert second.result.error == "note_transfer: transfer t-1 was noted before, by run run-1"
        assert len(second.calls(hold_money)) == calls


@pytest.mark.parametrize(
    "wrong", [{"payee": "alice"}, {"amount": "0.00"}, {"amount": "-1.00"}, {"amount": "1.001"}, {"amount": "NaN"}]
)
def test_what_cannot_be_transferred_is_no_input(wrong: dict[str, str]) -> None:
    """Two accounts, and a positive amount in whole cents: anything else is refused before the start."""
    with pytest.raises(ValidationError):
        TransferMoney.model_validate({**ORDER.model_dump(), **wrong})


def deposit_is_backed(end: End) -> None:
    """Check that no money is at the payee which was not set aside at the payer."""
    assert end.standing(deposit_money) <= end.standing(hold_money)


@prove(
    transfer_money,
    ORDER,
    results={step: booked(step.name, 1) for step in (hold_money, deposit_money, confirm_hold)},
    always=deposit_is_backed,
    faults=2,
)
def test_no_failure_loses_money_or_makes_some(end: End) -> None:
    """After any two faults the money is at one place, and the intent says so."""
    if end.completed:
        assert [end.standing(step) for step in (hold_money, deposit_money, confirm_hold)] == [1, 1, 1]
        assert not end.aggregate(Transfer, "t-1").called_off
    if end.compensated:
        assert [end.standing(step) for step in (hold_money, deposit_money, confirm_hold)] == [0, 0, 0]
        noted = end.find(Transfer, "t-1")
        assert noted is None or noted.called_off
