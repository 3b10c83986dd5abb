"""The examples' participants, run as real processes: each key has one effect, through crashes and faults.

These tests run no sagas. They kill, restart and mislead the services, and compare the answers afterwards with the
ledger on disk.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from bounds import HANG_S

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "orders"))
from runs import bank_service
from runs.bank_service import HTTP, Json, bank_at, effects, found, get, post
from services.process import ServiceProcess, ServiceProcessError

only_bank, bank = bank_service.only_bank, bank_service.bank


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
