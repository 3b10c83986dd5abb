"""The examples' participants, run as real processes: each key has one effect, through crashes and faults.

These tests run no sagas. They kill, restart and mislead the services, and compare the answers afterwards with the
ledger on disk.
"""

import asyncio
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from bounds import HANG_S

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "orders"))

from services.line_log import LineLog, LineLogError
from services.process import ServiceProcess, ServiceProcessError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Json = dict[str, Any]

# One client, since creating one is slow; it keeps no connection, as services die between calls.
HTTP = httpx.Client(timeout=HANG_S, limits=httpx.Limits(max_keepalive_connections=0))


def bank_at(data: Path, **opened: str) -> ServiceProcess:
    """Return a bank with these accounts, not started yet."""
    options = [word for name, amount in opened.items() for word in ("--open", f"{name}={amount}")]
    return ServiceProcess("bank", data, *options, project=EXAMPLES / "transfer")


@pytest.fixture(scope="module")
def only_bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Return one bank for all tests, as starting one is slow."""
    with bank_at(tmp_path_factory.mktemp("bank"), rich="1000.00", poor="5.00") as service:
        yield service


@pytest.fixture
def bank(only_bank: ServiceProcess) -> ServiceProcess:
    """Return the bank, running again if the previous test stopped it; each test uses accounts and keys of its own."""
    process = only_bank._process
    if process is None or process.poll() is not None:
        only_bank.kill()
        only_bank.start()
    return only_bank


def post(
    service: ServiceProcess, op: str, key: str | None, /, fault: str | None = None, **body: object
) -> httpx.Response:
    """Call an operation."""
    headers = {name: value for name, value in (("Idempotency-Key", key), ("Fault", fault)) if value is not None}
    return HTTP.post(f"{service.base_url}/{op}", json=body, headers=headers)


def get(service: ServiceProcess, path: str) -> Any:  # noqa: ANN401 - JSON
    """Read a page."""
    return HTTP.get(f"{service.base_url}/{path}", timeout=HANG_S).json()


def found(service: ServiceProcess, key: str) -> httpx.Response:
    """Probe a key."""
    return HTTP.get(f"{service.base_url}/operations/{quote(key, safe='')}")


def effects(service: ServiceProcess, account: str) -> list[Json]:
    """Return the bank's effects on one account, from its log."""
    return [line for line in get(service, "log") if line["effect"].get("account") == account]


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


# --- surviving ---


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


# --- keys ---


def test_the_same_call_again_gets_the_first_reply_and_changes_nothing(bank: ServiceProcess) -> None:
    """One effect per key; the attempts count every call."""
    post(bank, "open", "o1", account="again", amount="50.00")
    first = post(bank, "withdraw", "again/1", account="again", amount="20.00")
    second = post(bank, "withdraw", "again/1", account="again", amount="20.00")
    assert (first.status_code, first.content) == (second.status_code, second.content)
    assert first.json()["effect"] == {"type": "withdrawn", "account": "again", "amount": "20.00"}
    assert [line["key"] for line in effects(bank, "again")] == ["o1", "again/1"]
    assert Counter(attempt["key"] for attempt in get(bank, "attempts"))["again/1"] == 2


@pytest.mark.parametrize(
    ("op", "body"),
    [
        ("withdraw", {"account": "rich", "amount": "2.00"}),
        ("withdraw", {"account": "poor", "amount": "1.00"}),
        ("deposit", {"account": "rich", "amount": "1.00"}),
    ],
)
def test_another_call_under_a_used_key_is_a_conflict(bank: ServiceProcess, op: str, body: Json) -> None:
    """A key belongs to the operation and body of its first use."""
    post(bank, "withdraw", "conflict", account="rich", amount="1.00")
    before = get(bank, "log?outcome=all")
    answer = post(bank, op, "conflict", **body)
    assert answer.status_code == 409
    assert answer.json()["error"] == "conflict"
    assert answer.json()["reason"].startswith("key 'conflict' was used for another operation (")
    assert get(bank, "log?outcome=all") == before


@pytest.mark.parametrize(
    ("op", "body", "reason"),
    [
        (
            "withdraw",
            {"account": "poor", "amount": "5.01"},
            "insufficient funds: 5.01 asked of poor, which has 5.00",
        ),
        ("hold", {"account": "poor", "amount": "6"}, "insufficient funds: 6.00 asked of poor, which has 5.00"),
        ("deposit", {"account": "nobody", "amount": "1"}, "account nobody is unknown"),
        ("open", {"account": "poor", "amount": "1"}, "account poor exists"),
        ("release", {"hold": "none"}, "there is no hold under key none"),
        ("confirm", {"hold": "none"}, "there is no hold under key none"),
    ],
)
def test_a_business_no_has_a_reason_and_no_effect(bank: ServiceProcess, op: str, body: Json, reason: str) -> None:
    """A refusal is an answer, 422, and leaves the books as they were."""
    before = get(bank, "accounts")
    answer = post(bank, op, f"no/{op}/{reason}".replace(" ", "-"), **body)
    assert (answer.status_code, answer.json()["outcome"], answer.json()["reason"]) == (422, "refused", reason)
    assert get(bank, "accounts") == before


def test_refusals_and_tombstones_outlive_a_kill(bank: ServiceProcess) -> None:
    """A refusal stays under its key, though it would be granted now; after an undo, a late do never takes effect."""
    post(bank, "open", "outlive/open", account="outlive", amount="0.00")
    assert post(bank, "withdraw", "outlive/no", account="outlive", amount="5.00").status_code == 422
    assert post(bank, "void", "outlive/undo", key="outlive/late").json()["outcome"] == "tombstone"
    post(bank, "deposit", "outlive/d", account="outlive", amount="50.00")
    bank.kill()
    bank.restart()
    assert post(bank, "withdraw", "outlive/no", account="outlive", amount="5.00").status_code == 422
    assert found(bank, "outlive/no").json()["outcome"] == "refused"
    late = post(bank, "withdraw", "outlive/late", account="outlive", amount="5.00")
    assert (late.status_code, late.json()["error"]) == (409, "voided")
    reason = "withdraw under key 'outlive/late' was voided by 'outlive/undo' before it arrived"
    assert late.json()["reason"] == reason
    voided = {"key": "outlive/late", "outcome": "voided", "voided_by": "outlive/undo"}
    assert found(bank, "outlive/late").json() == voided
    assert [line["key"] for line in effects(bank, "outlive")] == ["outlive/open", "outlive/d"]
    assert post(bank, "withdraw", "outlive/yes", account="outlive", amount="5.00").status_code == 200


@pytest.mark.parametrize(
    ("key", "body", "reason"),
    [
        (None, '{"account": "rich", "amount": "1"}', "the header Idempotency-Key is missing"),
        ("has space", '{"account": "rich", "amount": "1"}', "key or body: String should match pattern"),
        ("m1", "{", "key or body: Invalid JSON"),
        ("m2", '{"account": "rich"}', "amount: Field required"),
        ("m3", '{"account": "rich", "amount": 1.5}', "amount: Input should be a valid string, got 1.5"),
        ("m4", '{"account": "rich", "amount": "0.00"}', "amount: Value error, must be more than zero"),
        ("m5", '{"account": "rich", "amount": "-1"}', "amount: String should match pattern"),
        ("m6", '{"account": "rich", "amount": "NaN"}', "amount: String should match pattern"),
        ("m7", '{"account": "rich", "amount": "1.001"}', "amount: String should match pattern"),
        ("m8", '{"account": "rich", "amount": "1", "x": 1}', "x: Extra inputs are not permitted"),
    ],
)
def test_what_is_not_understood_is_400_and_leaves_the_key_free(
    bank: ServiceProcess, key: str | None, body: str, reason: str
) -> None:
    """A malformed call is the caller's mistake, not a business answer: the caller may correct it under the same key."""
    before = get(bank, "log?outcome=all")
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = HTTP.post(f"{bank.base_url}/withdraw", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["reason"].startswith(reason)
    assert get(bank, "log?outcome=all") == before


def test_a_probe_tells_what_happened_under_a_key(bank: ServiceProcess) -> None:
    """A probe reports applied, refused or nothing, for keys with any characters, and counts as an attempt."""
    key = "run-1/pay[2]#g0/do?x=%41"
    assert found(bank, key).status_code == 404
    reply = post(bank, "withdraw", key, account="rich", amount="1.00").json()
    assert found(bank, key).json() == {**reply, "voided_by": None}
    assert [a["op"] for a in get(bank, "attempts") if a["key"] == key] == ["find", "withdraw", "find"]


# --- undo ---


@pytest.mark.parametrize("op", ["withdraw", "deposit", "hold"])
def test_a_void_undoes_once_under_whatever_keys(bank: ServiceProcess, op: str) -> None:
    """Voiding again, by the same or another key, finds nothing left to undo."""
    name = f"void-{op}"
    post(bank, "open", f"{name}/open", account=name, amount="50.00")
    before = get(bank, "accounts")[name]
    done = post(bank, op, f"{name}/do", account=name, amount="20.00")
    assert get(bank, "accounts")[name] != before
    undone = post(bank, "void", f"{name}/undo", key=f"{name}/do")
    assert (undone.status_code, undone.json()["outcome"]) == (200, "applied")
    assert post(bank, "void", f"{name}/undo", key=f"{name}/do").content == undone.content
    assert post(bank, "void", f"{name}/undo2", key=f"{name}/do").json()["outcome"] == "unneeded"
    assert get(bank, "accounts")[name] == before
    assert len(effects(bank, name)) == 3
    assert post(bank, op, f"{name}/do", account=name, amount="20.00").content == done.content
    assert found(bank, f"{name}/do").json()["voided_by"] == f"{name}/undo"


async def test_a_call_that_is_overtaken_by_its_void_is_refused(bank: ServiceProcess) -> None:
    """A call that arrives after its void has no effect: its caller stopped waiting and undid it."""
    async with httpx.AsyncClient(base_url=bank.base_url, timeout=HANG_S) as client:
        headers = {"Idempotency-Key": "late", "Fault": "delay_before=60000"}
        body = {"account": "rich", "amount": "1.00"}
        late = asyncio.create_task(client.post("/withdraw", json=body, headers=headers))
        while "late" not in [attempt["key"] for attempt in (await client.get("/attempts")).json()]:
            assert not late.done()
        void = await client.post("/void", json={"key": "late"}, headers={"Idempotency-Key": "late/undo"})
        assert void.json()["outcome"] == "tombstone"
        assert not late.done()
        await client.delete("/faults")
        assert (await late).json()["error"] == "voided"


def test_a_void_of_a_refusal_has_nothing_to_undo(bank: ServiceProcess) -> None:
    """A refused call changed nothing, so its compensation succeeds without an effect."""
    post(bank, "withdraw", "refused/do", account="poor", amount="99.00")
    answer = post(bank, "void", "refused/undo", key="refused/do")
    assert (answer.status_code, answer.json()["outcome"]) == (200, "unneeded")


def test_a_void_that_is_no_longer_possible_is_refused_and_leaves_the_effect(bank: ServiceProcess) -> None:
    """The bank refuses to void a deposit that was spent, instead of going below zero."""
    post(bank, "open", "spent/open", account="spent", amount="0")
    post(bank, "deposit", "spent/in", account="spent", amount="10.00")
    post(bank, "withdraw", "spent/out", account="spent", amount="8.00")
    answer = post(bank, "void", "spent/undo", key="spent/in")
    assert answer.status_code == 422
    assert answer.json()["reason"] == "insufficient funds: 10.00 asked of spent, which has 2.00"
    assert found(bank, "spent/in").json()["voided_by"] is None
    assert post(bank, "void", "spent/undo2", key="spent/out").status_code == 200
    for key, reason in (("spent/undo2", "itself a void"), ("spent/open", "stays open")):
        assert reason in post(bank, "void", f"{key}/undo", key=key).json()["reason"]
    assert post(bank, "void", "self", key="self").status_code == 409


def test_a_hold_goes_through_its_life_once_and_back_in_reverse_order(bank: ServiceProcess) -> None:
    """Held money is released or confirmed, never both; voids in reverse order restore the account."""
    post(bank, "open", "life/open", account="life", amount="10.00")
    post(bank, "hold", "life/hold", account="life", amount="4.00")
    assert post(bank, "confirm", "life/confirm", hold="life/hold").status_code == 200
    assert get(bank, "accounts")["life"] == {"balance": "6.00", "held": "0.00"}
    for op, key in (("release", "life/release"), ("confirm", "life/confirm2")):
        assert post(bank, op, key, hold="life/hold").json()["reason"].startswith("the hold under key life/hold is")
    assert post(bank, "void", "life/undo-early", key="life/hold").status_code == 422
    assert post(bank, "void", "life/undo1", key="life/confirm").json()["effect"]["type"] == "reopened"
    assert post(bank, "void", "life/undo2", key="life/hold").json()["effect"]["type"] == "released"
    assert get(bank, "accounts")["life"] == {"balance": "10.00", "held": "0.00"}


# --- faults ---


@pytest.mark.parametrize("kind", ["lose_reply", "gateway_timeout"])
def test_a_lost_reply_is_followed_by_the_first_result(bank: ServiceProcess, kind: str) -> None:
    """The effect stands though its reply was lost; the retry under the same key gets the first result."""
    HTTP.post(f"{bank.base_url}/faults", json={"kind": kind, "key": kind})
    try:
        assert post(bank, "deposit", kind, account="rich", amount="3.00").status_code == 504
    except httpx.RemoteProtocolError:
        assert kind == "lose_reply"
    logged = found(bank, kind).json()
    again = post(bank, "deposit", kind, account="rich", amount="3.00")
    assert again.status_code == 200
    assert {**again.json(), "voided_by": None} == logged
    assert [line["key"] for line in effects(bank, "rich")].count(kind) == 1
    attempts = [(a["op"], a["fault"]) for a in get(bank, "attempts") if a["key"] == kind]
    assert attempts == [("deposit", kind), ("find", None), ("deposit", None)]


def test_faults_can_be_there_from_the_start(tmp_path: Path) -> None:
    """A service accepts planned faults when it starts, and refuses an unknown fault in one line."""
    with ServiceProcess("services.payment", tmp_path, "--fault", '{"kind": "unavailable", "times": 2}') as payment:
        assert get(payment, "faults") == [{"kind": "unavailable", "times": 2, "delay_ms": 0}]
    with pytest.raises(ServiceProcessError, match=r"ended before it listened: .* --fault: kind: Input should be"):
        ServiceProcess("services.payment", tmp_path, "--fault", '{"kind": "fire"}').start()


def test_faults_are_counted_for_the_calls_they_name(bank: ServiceProcess) -> None:
    """Two 503 for one prefix: the third call goes through, and other keys and probes are never affected."""
    fault = {"kind": "unavailable", "times": 2, "op": "deposit", "key_prefix": "count/"}
    HTTP.post(f"{bank.base_url}/faults", json=fault)
    deposit = {"account": "rich", "amount": "1.00"}
    assert post(bank, "deposit", "other", **deposit).status_code == 200
    assert post(bank, "deposit", "count/1", **deposit).status_code == 503
    assert found(bank, "count/1").status_code == 404
    assert get(bank, "faults") == [{**fault, "times": 1, "delay_ms": 0}]
    statuses = [post(bank, "deposit", "count/1", **deposit).status_code for _ in range(2)]
    assert statuses == [503, 200]
    assert get(bank, "faults") == []
    HTTP.post(f"{bank.base_url}/faults", json={"kind": "unavailable"})
    assert found(bank, "count/1").status_code == 200
    HTTP.post(f"{bank.base_url}/faults", json={"kind": "unavailable", "op": "find"})
    assert found(bank, "count/1").status_code == 503
    assert HTTP.delete(f"{bank.base_url}/faults").json() == []
    assert HTTP.post(f"{bank.base_url}/faults", json={"kind": "fire"}).status_code == 400
    assert post(bank, "deposit", "count/2", fault="fire", **deposit).status_code == 400


async def test_a_delayed_reply_comes_after_the_effect(bank: ServiceProcess) -> None:
    """The effect exists while the caller still waits: the window in which a worker can be killed."""
    async with httpx.AsyncClient(base_url=bank.base_url, timeout=HANG_S) as client:
        headers = {"Idempotency-Key": "slow", "Fault": "delay_after=60000"}
        body = {"account": "rich", "amount": "1.00"}
        slow = asyncio.create_task(client.post("/deposit", json=body, headers=headers))
        while (probe := await client.get("/operations/slow")).status_code == 404:
            assert not slow.done()
        assert probe.json()["outcome"] == "applied"
        assert not slow.done()
        await client.delete("/faults")
        assert (await slow).json()["outcome"] == "applied"


# --- orders ---


def test_payments_are_charged_refunded_and_voided_once(tmp_path: Path) -> None:
    """The payment provider keeps the same promises as the bank, over a kill."""
    with ServiceProcess("services.payment", tmp_path, "--limit", "100.00") as payment:
        charge = post(payment, "charge", "c1", order_id="o-1", amount="40.00").json()
        payment_id = charge["effect"]["payment_id"]
        assert post(payment, "charge", "c2", order_id="o-2", amount="100.01").status_code == 422
        declined = post(payment, "charge", "c3", order_id="o-3", amount="1", card="declined-1")
        assert declined.json()["reason"] == "card declined-1 was declined"
        assert post(payment, "refund", "r1", payment_id=payment_id, amount="15.00").status_code == 200
        assert post(payment, "refund", "r2", payment_id=payment_id, amount="25.01").status_code == 422
        assert post(payment, "refund", "r3", payment_id="payment-99", amount="1").status_code == 422
        payment.kill()
        payment.restart()
        assert found(payment, "c1").json() == {**charge, "voided_by": None}
        assert post(payment, "void", "v1", key="c1").json()["effect"]["amount"] == "25.00"
        assert post(payment, "void", "v2", key="c1").json()["outcome"] == "unneeded"
        assert post(payment, "void", "v3", key="r1").json()["reason"] == "a refund is final: charge again instead"
        assert get(payment, "payments") == {
            payment_id: {"order_id": "o-1", "amount": "40.00", "refunded": "40.00"},
        }


def test_parcels_are_quoted_booked_and_cancelled_once(tmp_path: Path) -> None:
    """The carrier keeps the same promises, and sells a cancelled place again."""
    with ServiceProcess("services.shipping", tmp_path, "--places", "1") as shipping:
        quoted = post(shipping, "quote", "q1", order_id="o-1", quantity=2, zone="europe").json()
        assert quoted["effect"]["price"] == "9.90"
        assert post(shipping, "quote", "q2", order_id="o-1", quantity=2, zone="moon").status_code == 422
        assert post(shipping, "quote", "q3", order_id="o-1", quantity=101).status_code == 422
        booking_id = post(shipping, "book", "b1", order_id="o-1", quantity=2).json()["effect"]["booking_id"]
        full = post(shipping, "book", "b2", order_id="o-2", quantity=1)
        assert (full.status_code, full.json()["reason"]) == (422, "all 1 places are taken")
        shipping.kill()
        shipping.restart()
        assert get(shipping, "bookings") == {booking_id: {"order_id": "o-1", "price": "4.90"}}
        assert post(shipping, "void", "v1", key="b1").json()["effect"]["type"] == "cancelled"
        assert post(shipping, "cancel", "x1", booking_id=booking_id).json()["reason"] == f"{booking_id} is not booked"
        other = post(shipping, "book", "b3", order_id="o-2", quantity=1).json()["effect"]["booking_id"]
        assert other != booking_id
        assert post(shipping, "cancel", "x2", booking_id=other).status_code == 200
        assert post(shipping, "void", "v2", key="x2").json()["effect"]["type"] == "booked"
        assert post(shipping, "void", "v3", key="q1").json()["outcome"] == "applied"
        assert list(get(shipping, "bookings")) == [other]


# --- the log ---


def test_the_log_is_given_in_pages(bank: ServiceProcess) -> None:
    """Reading on after the last entry of each page returns every entry once; a count must be a whole number."""
    for number in range(3):
        post(bank, "deposit", f"pages/{number}", account="rich", amount="1.00")
    whole = get(bank, "log?outcome=all")
    read: list[Json] = []
    while page := get(bank, f"log?outcome=all&after={len(read)}&limit=2"):
        assert len(page) <= 2
        read += page
    assert read == whole
    wrong = HTTP.get(f"{bank.base_url}/log?after=-1")
    assert (wrong.status_code, wrong.json()["reason"]) == (400, "after: '-1' is not a whole number from 0")


# --- the process ---


def test_a_stopped_service_ends_with_exit_code_0_and_an_orphan_stops_by_itself(bank: ServiceProcess) -> None:
    """SIGTERM and the end of standard input are both requests to stop, not crashes."""
    os.kill(bank.pid, signal.SIGTERM)
    assert bank.wait() == 0
    bank.restart()
    assert bank._process is not None
    assert bank._process.stdin is not None
    bank._process.stdin.close()
    assert bank.wait() == 0


def test_a_service_that_cannot_start_says_why_and_leaves_no_process(bank: ServiceProcess, tmp_path: Path) -> None:
    """Folder in use, port taken, no such module, too slow: each is one error with the service's own last words."""
    port = bank.base_url.rpartition(":")[2]
    cases = [
        (bank_at(bank.data), "bank: .*ledger.jsonl is in use by another process"),
        (ServiceProcess("services.payment", tmp_path / "p", "--port", port), "payment: .*Address already in use"),
        (ServiceProcess("services.nothing", tmp_path / "n"), "No module named services.nothing"),
        (ServiceProcess("services.payment", tmp_path / "s", start_timeout=timedelta(0)), "did not listen within 0.0 s"),
    ]
    for service, message in cases:
        with pytest.raises(ServiceProcessError, match=message):
            service.start()
        with pytest.raises(ServiceProcessError, match="is not running"):
            _ = service.pid
    with pytest.raises(ServiceProcessError, match=f"runs already, as process {bank.pid}"):
        bank.start()
