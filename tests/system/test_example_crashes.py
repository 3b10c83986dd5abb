"""The services of the examples survive a kill at any point."""

import asyncio
import json
import os
import re
import signal
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from bounds import HANG_S

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "orders"))
from runs import bank_service
from runs.bank_service import Json, bank_at, effects, get, post
from services.line_log import LineLog, LineLogError
from services.process import ServiceProcess, ServiceProcessError

only_bank, bank = bank_service.only_bank, bank_service.bank


def balances_by_log(data: Path) -> dict[str, Json]:
    """Compute the balances from the file on disk, by rules written independently of the bank's."""
    balance: dict[str, Decimal] = {}
    held: dict[str, Decimal] = {}
    for line in (data / "ledger.jsonl").read_text().splitlines():
        effect = json.loads(line).get("effect")
        if effect is None:
            continue
        account, amount = effect["account"], Decimal(effect["amount"])
        if effect["type"] in ("opened", "deposited", "released"):
            balance[account] = balance.get(account, Decimal(0)) + amount
        if effect["type"] in ("withdrawn", "held"):
            balance[account] -= amount
        if effect["type"] in ("held", "reopened"):
            held[account] = held.get(account, Decimal(0)) + amount
        if effect["type"] in ("released", "confirmed"):
            held[account] -= amount
    return {name: {"balance": f"{balance[name]:.2f}", "held": f"{held.get(name, 0):.2f}"} for name in balance}


def test_a_killed_bank_comes_back_with_the_balances_of_its_log(bank: ServiceProcess) -> None:
    """The bank's state is a fold of the fsynced ledger, so kill -9 loses nothing that was acknowledged."""
    url = bank.base_url
    post(bank, "open", "kill/open1", account="kill1", amount="100.00")
    post(bank, "open", "kill/open2", account="kill2", amount="0.00")
    post(bank, "hold", "kill/h", account="kill1", amount="30.00")
    post(bank, "withdraw", "kill/w", account="kill1", amount="12.5")
    bank.kill()
    bank.restart()
    assert bank.base_url == url
    assert get(bank, "accounts") == balances_by_log(bank.data)
    assert get(bank, "accounts")["kill1"] == {"balance": "57.50", "held": "30.00"}
    post(bank, "confirm", "kill/c", hold="kill/h")
    post(bank, "deposit", "kill/d", account="kill2", amount="30.00")
    bank.kill()
    bank.restart()
    accounts = get(bank, "accounts")
    assert accounts == balances_by_log(bank.data)
    assert accounts["kill1"] == {"balance": "57.50", "held": "0.00"}
    assert accounts["kill2"] == {"balance": "30.00", "held": "0.00"}


@pytest.mark.soak
async def test_calls_in_flight_at_a_kill_take_effect_once_when_they_are_repeated(bank: ServiceProcess) -> None:
    """Everything acknowledged before kill -9 is on disk, and repeated calls add only the missing effects."""
    acknowledged: list[str] = []

    async def deposit(client: httpx.AsyncClient, number: int) -> None:
        body = {"account": "flight", "amount": "1.00"}
        reply = await client.post("/deposit", json=body, headers={"Idempotency-Key": f"flight/{number}"})
        acknowledged.append(reply.json()["key"])
        if len(acknowledged) == 10:
            bank.kill()

    post(bank, "open", "flight/open", account="flight", amount="0.00")
    async with httpx.AsyncClient(base_url=bank.base_url, timeout=HANG_S) as client:
        outcomes = await asyncio.gather(*(deposit(client, n) for n in range(40)), return_exceptions=True)
    assert any(isinstance(outcome, httpx.TransportError) for outcome in outcomes)
    assert len(acknowledged) >= 10
    written = [json.loads(line)["key"] for line in (bank.data / "ledger.jsonl").read_text().splitlines()]
    assert set(acknowledged) <= set(written)
    bank.restart()
    async with httpx.AsyncClient(base_url=bank.base_url, timeout=HANG_S) as client:
        await asyncio.gather(*(deposit(client, n) for n in range(40)))
    once_each = {"flight/open": 1, **{f"flight/{n}": 1 for n in range(40)}}
    assert Counter(line["key"] for line in effects(bank, "flight")) == once_each
    assert get(bank, "accounts")["flight"]["balance"] == "40.00"


def test_a_crash_after_the_effect_and_before_the_reply_is_healed_by_the_same_key(bank: ServiceProcess) -> None:
    """A crash after the effect is on disk and before the reply is harmless: the same key gets the reply."""
    post(bank, "open", "crash/open", account="crash", amount="100.00")
    with pytest.raises(httpx.TransportError):
        post(bank, "withdraw", "crash/w", fault="crash", account="crash", amount="10.00")
    assert bank.wait() == -signal.SIGKILL
    bank.restart()
    assert post(bank, "withdraw", "crash/w", account="crash", amount="10.00").json()["outcome"] == "applied"
    assert get(bank, "accounts")["crash"]["balance"] == "90.00"
    assert [a["fault"] for a in get(bank, "attempts") if a["key"] == "crash/w"] == ["crash", None]


@pytest.mark.soak
def test_a_torn_last_line_is_dropped_with_a_note_and_damage_stops_the_start(tmp_path: Path) -> None:
    """The bank drops only a last line that was never acknowledged; it does not guess across a hole in the middle."""
    ledger = tmp_path / "ledger.jsonl"
    with bank_at(tmp_path, alice="100.00", bob="0.00") as bank:
        bank.kill()
        whole = ledger.read_bytes()
        ledger.write_bytes(whole + whole.splitlines()[-1][:-5])
        bank.restart()
        assert ledger.read_bytes() == whole
        assert re.search(r"note: dropped a torn last line of \d+ bytes", (tmp_path / "service.err").read_text())
        assert post(bank, "deposit", "d", account="bob", amount="1.00").json()["sequence"] == 3
        bank.kill()
        ledger.write_bytes(b"".join(whole.splitlines(keepends=True)[1:]))
        with pytest.raises(ServiceProcessError, match=r"line 1 has sequence 2: a line is missing"):
            bank.restart()
        ledger.write_bytes(b"rubbish\n" + whole)
        with pytest.raises(ServiceProcessError, match=r"line 1 is not a ledger entry: 'rubbish'"):
            bank.restart()


@pytest.mark.soak
def test_a_log_that_lags_behind_the_books_is_made_up_and_a_strange_one_is_refused(tmp_path: Path) -> None:
    """A crash between commit and copy loses no line of the log; the bank refuses a log unknown to its books."""
    ledger = tmp_path / "ledger.jsonl"
    with bank_at(tmp_path, alice="100.00", bob="0.00") as bank:
        bank.kill()
        whole = ledger.read_bytes()
        ledger.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
        bank.restart()
        assert ledger.read_bytes() == whole
        assert get(bank, "accounts")["bob"] == {"balance": "0.00", "held": "0.00"}
        bank.kill()
        ledger.write_bytes(whole.replace(b"100.00", b"900.00"))
        with pytest.raises(
            ServiceProcessError, match=r"line 1 is not in the books: keep the log and books.db together"
        ):
            bank.restart()


def test_nothing_is_acknowledged_after_a_sync_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed sync, when the line's fate is unknown, every append fails until the file was read again."""

    def no_sync(_file: int) -> None:
        raise OSError(28, "No space left on device")

    log = LineLog(tmp_path / "log")
    log.append("one")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_sync)
        with pytest.raises(LineLogError, match=r"could not be written .*No space left"):
            log.append("two")
    with pytest.raises(LineLogError, match="start the service again"):
        log.append("three")
    assert log.lines == ["one"]
    log.close()
    again = LineLog(tmp_path / "log")
    assert again.lines == ["one", "two"]
    again.close()
