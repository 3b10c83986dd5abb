"""A project whose pipeline reads payments from JSON lines files; a negative amount fails."""

import json
from collections.abc import Iterable
from pathlib import Path

from commands import CommandProject

__all__ = ["NAME", "payments_at", "send"]

NAME = "payments"

_MODULE = '''
from pydantic import BaseModel

from amends import JsonLinesSource, Pipeline, StepWork


class Payment(BaseModel):
    id: str
    customer: str
    amount: int = 1


def id_of(payment: Payment) -> str:
    return payment.id


def customer_of(payment: Payment) -> str:
    return payment.customer


payments = Pipeline("payments", JsonLinesSource("in/*.jsonl"), Payment, id=id_of, key=customer_of)


@payments.handles
def book(payment: Payment, uow: StepWork) -> None:
    """Book a payment."""
    if payment.amount < 0:
        raise ValueError("negative")
    uow.send("booked", key=payment.customer, value={"id": payment.id})
'''


def payments_at(folder: Path) -> CommandProject:
    """Create the project, with an empty folder of files."""
    project = CommandProject(folder)
    project.write("shop.py", _MODULE)
    project.write("amends.toml", 'modules = ["shop"]\n')
    (folder / "in").mkdir()
    return project


def send(project: CommandProject, file: str, messages: Iterable[tuple[str, str, int]]) -> None:
    """Append messages to a file: id, customer and amount of each."""
    with (project.path / "in" / file).open("a") as lines:
        for id_, customer, amount in messages:
            lines.write(json.dumps({"id": id_, "customer": customer, "amount": amount}) + "\n")
