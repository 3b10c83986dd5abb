"""The sagas of a project whose processes are killed: transfers between accounts of a bank, and a row of transactions.

The tests copy this file into the project and also import it themselves. `BANK_URL` is the address of the bank. There a
test chooses, by key, how the bank answers a call: it can delay the call, or delay only the reply.
"""

import os
import time
from datetime import timedelta
from pathlib import Path

import httpx
from eventsourcing.domain import event
from pydantic import BaseModel

from amends import Aggregate, Attempted, Call, Done, Rejected, Retry, Saga, UnitOfWork, effect, pivot, transaction

__all__ = ["HELD_AT", "LINES", "Book", "Tally", "Transfer", "tally", "transfer"]

# A delayed answer keeps the step in flight for this long; a test sees a repeated call much earlier.
PATIENCE = timedelta(seconds=30)
# The delay is long, so that most of the time no attempt runs. Attempts have no limit, since the bank may be unavailable
# for any number of them.
RETRY = Retry(max_attempts=None, first=timedelta(milliseconds=500), factor=1)


class Transfer(BaseModel):
    """The input of a transfer: the accounts, the amount, and whether the run is compensated in the end."""

    run: str
    refused: bool = False


class Book(Aggregate):
    """The project's own record of a run, line by line."""

    @event("Opened")
    def __init__(self, id: str) -> None:  # noqa: A002, ARG002 - the word that aggregates use
        self.lines: list[str] = []

    @event("Entered")
    def enter(self, line: str) -> None:
        """Write a line."""
        self.lines.append(line)


async def ask(operation: str, key: str, body: dict[str, str]) -> None:
    """Call the bank under a key."""
    async with httpx.AsyncClient(base_url=os.environ["BANK_URL"], timeout=PATIENCE.total_seconds()) as bank:
        answer = await bank.post(f"/{operation}", json=body, headers={"Idempotency-Key": key})
    if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        raise Rejected(answer.json()["reason"])
    answer.raise_for_status()


@transaction
def begin(order: Transfer, uow: UnitOfWork) -> None:
    """Open the book."""
    uow.add(Book(order.run)).enter("begun")


@begin.compensation
def give_up(done: Done[Transfer, None], uow: UnitOfWork) -> None:
    """Write down that the run was compensated."""
    uow.get(Book, done.input.run).enter("given up")


@effect(timeout=PATIENCE, retry=RETRY)
async def withdraw(_: Transfer, call: Call) -> None:
    """Withdraw the money from one account."""
    await ask("withdraw", call.key, {"account": "alice", "amount": "1.00"})


@withdraw.compensation(timeout=PATIENCE, retry=RETRY)
async def void_withdrawal(_: Attempted[Transfer, None], call: Call) -> None:
    """Void the withdrawal."""
    await ask("void", call.key, {"key": call.do_key})


@effect(timeout=PATIENCE, retry=RETRY)
async def deposit(_: Transfer, call: Call) -> None:
    """Deposit the money in the other account."""
    await ask("deposit", call.key, {"account": "bob", "amount": "1.00"})


@deposit.compensation(timeout=PATIENCE, retry=RETRY)
async def void_deposit(_: Attempted[Transfer, None], call: Call) -> None:
    """Void the deposit."""
    await ask("void", call.key, {"key": call.do_key})


@transaction
def settle(order: Transfer, uow: UnitOfWork) -> None:
    """Accept the transfer, or refuse it."""
    uow.get(Book, order.run).enter("settled")
    if order.refused:
        raise Rejected("not today")


transfer = Saga("transfer", Transfer, begin, withdraw, deposit, pivot(settle))


class Tally(BaseModel):
    """A row of transactions. One of them creates the file `gate.reached` and waits until the file `gate` exists."""

    run: str
    gate: str


LINES = tuple(f"count-{number}" for number in range(30))
"""More transactions than the journal executes in one unit."""

HELD_AT = LINES[25]


@transaction
def count(order: Tally, uow: UnitOfWork) -> None:
    """Write a line."""
    book = uow.find(Book, order.run) or uow.add(Book(order.run))
    book.enter(uow.node)
    gate = Path(order.gate)
    if uow.node == HELD_AT:
        gate.with_suffix(".reached").touch()
        while not gate.exists():
            time.sleep(0.01)


@count.compensation
def strike(done: Done[Tally, None], uow: UnitOfWork) -> None:
    """Write down that a line does not count."""
    uow.get(Book, done.input.run).enter(f"not {uow.node}")


def same(order: Tally) -> Tally:
    """Return the same input for every line."""
    return order


tally = Saga("tally", Tally, *(count.using(same, name=line) for line in LINES))
