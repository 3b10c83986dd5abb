"""No user data reaches Temporal or the logs: the tests plant canaries everywhere, and search for them."""

import asyncio
import json
import re
from pathlib import Path

import pytest
import temporalio.client
from commands import shop_at

CANARY = "4111CANARY"

MODULE = """
from datetime import timedelta

from pydantic import BaseModel, field_validator
from amends import (
    Aggregate, Attempted, Call, ScanFailed, Done, Drift, Rejected, Retry, Saga, UnitOfWork, drift_rule, effect,
    pivot, transaction,
)

QUICK = Retry(max_attempts=2, first=timedelta(milliseconds=5), factor=1)
SLOW = Retry(max_attempts=None, first=timedelta(milliseconds=200), factor=1)


class Card(BaseModel):
    number: str
    ends: str = ""


class Odd(BaseException):
    pass


ENDS = {
    "value": lambda text: ValueError(text),
    "key": lambda text: KeyError(text),
    "exit": lambda text: SystemExit(text),
    "odd": lambda text: Odd(text),
    "refused": lambda text: Rejected(text),
    "group": lambda text: ExceptionGroup(text, [ValueError(text), Rejected(text)]),
}


def ends(card, place):
    where, _, how = card.ends.partition("/")
    if where == place:
        try:
            raise RuntimeError("4111CANARY-cause")
        except RuntimeError as error:
            raise ENDS[how]("4111CANARY-" + place) from error


class Ledger(Aggregate):
    def __init__(self, id: str) -> None:
        self.total = 0


@transaction(retry=QUICK)
def note(card: Card, uow: UnitOfWork) -> str:
    ends(card, "transaction")
    return "4111CANARY-result"


@note.compensation(retry=QUICK)
def unnote(done: Done[Card, str], uow: UnitOfWork) -> None:
    ends(done.input, "undo of a transaction")


@effect(retry=QUICK)
async def charge(card: Card, call: Call) -> str:
    ends(card, "effect")
    if card.ends.startswith("probe"):
        raise TimeoutError("4111CANARY-timeout")
    return "4111CANARY-result"


@charge.probe
def charged(card: Card, call: Call) -> str | None:
    ends(card, "probe")
    return None


@charge.compensation(retry=QUICK)
def refund(tried: Attempted[Card, str], call: Call) -> None:
    ends(tried.input, "undo")


def mapped(card: Card) -> Card:
    ends(card, "mapping")
    return card


@transaction(retry=QUICK)
def close(card: Card, uow: UnitOfWork) -> str:
    if "undo" in card.ends:
        raise Rejected("4111CANARY-turn")
    return "4111CANARY-result"


@close.compensation
def unclose(done: Done[Card, str], uow: UnitOfWork) -> None:
    pass


pay = Saga("pay", Card, note, charge, close.using(mapped), keys=("number",))


@effect(retry=SLOW)
async def wait(card: Card, call: Call) -> str:
    raise TimeoutError("4111CANARY-away")


@wait.compensation
async def unwait(tried: Attempted[Card, str], call: Call) -> None:
    pass


later = Saga("later", Card, wait, keys=("number",))


@drift_rule("raising", every=timedelta(hours=1))
def raising(observation):
    raise Odd("4111CANARY-rule")


@drift_rule("unable", every=timedelta(hours=1))
async def unable(observation):
    raise ScanFailed("4111CANARY-reason")
"""

PLACES = ("transaction", "undo of a transaction", "effect", "undo", "probe", "mapping")
ENDS = ("value", "key", "exit", "odd", "refused", "group")


async def _crossed(address: str) -> bytes:
    """Return all that Temporal shows of its workflows, and all their histories, whose payloads are plain JSON."""
    client = await temporalio.client.Client.connect(address)
    told: list[bytes] = []
    async for each in client.list_workflows():
        handle = client.get_workflow_handle(each.id, run_id=each.run_id)
        told.append((await handle.describe()).raw_description.SerializeToString())
        told += [event.SerializeToString() async for event in handle.fetch_history_events()]
    return b"".join(told)


@pytest.mark.parametrize("step", [3, pytest.param(1, id="all", marks=pytest.mark.soak)])
def test_no_canary_reaches_temporal_or_the_log(tmp_path: Path, step: int) -> None:
    """Inputs, results, keys and errors of every class, raised anywhere, are nowhere but in the journal."""
    project = shop_at(tmp_path / "shop", MODULE, {"AMENDS_ERRORS": "type"})
    said: list[str] = []
    with project.started("dev") as dev:
        dev.read_until("Ready")
        # Every place and every end, but not every pair of them.
        plots = [
            f"{place}/{end}" for at, place in enumerate(PLACES) for to, end in enumerate(ENDS) if (at + to) % step == 0
        ]
        lines = "\n".join(json.dumps({"number": f"{CANARY}-{n}", "ends": plot}) for n, plot in enumerate(plots))
        project.write("cards.jsonl", lines + "\n")
        assert project.run("run", "pay", "@cards.jsonl", "--json").out.count("run_id") == len(plots)
        project.run("run", "later", json.dumps({"number": f"{CANARY}-later"}), "--id", "late-1", "--detach")
        for rule in ("raising", "unable"):
            assert project.run("schedule", "add", rule, rule, "--every", "1h").code == 0
            assert project.run("schedule", "trigger", rule, "--wait").code == 3
        dev.stop()
        said += dev.lines
    journal = (tmp_path / "shop" / ".amends" / "events.db").read_bytes()
    assert CANARY.encode() in journal
    # A deploy that narrows the type: the stored value does not load any more, and the run waits.
    project.write("shop.py", MODULE.replace("    number: str\n", "    number: int\n"))
    with project.started("dev") as dev:
        dev.read_until("late-1")
        address = next(line.split()[1] for line in dev.lines if line.startswith("Temporal"))
        crossed = asyncio.run(_crossed(address))
        dev.stop()
        said += dev.lines
    log = "".join(said)
    places = [line for line in log.splitlines() if "failed: raised" in line]
    assert {"Odd", "SystemExit", "KeyError"} <= {name for line in places for name in re.findall(r"\w+", line)}
    assert CANARY not in log, re.findall(f".*{CANARY}.*", log)[:3]
    files = list((tmp_path / "shop" / ".amends").glob("temporal.db*"))
    kept = b"".join(file.read_bytes() for file in files)
    for place in (crossed, kept):
        assert b"late-1" in place, "ids do travel, so the search finds what is there"
        assert CANARY.encode() not in place
