"""A project whose steps fail in every way."""

from pathlib import Path

from commands import CommandProject

MODULE = """
from pydantic import BaseModel

from amends import Attempted, Call, Done, Retry, Saga, UnitOfWork, effect, transaction


class Order(BaseModel):
    order_id: str
    amount: float = 1.0


@transaction
def note_down(order: Order, uow: UnitOfWork) -> str:
    return order.order_id


@note_down.compensation
def strike_out(done: Done[Order, str], uow: UnitOfWork) -> None:
    pass


@effect(retry=Retry(max_attempts=1))
async def raise_at_once(order: Order, call: Call) -> None:
    raise RuntimeError("the machine is\\n[red]broken\\x1b[0m")


@raise_at_once.compensation
async def mend(tried: Attempted[Order, None], call: Call) -> None:
    pass


@transaction(retry=Retry(max_attempts=1))
def raise_in_transaction(order: Order, uow: UnitOfWork) -> None:
    raise ZeroDivisionError("division by zero")


@raise_in_transaction.compensation
def nothing_to_mend(done: Done[Order, None], uow: UnitOfWork) -> None:
    pass


@transaction(retry=Retry(max_attempts=1))
def give_an_object(order: Order, uow: UnitOfWork) -> str:
    return object()


@give_an_object.compensation
def take_it_back(done: Done[Order, str], uow: UnitOfWork) -> None:
    pass


@effect(retry=Retry(max_attempts=1))
async def answer_nan(order: Order, call: Call) -> float:
    return float("nan")


@answer_nan.compensation
async def forget(tried: Attempted[Order, float], call: Call) -> None:
    pass


@effect(retry=Retry(max_attempts=1))
async def answer_at_length(order: Order, call: Call) -> str:
    return "x" * 2_000


@answer_at_length.compensation
async def shorten(tried: Attempted[Order, str], call: Call) -> None:
    pass


fine = Saga("fine", Order, note_down)
raising = Saga("raising", Order, note_down, raise_at_once)
raising_transaction = Saga("raising-transaction", Order, note_down, raise_in_transaction)
unwritable = Saga("unwritable", Order, note_down, give_an_object)
nan = Saga("nan", Order, note_down, answer_nan)
lengthy = Saga("lengthy", Order, note_down, answer_at_length)
"""
SETTINGS = 'modules = ["shop"]\nmax_input_bytes = 1000\nmax_result_bytes = 1000\n'


def scaffold(path: Path) -> CommandProject:
    """Create a project with every saga of this file."""
    project = CommandProject(path)
    project.write("amends.toml", SETTINGS)
    project.write("shop.py", MODULE)
    return project
