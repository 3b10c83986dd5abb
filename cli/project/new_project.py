"""The files of the project that `amends init` creates; a test runs them, and every command printed with them."""

__all__ = ["FILES", "SAGA", "TRY_NEXT"]

SAGA = "book-trip"
"""Name of the saga that the project defines."""

_SETTINGS = """\
# Settings of this project; `amends doctor` shows them all. AMENDS_MODULES and so on override them.
modules = ["trips"]
"""

_MODULE = '''\
"""Booking a trip: a room of our own, a payment at somebody else's, and what undoes them."""

import asyncio
from datetime import timedelta

from eventsourcing.domain import event
from pydantic import BaseModel, PositiveInt

from amends import Aggregate, Attempted, Call, Done, Rejected, Retry, Saga, UnitOfWork, effect, pivot, transaction


class Trip(BaseModel):
    """What a run of the saga is started with."""

    guest: str
    hotel: str
    nights: PositiveInt
    card: str


class Hotel(Aggregate):
    """Rooms that we let; its events are kept in the same store as the journal."""

    @event("Opened")
    def __init__(self, id: str, rooms: int) -> None:
        self.rooms = rooms

    @event("RoomReserved")
    def reserve(self, guest: str) -> None:
        if self.rooms == 0:
            raise Rejected("no room is free")
        self.rooms -= 1

    @event("RoomReleased")
    def release(self, guest: str) -> None:
        self.rooms += 1


@transaction
def reserve_room(trip: Trip, uow: UnitOfWork) -> int:
    """Reserve a room; committed together with the fact that this step succeeded."""
    hotel = uow.find(Hotel, trip.hotel) or uow.add(Hotel(trip.hotel, rooms=10))
    hotel.reserve(trip.guest)
    return hotel.rooms


@reserve_room.compensation
def release_room(done: Done[Trip, int], uow: UnitOfWork) -> None:
    uow.get(Hotel, done.input.hotel).release(done.input.guest)


@effect(timeout=timedelta(seconds=10), retry=Retry(max_attempts=5))
async def pay(trip: Trip, call: Call) -> str:
    """Charge the card at the payment provider; give it `call.key`, so that it recognises a repeated call."""
    await asyncio.sleep(0.5)  # the call of your payment provider stands here
    if trip.card == "declined":
        raise Rejected("the card was declined")
    return f"receipt-{call.key}"


@pay.compensation
async def refund(tried: Attempted[Trip, str], call: Call) -> None:
    """Pay back; `tried.result` is None where it is not known whether the card was charged."""
    await asyncio.sleep(0.5)


@transaction
def confirm(trip: Trip, uow: UnitOfWork) -> str:
    return f"{trip.guest} stays {trip.nights} nights: {uow.result_of(pay)}"


book_trip = Saga("book-trip", Trip, reserve_room, pay, pivot(confirm), keys=("guest",))
'''

_TEST = '''\
"""Tests of the saga without a server: given, when, then. Run them with `python -m pytest`."""

from trips import Hotel, Trip, book_trip, pay

from amends import Rejected
from amends.testing import Scenario

TRIP = Trip(guest="Ada", hotel="Seaside", nights=2, card="4242")


def test_a_paid_trip_takes_a_room() -> None:
    with Scenario(book_trip) as scenario:
        then = scenario.given(Hotel("Seaside", rooms=3)).answers(pay, "receipt-1").when(TRIP).completed()
        assert then.aggregate(Hotel, "Seaside").rooms == 2


def test_a_declined_card_gives_the_room_back() -> None:
    with Scenario(book_trip) as scenario:
        scenario.given(Hotel("Seaside", rooms=3)).answers(pay, Rejected("declined"))
        then = scenario.when(TRIP).compensated("reserve_room")
        assert then.aggregate(Hotel, "Seaside").rooms == 3
'''

TRY_NEXT = (
    (
        """amends run book-trip '{"guest": "Ada", "hotel": "Seaside", "nights": 2, "card": "4242"}' --id ada-1""",
        "completes",
    ),
    (
        """amends run book-trip '{"guest": "Bob", "hotel": "Seaside", "nights": 1, "card": "declined"}' --id bob-1""",
        "is compensated",
    ),
    ("amends list", "both runs"),
    ("amends history bob-1", "every fact of one"),
    ("python -m pytest", "the saga's tests; needs pytest"),
    ("amends dev", "keeps server and worker running, with a web page; Ctrl-C ends it"),
)
"""Commands to try in the new project, in this order, each with its purpose."""

_README = "# Trips\n\nA project of Amends: its sagas stand in `trips.py`.\n\n" + "\n".join(
    ["```sh", *(f"{command}  # {what}" for command, what in TRY_NEXT), "```", ""]
)

FILES = {"amends.toml": _SETTINGS, "trips.py": _MODULE, "test_trips.py": _TEST, "README.md": _README}
"""Content by file name."""
