"""A bank, as an outside system: accounts, holds, and a ledger on disk that each effect enters once.

| operation | body | moves | refused when |
|---|---|---|---|
| `open` | `account`, `amount` | into a new account | the account exists |
| `deposit` | `account`, `amount` | from outside into the balance | the account is unknown |
| `withdraw` | `account`, `amount` | from the balance to outside | unknown, or insufficient funds |
| `hold` | `account`, `amount` | from the balance to held | unknown, or insufficient funds |
| `release` | `hold`: the key of the hold | from held to the balance | there is no such hold (any more) |
| `confirm` | `hold` | from held to outside | there is no such hold (any more) |
| `void` | `key` of any of these but `open` | back | the amount is no longer there |

`GET /accounts` shows balances and held amounts. The rest of the HTTP interface (keys, log, attempts, faults) is the one
of the orders example's services, described in `services/service.py`; copy that `services` folder next to this file to
use the bank elsewhere. Run: `python bank.py --data DIR --open alice=100.00 --open bob=0.00`.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, JsonValue, ValidationError

# Next to this file first (a copy), else in the orders example.
sys.path.append(str(Path(__file__).resolve().parent.parent / "orders"))

from services.ledger import Call, Effect, Entry, Ledger, Refused
from services.service import arguments, serve
from services.values import Amount, Balance, Body, Key, Name

__all__ = ["Bank", "HoldReference", "Money", "NewAccount"]

# The share of an effect's amount that goes to the balance and to held: all of the bank's bookkeeping.
MOVES = {
    "opened": (+1, 0),
    "deposited": (+1, 0),
    "withdrawn": (-1, 0),
    "held": (-1, +1),
    "released": (+1, -1),
    "confirmed": (0, -1),
    "reopened": (0, +1),
}
# The effect that takes another back; an account stays open.
REVERSE = {
    "deposited": "withdrawn",
    "withdrawn": "deposited",
    "held": "released",
    "released": "held",
    "confirmed": "reopened",
}
EFFECT_OF = {
    "deposit": "deposited",
    "withdraw": "withdrawn",
    "hold": "held",
    "release": "released",
    "confirm": "confirmed",
}
# The state that a hold must have for an effect on it, and its state afterwards.
HOLD_BEFORE = {"held": "released", "released": "held", "confirmed": "held", "reopened": "confirmed"}
HOLD_AFTER = {"held": "held", "released": "released", "confirmed": "confirmed", "reopened": "held"}


class Money(Body):
    """An amount in, out of, or on hold in an account."""

    account: Name
    amount: Amount


class NewAccount(Body):
    """An account and its opening balance."""

    account: Name
    amount: Balance


class HoldReference(Body):
    """A hold, by its idempotency key."""

    hold: Key


class Account(NamedTuple):
    """The amount that can be spent, and the amount on hold."""

    balance: Decimal
    held: Decimal


@dataclass
class Hold:
    """The account and amount of a hold, and its state: held, released or confirmed."""

    account: str
    amount: str
    status: str


class Bank:
    """The bank's books: no account ever has less than nothing."""

    name = "bank"
    view = "accounts"
    operations: Mapping[str, type[BaseModel]] = {
        "open": NewAccount,
        "deposit": Money,
        "withdraw": Money,
        "hold": Money,
        "release": HoldReference,
        "confirm": HoldReference,
    }

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._holds: dict[str, Hold] = {}

    def decide(self, call: Call) -> Effect:
        """Decide a move; refuse it if it would leave an amount below zero."""
        match call.request:
            case NewAccount(account=account, amount=amount):
                if account in self._accounts:
                    raise Refused(f"account {account} exists")
                return {"type": "opened", "account": account, "amount": amount}
            case Money(account=account, amount=amount):
                effect = {"type": EFFECT_OF[call.op], "account": account, "amount": amount}
                return self._possible({**effect, "hold": call.key} if call.op == "hold" else effect)
            case HoldReference(hold=key):
                if key not in self._holds:
                    raise Refused(f"there is no hold under key {key}")
                return self._on_hold(EFFECT_OF[call.op], key)
        raise Refused(f"{call.op} is not offered")

    def reverse(self, done: Entry) -> Effect:
        """Move the same amount back, if it is still where it was moved to."""
        effect = done.effect or {}
        back = REVERSE.get(effect["type"])
        if back is None:
            raise Refused(f"account {effect['account']} stays open: withdraw from it instead")
        if "hold" in effect:
            return self._on_hold(back, effect["hold"])
        return self._possible({"type": back, "account": effect["account"], "amount": effect["amount"]})

    def evolve(self, key: str, effect: Effect) -> None:  # noqa: ARG002 - an effect names its hold
        """Move the amount as `MOVES` says."""
        self._accounts[effect["account"]] = self._moved(effect)
        if "hold" in effect:
            status = HOLD_AFTER[effect["type"]]
            self._holds[effect["hold"]] = Hold(effect["account"], effect["amount"], status)

    def snapshot(self) -> Mapping[str, JsonValue]:
        """Balance and held amount by account."""
        return {
            name: {"balance": str(account.balance), "held": str(account.held)}
            for name, account in self._accounts.items()
        }

    def _on_hold(self, type_: str, key: str) -> Effect:
        hold = self._holds[key]
        if hold.status != HOLD_BEFORE[type_]:
            raise Refused(f"the hold under key {key} is {hold.status}, so it cannot be {type_}")
        return self._possible({"type": type_, "account": hold.account, "amount": hold.amount, "hold": key})

    def _possible(self, effect: Effect) -> Effect:
        if effect["account"] not in self._accounts:
            raise Refused(f"account {effect['account']} is unknown")
        if min(self._moved(effect)) < 0:
            balance = self._accounts[effect["account"]].balance
            raise Refused(f"insufficient funds: {effect['amount']} asked of {effect['account']}, which has {balance}")
        return effect

    def _moved(self, effect: Effect) -> Account:
        before = self._accounts.get(effect["account"], Account(Decimal("0.00"), Decimal("0.00")))
        to_balance, to_held = MOVES[effect["type"]]
        amount = Decimal(effect["amount"])
        return Account(before.balance + to_balance * amount, before.held + to_held * amount)


def _new_account(text: str) -> NewAccount:
    account, _, amount = text.partition("=")
    try:
        return NewAccount(account=account, amount=amount)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=AMOUNT, such as alice=100.00") from error


def main() -> None:
    """Serve until stopped; accounts named on the command line are opened once."""

    def open_accounts(ledger: Ledger) -> None:
        for account in options.open:
            ledger.perform("open", f"open/{account.account}", account)

    parser = arguments("A bank that remembers every key.")
    parser.add_argument(
        "--open", type=_new_account, action="append", default=[], metavar="NAME=AMOUNT", help="an account to start with"
    )
    options = parser.parse_args()
    serve(Bank(), options, open_accounts)


if __name__ == "__main__":
    main()
