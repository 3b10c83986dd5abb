"""What participants remember under each contract, and how they answer."""

import pytest

from amends.sagas.definition.participants import Contract
from amends.sagas.engine.outcome import Failed, NotFound, Outcome, Refused, Succeeded
from amends.sagas.prove.books import Page, receive, receive_probe, receive_undo

EVERY = list(Contract)
REMEMBERING = [Contract.REMEMBERS_UNDO, Contract.KEYED]


def _act(result: str = "paid") -> Outcome:
    return Succeeded(result)


def _done() -> Outcome:
    return Succeeded(None)


@pytest.mark.parametrize("contract", EVERY)
def test_a_first_call_acts_once_and_its_undo_reverses_it(contract: Contract) -> None:
    """Under every contract a call that comes once acts once, and its undo reverses it once."""
    page, answer = receive(Page(0, "pay"), contract, _act)
    page, undone = receive_undo(page, contract, "undo", _done)
    assert (answer.outcome, undone.outcome) == (Succeeded("paid"), Succeeded(None))
    assert (page.acted, page.undone) == (1, 1)


@pytest.mark.parametrize(("contract", "acted"), [*((each, 1) for each in REMEMBERING), (Contract.FORGETFUL, 2)])
def test_only_a_forgetful_participant_acts_again_on_the_same_key(contract: Contract, acted: int) -> None:
    """A repeated call gets the first answer, unless the participant ignores keys."""
    page, first = receive(Page(0, "pay"), contract, _act)
    page, second = receive(page, contract, lambda: Succeeded("again"))
    assert page.acted == acted
    assert (second == first) is (acted == 1)


@pytest.mark.parametrize(
    ("contract", "acted"), [(Contract.REMEMBERS_UNDO, 0), (Contract.KEYED, 1), (Contract.FORGETFUL, 1)]
)
def test_a_call_after_its_undo_acts_unless_the_undo_is_remembered(contract: Contract, acted: int) -> None:
    """Only a participant that remembers undos refuses a call whose undo came first."""
    page, _ = receive_undo(Page(0, "pay"), contract, "undo", _done)
    page, answer = receive(page, contract, _act)
    assert page.acted == acted
    assert isinstance(answer.outcome, Succeeded if acted else Refused)


@pytest.mark.parametrize("contract", REMEMBERING)
def test_a_repeated_undo_reverses_nothing_more(contract: Contract) -> None:
    """An undo under a known key gets its first answer, and a second key finds nothing to reverse."""
    page, _ = receive(Page(0, "pay"), contract, _act)
    for key in ("undo/0", "undo/0", "undo/1"):
        page, _ = receive_undo(page, contract, key, _done)
    assert (page.acted, page.undone) == (1, 1)


@pytest.mark.parametrize("contract", REMEMBERING)
def test_a_refusal_is_valid_for_its_key(contract: Contract) -> None:
    """A participant that has refused a key refuses it again, also if it would accept the call now."""
    page, _ = receive(Page(0, "pay"), contract, lambda: Refused("no funds"))
    page, answer = receive(page, contract, _act)
    assert answer.outcome == Refused("no funds")
    assert page.acted == 0


@pytest.mark.parametrize("contract", EVERY)
def test_a_call_that_fails_leaves_no_record(contract: Contract) -> None:
    """A function that raises has not acted, so the next call acts."""
    page, _ = receive(Page(0, "pay"), contract, lambda: Failed("ValueError", "no"))
    page, _ = receive(page, contract, _act)
    assert page.acted == 1


@pytest.mark.parametrize(("contract", "acted"), [(Contract.REMEMBERS_UNDO, 0), (Contract.KEYED, 1)])
def test_only_an_inbox_keeps_the_promise_of_a_probe_that_found_nothing(contract: Contract, acted: int) -> None:
    """A probe that finds nothing closes the key of a participant that remembers undos, and of no other."""
    page, answer = receive_probe(Page(0, "pay"), contract)
    page, _ = receive(page, contract, _act)
    assert answer.outcome == NotFound()
    assert page.acted == acted


def test_a_probe_finds_the_effect_with_its_result() -> None:
    """A probe answers as the call did."""
    page, _ = receive(Page(0, "pay"), Contract.KEYED, _act)
    assert receive_probe(page, Contract.KEYED)[1].outcome == Succeeded("paid")
