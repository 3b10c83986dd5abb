"""A drift rule: it compares the bank's log with our ledger, and books each difference after an approval.

Our ledger of ended transfers holds the movements that must exist; the bank's log holds those that do. Three things can
be wrong:

| kind | difference |
|---|---|
| `different` | the bank moved another amount, or moved only one side of it |
| `missing` | the bank has no trace of a transfer that we call completed |
| `unexpected` | the bank has a movement that belongs to none of our transfers |

A program cannot find out which side is right, and must not move money on a guess. So the rule only *proposes* to
put the difference on our books as an open item, with the cause, where it stays until people have settled it with the
bank. From then on our books contain the bank's view, and the next scan finds nothing.

If the bank is away, answers with nothing or omits a part, the scan fails. The bank's log has no
version that could be compared again, so two scans must find a difference before it is booked.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import httpx
from eventsourcing.domain import event
from pydantic import JsonValue
from transfer import NoAnswerError, Transfer, ask

from amends import (
    Aggregate,
    Cause,
    Command,
    Drift,
    DriftKind,
    Observation,
    RunQuery,
    RunStatus,
    ScanFailed,
    UnitOfWork,
    drift_rule,
)

__all__ = ["OpenItem", "bank_log", "book_difference"]

PAGE = 100
NOTHING = Decimal("0.00")
OVER = frozenset({RunStatus.COMPLETED, RunStatus.COMPENSATED})


class Movement(NamedTuple):
    """The movements of a transfer: out of an account for good, into one, and on hold."""

    taken: Decimal = NOTHING
    given: Decimal = NOTHING
    held: Decimal = NOTHING

    def plus(self, other: "Movement", amount: Decimal) -> "Movement":
        """Add an effect of the bank's, `amount` times."""
        return Movement(*(mine + amount * theirs for mine, theirs in zip(self, other, strict=True)))

    def as_json(self) -> dict[str, JsonValue] | None:
        """Return the amounts that are not zero; `None` if nothing moved."""
        return {name: f"{value:.2f}" for name, value in self._asdict().items() if value} or None


ONE = Decimal(1)
# The effect of an entry in the bank's log on its amount. Accounts are opened with money of their own.
EFFECTS = {
    "held": Movement(held=ONE),
    "released": Movement(held=-ONE),
    "confirmed": Movement(held=-ONE, taken=ONE),
    "reopened": Movement(held=ONE, taken=-ONE),
    "deposited": Movement(given=ONE),
    "withdrawn": Movement(given=-ONE),
}


class OpenItem(Aggregate):
    """A difference between our books and the bank's, until people have settled it."""

    @event("Booked")
    def __init__(self, id: str, ours: JsonValue, bank: JsonValue, cause: str) -> None:  # noqa: A002, ARG002 - the event
        self.ours, self.bank = ours, bank

    @event("Restated")
    def restate(self, bank: JsonValue, cause: str) -> None:  # noqa: ARG002 - kept in the event
        """Record a new view of the bank; if it agrees with ours, the item is settled."""
        self.bank = bank


class Difference(NamedTuple):
    """A difference to be booked."""

    transfer: str
    ours: JsonValue
    bank: JsonValue


def book_difference(found: Difference, cause: Cause, uow: UnitOfWork) -> None:
    """Book a difference; the event names the fact that led to it."""
    item = uow.find(OpenItem, found.transfer)
    if item is None:
        uow.add(OpenItem(found.transfer, found.ours, found.bank, cause.fact))
    else:
        item.restate(found.bank, cause.fact)


@drift_rule("bank-log", every=timedelta(minutes=10), mode="propose")
async def bank_log(observation: Observation) -> AsyncIterator[Drift]:
    """The bank has moved the amounts of our ledger, and nothing else."""
    # Our side first: a transfer that ended before we ask the bank must be in its log completely.
    ours = dict(ledger(observation))
    observation.scanned(len(ours))
    theirs = await movements()
    for transfer in sorted({*ours, *theirs}):
        if transfer not in ours and observation.record(transfer) is not None:
            continue  # under way, or ended only now
        item = observation.load(OpenItem, transfer)
        expected = ours.get(transfer, Movement()).as_json()
        known: JsonValue = expected if item is None else item.bank
        actual = theirs.get(transfer, Movement()).as_json()
        if actual != known:
            yield Drift(
                subject=transfer,
                kind=kind_of(known, actual),
                expected=known,
                actual=actual,
                evidence="the bank's log",
                correction=Command(book_difference, Difference(transfer, expected, actual)),
            )


def kind_of(expected: JsonValue, actual: JsonValue) -> DriftKind:
    """Return the difference between the movements that must exist and those that do."""
    if actual is None:
        return DriftKind.MISSING
    return DriftKind.UNEXPECTED if expected is None else DriftKind.DIFFERENT


def ledger(observation: Observation) -> Iterator[tuple[str, Movement]]:
    """Yield each ended transfer with the movements that its run requires of the bank."""
    for run in observation.runs(RunQuery(saga="transfer-money", statuses=OVER, limit=PAGE)):
        moved = Movement()
        if run.status is RunStatus.COMPLETED:
            noted = observation.load(Transfer, run.keys["transfer_id"])
            if noted is None:
                raise ScanFailed(f"transfer {run.keys['transfer_id']} of run {run.run_id} was not noted")
            moved = Movement(taken=noted.amount, given=noted.amount)
        yield run.run_id, moved


async def movements() -> dict[str, Movement]:
    """Add up the bank's log by transfer, whose id is the beginning of every key that we use.

    Raises:
        ScanFailed: The bank does not answer, or with less than its whole log.
    """
    moved: defaultdict[str, Movement] = defaultdict(Movement)
    read = 0
    while page := await log_page(after=read):
        for entry in page:
            read += 1
            if entry["sequence"] != read:
                raise ScanFailed(f"entry {read} is missing in the bank's log")
            effect = entry.get("effect")
            if effect is not None and effect["type"] in EFFECTS:
                transfer = entry["key"].partition("/")[0]
                moved[transfer] = moved[transfer].plus(EFFECTS[effect["type"]], Decimal(effect["amount"]))
    if not read:
        raise ScanFailed("the bank's log is empty, where at least our accounts were opened")
    return moved


async def log_page(*, after: int) -> list[dict[str, Any]]:
    """Read the next part of the bank's log.

    Raises:
        ScanFailed: The bank does not answer.
    """
    try:
        answer = await ask("GET", f"/log?outcome=all&after={after}&limit={PAGE}")
    except NoAnswerError as error:
        raise ScanFailed(str(error)) from error
    if answer.status_code != httpx.codes.OK:
        raise ScanFailed(f"the bank answers with status {answer.status_code}")
    entries: list[dict[str, Any]] = answer.json()
    return entries
