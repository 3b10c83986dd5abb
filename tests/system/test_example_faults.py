"""The services of the examples fail as they are asked to."""

import asyncio
import sys
from pathlib import Path

import httpx
import pytest
from bounds import HANG_S

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "orders"))
from runs import bank_service
from runs.bank_service import HTTP, effects, found, get, post
from services.process import ServiceProcess, ServiceProcessError

only_bank, bank = bank_service.only_bank, bank_service.bank


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
