"""Publish payments as the payment provider does: at least once, so that every fiftieth comes twice.

Run: `python provider.py --payments 2000 --seconds 8`. The first payment of the customer `c-013` is in a currency that
we do not accept. Each call continues with the next numbers, after the messages that the stream has.
"""

import argparse
import asyncio
from collections.abc import Iterator

import nats
from payments import SERVER, STREAM, Payment

__all__ = ["POISONED", "messages", "next_number", "publish"]

CUSTOMERS = 200
POISONED = "c-013"
TWICE_EVERY = 50
"""One payment of this many is published twice: 2 %."""
DELAY = 10
"""The second message comes this many payments later."""
PART = 50


def messages(first: int, payments: int) -> Iterator[Payment]:
    """Return payments with consecutive numbers; each fiftieth comes a second time, a little later."""
    for number in range(first, first + payments):
        yield _payment(number)
        if number % TWICE_EVERY == DELAY:
            yield _payment(number - DELAY)


def _payment(number: int) -> Payment:
    customer = f"c-{number % CUSTOMERS:03}"
    refused = customer == POISONED and number < CUSTOMERS
    return Payment(
        payment_id=f"p-{number:05}",
        customer=customer,
        cents=100 + number * 7 % 900,
        currency="DOGE" if refused else "EUR",
    )


async def publish(payments: int, seconds: float) -> str:
    """Publish payments, evenly over a time, and return a line about them.

    Args:
        payments: Number of different payments.
        seconds: The time.
    """
    client = await nats.connect(SERVER)
    stream = client.jetstream()
    state = (await stream.stream_info(STREAM)).state
    sent = list(messages(next_number(state.messages), payments))
    for start in range(0, len(sent), PART):
        part = sent[start : start + PART]
        await asyncio.gather(
            *[stream.publish(f"payment.{each.customer}", each.model_dump_json().encode()) for each in part]
        )
        await asyncio.sleep(seconds * len(part) / len(sent))
    await client.close()
    return f"published {len(sent)} messages with {payments} different ids"


def next_number(published: int) -> int:
    """Return the number of the next payment; calls publish whole fifties, of which each makes one message more."""
    return published * TWICE_EVERY // (TWICE_EVERY + 1)


def main() -> None:
    """Read the command line, and publish."""
    parser = argparse.ArgumentParser(description="Publish payments.")
    parser.add_argument("--payments", type=int, default=2000, help="number of payments, a multiple of 50")
    parser.add_argument("--seconds", type=float, default=0.0, help="time over which they are spread")
    options = parser.parse_args()
    if options.payments <= 0 or options.payments % TWICE_EVERY:
        parser.error(f"--payments is {options.payments}; use a multiple of {TWICE_EVERY}")
    print(asyncio.run(publish(options.payments, options.seconds)))


if __name__ == "__main__":
    main()
