"""Compare the stream of NATS with the credits in the store: neither a counter nor a position of Amends plays a part.

Run: `python count.py`, and name with `--skipped` a payment that you have skipped. The exit status is 1 if a payment is
missing or was credited more than once.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import nats
from nats.js.api import ConsumerConfig, DeliverPolicy
from payments import SERVER, STREAM, Account

from amends.aggregates.sql.journal import open_journal

__all__ = ["Counted", "compare", "published"]

STORE = Path(".amends/events.db")
AT_ONCE = 100_000


class Counted(NamedTuple):
    """The payments of the stream against the credits in the store.

    Attributes:
        messages: Number of messages in the stream.
        payments: Number of different ids among them.
        credited: Number of credits.
        missing: Ids without a credit that are neither held nor skipped.
        doubled: Ids with more than one credit.
        held: Ids of the held messages.
    """

    messages: int
    payments: int
    credited: int
    missing: list[str]
    doubled: list[str]
    held: list[str]

    def __str__(self) -> str:
        return (
            f"NATS: {self.messages} messages, {self.payments} payments\n"
            f"store: {self.credited} credits, {len(self.held)} payments held\n"
            f"missing: {len(self.missing)}, credited more than once: {len(self.doubled)}"
        )


def compare(sent: list[tuple[str, str]], url: str, skipped: Collection[str] = ()) -> Counted:
    """Compare messages with the store.

    Args:
        sent: Id and customer of each message.
        url: URL of the store.
        skipped: Ids of payments that need no credit.
    """
    journal = open_journal(url)
    held = {each.id for each in journal.intake.held("payments", limit=AT_ONCE)}
    credited: Counter[str] = Counter()
    for customer in {customer for _, customer in sent}:
        account = journal.load_blocking(Account, customer)
        credited.update([] if account is None else account.payment_ids)
    asyncio.run(journal.close())
    ids = {payment_id for payment_id, _ in sent}
    return Counted(
        messages=len(sent),
        payments=len(ids),
        credited=credited.total(),
        missing=sorted(ids - credited.keys() - held - set(skipped)),
        doubled=sorted(each for each, count in credited.items() if count > 1),
        held=sorted(held),
    )


async def published(server: str) -> list[tuple[str, str]]:
    """Return the id and the customer of every message in the stream, in order."""
    client = await nats.connect(server)
    stream = client.jetstream()
    count = (await stream.stream_info(STREAM)).state.messages
    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
    subscription = await stream.subscribe("", stream=STREAM, ordered_consumer=True, config=config)
    bodies = [json.loads((await subscription.next_msg(timeout=10)).data) for _ in range(count)]
    await client.close()
    return [(body["payment_id"], body["customer"]) for body in bodies]


def main() -> int:
    """Compare, and return the exit status."""
    parser = argparse.ArgumentParser(description="Compare the stream with the store.")
    parser.add_argument("--skipped", nargs="*", default=[], metavar="ID", help="payments that need no credit")
    options = parser.parse_args()
    counted = compare(asyncio.run(published(SERVER)), f"sqlite:///{STORE}", options.skipped)
    print(counted)
    return 1 if counted.missing or counted.doubled else 0


if __name__ == "__main__":
    sys.exit(main())
