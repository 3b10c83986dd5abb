"""A carrier: quotes a price, books a parcel, cancels it.

| operation | body | refused when |
|---|---|---|
| `quote` | `order_id`, `quantity`, optional `zone` | the zone is not served, or the parcel is too large |
| `book` | `order_id`, `quantity`, optional `zone` | as above, or every place is taken |
| `cancel` | `booking_id` | the booking is unknown or was cancelled |
| `void` | `key` of any of these | the booking was cancelled under another key; no place is free to book again |

`GET /bookings` shows the bookings. Run: `python -m services.shipping --data DIR`.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, Field, JsonValue

from services.ledger import Call, Effect, Entry, Refused
from services.service import arguments, serve
from services.values import Body, Name

__all__ = ["Cancellation", "Parcel", "Shipping"]

PRICE_BY_ZONE = {"domestic": Decimal("4.90"), "europe": Decimal("9.90"), "world": Decimal("24.90")}
LARGEST_PARCEL = 100


class Parcel(Body):
    """A parcel, and its distance."""

    order_id: Name
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]
    zone: Name = "domestic"


class Cancellation(Body):
    """A booking to cancel."""

    booking_id: Name


class Shipping:
    """The carrier's books.

    Args:
        places: Number of parcels that can be booked at the same time.
    """

    name = "shipping"
    view = "bookings"
    operations: Mapping[str, type[BaseModel]] = {"quote": Parcel, "book": Parcel, "cancel": Cancellation}

    def __init__(self, places: int) -> None:
        self._places = places
        self._booked: dict[str, Effect] = {}

    def decide(self, call: Call) -> Effect:
        """Quote and book parcels within the limits; cancel bookings."""
        match call.request:
            case Parcel(order_id=order_id, quantity=quantity, zone=zone):
                price = _price(quantity, zone)
                if call.op == "quote":
                    quote_id = f"quote-{call.sequence}"
                    return {"type": "quoted", "quote_id": quote_id, "order_id": order_id, "price": price}
                return self._book(f"booking-{call.sequence}", order_id, price)
            case Cancellation(booking_id=booking_id):
                return self._cancel(booking_id)
        raise Refused(f"{call.op} is not offered")

    def reverse(self, done: Entry) -> Effect:
        """Withdraw a quote, cancel a booking, restore a cancelled booking."""
        effect = done.effect or {}
        match effect["type"]:
            case "booked":
                return self._cancel(effect["booking_id"])
            case "cancelled":
                return self._book(effect["booking_id"], effect["order_id"], effect["price"])
        return {**effect, "type": "quote withdrawn"}

    def evolve(self, key: str, effect: Effect) -> None:  # noqa: ARG002 - bookings have ids of their own
        """Keep the order of each booking; quotes bind nobody."""
        match effect["type"]:
            case "booked":
                self._booked[effect["booking_id"]] = effect
            case "cancelled":
                del self._booked[effect["booking_id"]]

    def snapshot(self) -> Mapping[str, JsonValue]:
        """Order and price by booking id."""
        return {
            booking_id: {"order_id": booking["order_id"], "price": booking["price"]}
            for booking_id, booking in self._booked.items()
        }

    def _book(self, booking_id: str, order_id: str, price: str) -> Effect:
        if len(self._booked) >= self._places:
            raise Refused(f"all {self._places} places are taken")
        return {"type": "booked", "booking_id": booking_id, "order_id": order_id, "price": price}

    def _cancel(self, booking_id: str) -> Effect:
        booking = self._booked.get(booking_id)
        if booking is None:
            raise Refused(f"{booking_id} is not booked")
        return {**booking, "type": "cancelled"}


def _price(quantity: int, zone: str) -> str:
    if zone not in PRICE_BY_ZONE:
        raise Refused(f"zone {zone} is not served, only {', '.join(PRICE_BY_ZONE)}")
    if quantity > LARGEST_PARCEL:
        raise Refused(f"{quantity} pieces are too many for one parcel, at most {LARGEST_PARCEL}")
    return str(PRICE_BY_ZONE[zone])


def main() -> None:
    """Serve until stopped."""
    parser = arguments("A carrier that remembers every key.")
    parser.add_argument("--places", type=int, default=1000, help="parcels that can be booked at the same time")
    options = parser.parse_args()
    serve(Shipping(options.places), options)


if __name__ == "__main__":
    main()
