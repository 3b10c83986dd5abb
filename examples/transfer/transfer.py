"""Money from one account to another, at a bank that is an outside system.

The order of the steps keeps the money from being in two places, or gone, even if calls are lost or repeated:

1. `note_transfer` writes the intent into our own store, and refuses a transfer that was noted before.
2. `hold_money` sets the payer's money aside. Nobody can spend it from here on, and it is still the payer's.
3. `deposit_money` moves it to the payee. It is the *pivot*: the last step that the bank may refuse (no such account),
   and the first that cannot be relied on to be undone, since the payee may have spent the money a moment later.
4. `confirm_hold` takes the held money from the payer for good. The bank has no reason left to refuse it, so it is
   *retriable*: repeated until it succeeds.

A deposit before the hold could move money that is not there; a confirmation before the deposit would leave the money
nowhere if the deposit is refused.

Effects that may happen twice, our evidence, and the correction:

| step | called twice? | evidence of the outcome | correction |
|---|---|---|---|
| `note_transfer` | never takes effect twice | its event and its outcome are one commit | an event says: called off |
| `hold_money` | yes, after a lost reply | the bank keeps each key's first answer | voided, by the key of the hold |
| `deposit_money` | yes, without limit | as above | never undone: repeated until the bank says yes or no |
| `confirm_hold` | yes, without limit | as above | never undone: repeated until it succeeds |

Two decisions need a second look:

- When the bank stays silent about a *hold*, giving up is safe, because a void covers both cases: it releases the money
  if it is on hold, and otherwise lets the bank refuse a hold that still arrives. "Nothing so far" is therefore
  no answer for the probe: it raises, the hold counts as in doubt, and a step in doubt is undone.
- When the bank stays silent about the *deposit*, giving up is not safe: a deposit that did happen may be spent by now.
  So its attempts have no limit, under the same key; meanwhile the money is on hold, where nothing can happen to it.
"""

import os
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Self
from urllib.parse import quote

import httpx
from eventsourcing.domain import event
from pydantic import BaseModel, Field, model_validator

from amends import (
    Aggregate,
    Attempted,
    Call,
    Contract,
    Done,
    Participant,
    Rejected,
    Retry,
    Saga,
    UnitOfWork,
    effect,
    pivot,
    retriable,
    transaction,
)

__all__ = ["Booking", "Transfer", "TransferMoney", "transfer_money"]

TIMEOUT = timedelta(seconds=5)
UNTIL_AN_ANSWER = Retry(max_attempts=None, longest=timedelta(minutes=1))


# The bank keeps the first answer to each key, and refuses a hold that comes after its void.
BANK = Participant("bank", contract=Contract.REMEMBERS_UNDO)


class TransferMoney(BaseModel):
    """The requested transfer."""

    transfer_id: str
    payer: str
    payee: str
    amount: Annotated[Decimal, Field(gt=0, max_digits=17, decimal_places=2)]

    @model_validator(mode="after")
    def _between_two(self) -> Self:
        if self.payer == self.payee:
            raise ValueError(f"payer and payee are both {self.payer}: name two accounts")
        return self


class Booking(BaseModel):
    """An entry of the bank's ledger: its key and its number."""

    key: str
    entry: int


class Transfer(Aggregate):
    """The intent to move money; the run shows whether it was moved."""

    @event("Noted")
    def __init__(self, id: str, payer: str, payee: str, amount: Decimal, run_id: str) -> None:  # noqa: A002, ARG002
        self.payer, self.payee, self.amount, self.run_id = payer, payee, amount, run_id
        self.called_off = False

    @event("CalledOff")
    def call_off(self) -> None:
        """Withdraw the intent."""
        self.called_off = True


@transaction
def note_transfer(order: TransferMoney, uow: UnitOfWork) -> None:
    """Record the intent: exactly once, because it is in our store."""
    noted = uow.find(Transfer, order.transfer_id)
    if noted is not None:
        raise Rejected(f"transfer {order.transfer_id} was noted before, by run {noted.run_id}")
    uow.add(Transfer(order.transfer_id, order.payer, order.payee, order.amount, uow.run_id))


@note_transfer.compensation
def call_off(done: Done[TransferMoney, None], uow: UnitOfWork) -> None:
    """Keep the transfer, and that it came to nothing."""
    uow.get(Transfer, done.input.transfer_id).call_off()


@effect(participant=BANK, timeout=TIMEOUT, retry=Retry(max_attempts=4, first=timedelta(milliseconds=100)))
async def hold_money(order: TransferMoney, call: Call) -> Booking:
    """Put the money on hold at the payer's account."""
    return await book("hold", call.key, {"account": order.payer, "amount": str(order.amount)})


@hold_money.probe
async def find_hold(_: TransferMoney, call: Call) -> Booking | None:
    """Ask the bank for the outcome of the hold, after every attempt ended without an answer."""
    return await find(call.key)


@hold_money.compensation
async def void_hold(_: Attempted[TransferMoney, Booking], call: Call) -> None:
    """Release the money if it is on hold; the bank then refuses the hold if it comes late.

    `release` would not do: the bank refuses to release what it does not hold, and would then hold it after all.
    """
    await book("void", call.key, {"key": call.do_key})


@effect(participant=BANK, timeout=TIMEOUT)
async def deposit_money(order: TransferMoney, call: Call) -> Booking:
    """Deposit the money at the payee's account."""
    return await book("deposit", call.key, {"account": order.payee, "amount": str(order.amount)})


@effect(participant=BANK, timeout=TIMEOUT)
async def confirm_hold(_: TransferMoney, call: Call) -> Booking:
    """Remove the money on hold from the payer's account for good."""
    return await book("confirm", call.key, {"hold": call.result_of(hold_money).key})


transfer_money = Saga(
    "transfer-money",
    TransferMoney,
    note_transfer,
    hold_money,
    pivot(deposit_money, retry=UNTIL_AN_ANSWER),
    retriable(confirm_hold),
    keys=("transfer_id", "payer", "payee"),
)


class NoAnswerError(Exception):
    """The bank did not answer with the outcome of a call; Amends calls again under the same key."""


async def book(operation: str, key: str, body: dict[str, str]) -> Booking:
    """Call an operation of the bank, which it applies once per key.

    Raises:
        Rejected: The bank refused, and nothing happened.
        NoAnswerError: The outcome is unknown.
    """
    answer = await ask("POST", f"/{operation}", json=body, headers={"Idempotency-Key": key})
    entry = answer.json()
    if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        raise Rejected(entry["reason"])
    if answer.status_code != httpx.codes.OK:
        raise NoAnswerError(f"{operation}: {answer.status_code} {entry['error']}: {entry['reason']}")
    return Booking(key=key, entry=entry["sequence"])


async def find(key: str) -> Booking | None:
    """Ask the bank for the outcome under a key; `None` if nothing took effect and nothing will.

    Raises:
        Rejected: The bank had refused.
        NoAnswerError: Nothing happened so far, which may change: the call may still be on its way.
    """
    answer = await ask("GET", f"/operations/{quote(key, safe='')}")
    if answer.status_code != httpx.codes.OK:
        raise NoAnswerError(f"nothing is known of key {key}; its call may still be on its way")
    entry = answer.json()
    if entry["outcome"] == "refused":
        raise Rejected(entry["reason"])
    voided = entry["outcome"] == "voided" or entry["voided_by"] is not None
    return None if voided else Booking(key=key, entry=entry["sequence"])


async def ask(method: str, path: str, **request: Any) -> httpx.Response:  # noqa: ANN401 - as httpx has them
    """Call the bank, at `BANK_URL` or at the port of the README.

    Raises:
        NoAnswerError: There was no reply.
    """
    base_url = os.environ.get("BANK_URL", "http://127.0.0.1:8703")
    async with httpx.AsyncClient(base_url=base_url) as http:
        try:
            return await http.request(method, path, **request)
        except httpx.TransportError as error:
            raise NoAnswerError(f"no reply to {path} of {base_url}: {str(error) or type(error).__name__}") from error
