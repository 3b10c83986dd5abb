"""Payment events from a payment provider: each one is credited to the customer's account once.

The provider publishes at least once, so some events come twice. The pipeline commits the position in the stream, the id
of the event and the credit together. A payment that the handler refuses is set aside with the later ones of its
customer; the other customers' payments go on.
"""

import os

from eventsourcing.domain import event
from pydantic import BaseModel, PositiveInt

from amends import Aggregate, NatsSource, Pipeline, Rejected, StepWork

__all__ = ["STREAM", "SUBJECTS", "Account", "Payment", "credit", "payments"]

STREAM = "PAYMENTS"
SUBJECTS = "payment.*"
SERVER = os.environ.get("NATS_URL", "nats://127.0.0.1:8704")


class Payment(BaseModel):
    """An event of the provider: a customer has paid."""

    payment_id: str
    customer: str
    cents: PositiveInt
    currency: str = "EUR"


class Account(Aggregate):
    """The payments of a customer.

    Attributes:
        cents: Their sum.
        payment_ids: The id of each credit, in order; a payment that was credited twice would be there twice.
    """

    @event("Opened")
    def __init__(self, id: str) -> None:  # noqa: A002, ARG002 - the signature of aggregates
        self.cents = 0
        self.payment_ids: list[str] = []

    @event("Credited")
    def credit(self, payment_id: str, cents: int) -> None:
        """Add a payment."""
        self.cents += cents
        self.payment_ids.append(payment_id)


def payment_id_of(payment: Payment) -> str:
    """Return the id: two events with one id are one payment."""
    return payment.payment_id


def customer_of(payment: Payment) -> str:
    """Return the key: the payments of a customer keep their order."""
    return payment.customer


payments = Pipeline("payments", NatsSource(STREAM, servers=SERVER), Payment, id=payment_id_of, key=customer_of)


@payments.handles
def credit(payment: Payment, work: StepWork) -> None:
    """Credit a payment."""
    if payment.currency != "EUR":
        raise Rejected(f"accounts are in EUR, and the payment is in {payment.currency}")
    account = work.find(Account, payment.customer) or work.add(Account(id=payment.customer))
    account.credit(payment.payment_id, payment.cents)
