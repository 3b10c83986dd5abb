"""The rule about the bank's log, with a real bank whose books are damaged: each damage is found and booked once."""

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import bank
import bank_rules
import pytest
from bank_rules import OpenItem, bank_log
from pydantic import JsonValue
from services.line_log import LineLogError
from services.process import ServiceProcess
from tamper import tamper
from transfer import Booking, TransferMoney, book, confirm_hold, deposit_money, hold_money, transfer_money

from amends import DriftKind, Rejected, ScanFailed
from amends.testing import RuleScenario, Scenario

Entry = dict[str, Any]
MOVED = {"taken": "30.00", "given": "30.00"}
ACCOUNTS = ("--open", "alice=500.00", "--open", "bob=20.00")


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceProcess]:
    """A bank."""
    with ServiceProcess("bank", tmp_path, *ACCOUNTS, project=Path(bank.__file__).parent) as started:
        monkeypatch.setenv("BANK_URL", started.base_url)
        yield started


@pytest.fixture
def scenario() -> Iterator[Scenario[TransferMoney]]:
    """Our side; the answers of its effects do not come from the bank."""
    with Scenario(transfer_money) as made:
        yield made


def order(transfer: str) -> TransferMoney:
    """Thirty from alice to bob."""
    return TransferMoney(transfer_id=transfer, payer="alice", payee="bob", amount=Decimal("30.00"))


async def at_the_bank(transfer: str, *operations: str) -> None:
    """Call the bank as a transfer does, under the same keys."""
    hold = f"{transfer}/hold_money/do/0"
    bodies = {
        "hold": (hold, {"account": "alice", "amount": "30.00"}),
        "deposit": (f"{transfer}/deposit_money/do/0", {"account": "bob", "amount": "30.00"}),
        "confirm": (f"{transfer}/confirm_hold/do/0", {"hold": hold}),
        "void": (f"{transfer}/hold_money/undo/0", {"key": hold}),
    }
    for operation in operations:
        key, body = bodies[operation]
        await book(operation, key, body)


async def test_each_damage_is_found_and_booked_once(
    service: ServiceProcess, scenario: Scenario[TransferMoney], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wrong before; then three things are, each waits for approval, is booked, and is not found again.

    There are also a transfer that was undone and one that is under way, which the rule does not touch; the log has
    more than one page.
    """
    monkeypatch.setattr(bank_rules, "PAGE", 6)
    with pytest.raises(AssertionError, match="'hold_money' has no answer"):
        scenario.when(order("t-0"), id="t-0")
    booked = Booking(key="a key", entry=1)
    scenario.answers(hold_money, booked).answers(confirm_hold, booked)
    scenario.answers(deposit_money, booked, booked, Rejected("account is unknown"))
    await at_the_bank("t-0", "hold")
    for transfer in ("t-1", "t-2"):
        await at_the_bank(transfer, "hold", "deposit", "confirm")
        scenario.when(order(transfer), id=transfer).completed()
    await at_the_bank("t-3", "hold", "void")
    scenario.when(order("t-3"), id="t-3").compensated("hold_money", "note_transfer")
    rule = RuleScenario(bank_log, scenario)
    assert rule.scan() == ()
    with pytest.raises(LineLogError, match="in use by another process"):
        tamper(service.data, forgotten=["t-1"])
    service.stop()
    tamper(service.data, amounts=[("t-1", "25.00")], forgotten=["t-2"], invented=[("bob", "9.00")])
    service.restart()
    found = {drift.subject: (drift.kind, drift.expected, drift.actual) for drift in rule.scan()}
    assert found == {
        "t-1": (DriftKind.DIFFERENT, MOVED, {"taken": "30.00", "given": "25.00"}),
        "t-2": (DriftKind.MISSING, MOVED, None),
        "wire-1": (DriftKind.UNEXPECTED, None, {"given": "9.00"}),
    }
    proposed = rule.reconcile()
    assert (proposed.corrected, set(proposed.held.values())) == ((), {"waits for approval"})
    corrected = rule.reconcile(approving=True).corrected
    assert [(each.subject, each.changed, each.problem) for each in corrected] == [
        (subject, (f"OpenItem/{subject}:1",), None) for subject in found
    ]
    assert not rule.scan()
    assert not rule.reconcile(approving=True).corrected
    assert item(scenario) == found["t-1"][1:]


def item(scenario: Scenario[TransferMoney]) -> tuple[JsonValue, JsonValue]:
    """Our view and the bank's view of transfer t-1, as they are booked."""
    booked = scenario.journal.load_blocking(OpenItem, "t-1")
    assert booked is not None
    return booked.ours, booked.bank


def opened(sequence: int = 1) -> Entry:
    """The entry of an account."""
    return {"sequence": sequence, "key": "open/alice", "effect": {"type": "opened", "amount": "100.00"}}


def carried_out() -> list[Entry]:
    """The entries of a bank that has carried out transfer t-1."""
    effects = [("hold_money", "held"), ("deposit_money", "deposited"), ("confirm_hold", "confirmed")]
    return [
        {"sequence": at, "key": f"t-1/{node}/do/0", "effect": {"type": type_, "amount": "30.00"}}
        for at, (node, type_) in enumerate(effects, 2)
    ]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """The log of a fake bank: the entries of the test, in pages of two."""
    entries: list[Entry] = []

    async def page(*, after: int) -> list[Entry]:
        return entries[after : after + 2]

    monkeypatch.setattr(bank_rules, "log_page", page)
    return entries


@pytest.fixture
def completed(scenario: Scenario[TransferMoney]) -> RuleScenario:
    """The rule, where transfer t-1 is completed."""
    booked = Booking(key="a key", entry=1)
    scenario.answers(hold_money, booked).answers(deposit_money, booked).answers(confirm_hold, booked)
    scenario.when(order("t-1"), id="t-1").completed()
    return RuleScenario(bank_log, scenario)


def test_what_the_bank_puts_right_settles_the_item(
    completed: RuleScenario, scenario: Scenario[TransferMoney], log: list[Entry]
) -> None:
    """A transfer that only we know is booked; if the bank has it after all, that is drift until it is booked, too."""
    log.append(opened())
    completed.reconcile()
    completed.reconcile(approving=True)
    assert completed.scan() == ()
    assert item(scenario) == (MOVED, None)
    log.extend(carried_out())
    (drift,) = completed.scan()
    assert (drift.kind, drift.expected, drift.actual) == (DriftKind.UNEXPECTED, None, MOVED)
    completed.reconcile()
    assert len(completed.reconcile(approving=True).corrected) == 1
    assert completed.scan() == ()
    assert item(scenario) == (MOVED, MOVED)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([], "the bank's log is empty, where at least our accounts were opened"),
        ([opened(1), opened(2), opened(4)], "entry 3 is missing in the bank's log"),
        ([{"error": "unavailable"}], r"KeyError: 'sequence' \(bank_rules\.py, line \d+\)"),
    ],
)
def test_an_answer_that_cannot_be_right_is_none(
    completed: RuleScenario, log: list[Entry], answer: list[Entry], reason: str
) -> None:
    """Nothing, a part, or something else than a log fails the scan: no transfer counts as missing."""
    log.extend(answer)
    with pytest.raises(ScanFailed) as raised:
        completed.reconcile()
    assert re.fullmatch(reason, raised.value.reason)


def test_a_bank_that_is_away_cannot_be_scanned(completed: RuleScenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bank that does not answer is no drift either."""
    monkeypatch.setenv("BANK_URL", "http://127.0.0.1:1")
    with pytest.raises(ScanFailed, match=r"no reply to /log.* of http://127\.0\.0\.1:1"):
        completed.scan()
