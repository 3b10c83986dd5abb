"""A payment provider: charges cards, refunds charges.

| operation | body | refused when |
|---|---|---|
| `charge` | `order_id`, `amount`, optional `card` | the amount is over the limit, or the card starts with `declined` |
| `refund` | `payment_id`, `amount` | the payment is unknown, or its rest is smaller than that |
| `void` | `key` of a charge | it is the key of a refund, which is final |

`GET /payments` shows payments and refunds. Run: `python -m services.payment --data DIR`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from pydantic import BaseModel, JsonValue

from services.ledger import Call, Effect, Entry, Refused
from services.service import arguments, serve
from services.values import Amount, Body, Name

__all__ = ["Charge", "Payments", "Refund"]


class Charge(Body):
    """A request to charge a card."""

    order_id: Name
    amount: Amount
    card: Name = "card-on-file"


class Refund(Body):
    """A request to refund all or a part of a payment."""

    payment_id: Name
    amount: Amount


@dataclass
class Payment:
    """A charge, and the amount of it that was refunded."""

    order_id: str
    amount: Decimal
    refunded: Decimal = Decimal("0.00")


class Payments:
    """The provider's books.

    Args:
        limit: Largest amount of one charge.
    """

    name = "payment"
    view = "payments"
    operations: Mapping[str, type[BaseModel]] = {"charge": Charge, "refund": Refund}

    def __init__(self, limit: Decimal) -> None:
        self._limit = limit
        self._payments: dict[str, Payment] = {}

    def decide(self, call: Call) -> Effect:
        """Charge within the limit; refund at most the rest."""
        match call.request:
            case Charge(order_id=order_id, amount=amount, card=card):
                if card.startswith("declined"):
                    raise Refused(f"card {card} was declined")
                if Decimal(amount) > self._limit:
                    raise Refused(f"{amount} is over the limit of {self._limit}")
                payment_id = f"payment-{call.sequence}"
                return {"type": "charged", "payment_id": payment_id, "order_id": order_id, "amount": amount}
            case Refund(payment_id=payment_id, amount=amount):
                return self._refund(payment_id, Decimal(amount))
        raise Refused(f"{call.op} is not offered")

    def reverse(self, done: Entry) -> Effect:
        """Refund the rest of a charge."""
        effect = done.effect or {}
        if effect["type"] == "refunded":
            raise Refused("a refund is final: charge again instead")
        payment = self._payments[effect["payment_id"]]
        return self._refund(effect["payment_id"], payment.amount - payment.refunded)

    def evolve(self, key: str, effect: Effect) -> None:  # noqa: ARG002 - payments have ids of their own
        """Add a payment for a charge; add a refund to its payment."""
        amount = Decimal(effect["amount"])
        if effect["type"] == "charged":
            self._payments[effect["payment_id"]] = Payment(effect["order_id"], amount)
        else:
            self._payments[effect["payment_id"]].refunded += amount

    def snapshot(self) -> Mapping[str, JsonValue]:
        """Order, amount and refunded amount by payment id."""
        return {
            payment_id: {
                "order_id": payment.order_id,
                "amount": str(payment.amount),
                "refunded": str(payment.refunded),
            }
            for payment_id, payment in self._payments.items()
        }

    def _refund(self, payment_id: str, amount: Decimal) -> Effect:
        payment = self._payments.get(payment_id)
        if payment is None:
            raise Refused(f"there is no payment {payment_id}")
        if amount > payment.amount - payment.refunded:
            raise Refused(f"{amount} is more than the {payment.amount - payment.refunded} left of {payment_id}")
        return {"type": "refunded", "payment_id": payment_id, "amount": str(amount)}


def main() -> None:
    """Serve until stopped."""
    parser = arguments("A payment provider that remembers every key.")
    parser.add_argument("--limit", type=Decimal, default=Decimal("1000.00"), help="largest amount of one charge")
    options = parser.parse_args()
    serve(Payments(options.limit), options)


if __name__ == "__main__":
    main()
