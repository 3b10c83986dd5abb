"""Type a session at the command line, and show it: `make demo`.

A dozen orders go through a real Temporal server; some fail at different steps, and one loses the reply of a payment
after the money was taken. Payment, shipping, and `amends dev` with its server are processes of their own. Then a bank
carries out transfers, and somebody changes its books behind the system's back; a drift rule finds that, and the
corrections go on our own books. The data of both examples stays in their `.amends` until the next session removes it.

The session stops every process that it started, by its process id, however it ends.
"""

import re
import sys
from contextlib import ExitStack
from pathlib import Path

from session import DATA, Session, run_session, start_afresh

HERE = Path(__file__).resolve().parent
TRANSFER = HERE.parent / "transfer"
LOSE_A_REPLY = '{"kind": "lose_reply", "op": "charge", "key_prefix": "o-05/"}'
HISTORIES = (
    ("o-01", "everything went well"),
    ("o-03", "the card is declined; nothing was paid, and the lamp is free again"),
    ("o-05", "the money is taken, but the reply is lost; the same key again, and it is taken once"),
    ("o-07", "stock and money are taken, but no carrier serves Atlantis; both are returned"),
)
ACCOUNTS = ("--open", "alice=100.00", "--open", "bob=20.00", "--open", "carol=0.00")
DAMAGE = ("--amount", "t-01=25.00", "--forget", "t-02", "--invent", "carol=99.00")
DRIFT_ID = re.compile(r"\b[0-9a-f]{12}\.\d+\b")
TRY_NEXT = (
    (HERE, "list --where sku=lamp", "the orders of one article"),
    (HERE, "catalog", "every step, and how it is undone"),
    (TRANSFER, "reconciliations", "every scan for drift, and its consequences"),
)


def play(session: Session) -> None:
    """Type the whole session."""
    start_afresh(session, HERE, TRANSFER)
    place_orders(session)
    session.remark("Another example: money goes from account to account, at a bank with a log of its own.")
    session.prompt("cd ../transfer")
    session.folder = TRANSFER
    reconcile_transfers(session)
    session.remark("All of it is stopped now; the facts stay in both examples' .amends until the next demo.")


def place_orders(session: Session) -> None:
    """Run orders, and let some of them be undone."""
    with ExitStack() as stack:
        session.remark(
            "Payment and shipping are other companies: services behind HTTP, each with its own log.",
            "Payment will take the money of order o-05, and then lose its reply, on purpose.",
        )
        python = "python -m services."
        stack.enter_context(session.service(f"{python}payment", "payment", "services.payment", "--fault", LOSE_A_REPLY))
        stack.enter_context(session.service(f"{python}shipping", "shipping", "services.shipping"))
        session.remark("A real Temporal server, and a worker that drives the sagas of storefront.py.")
        stack.enter_context(session.dev())
        session.remark("Three deliveries fill the warehouse; then come the orders of the day.")
        session.amends("run stock-up @deliveries.jsonl --id-field sku")
        session.amends("run place-order @orders.jsonl --id-field order_id", status=4)
        session.amends_each(
            ("Exit code 4: some were compensated, that is, their effects were undone.", "list"),
            *((f"{run_id}: {why}.", f"history {run_id}") for run_id, why in HISTORIES),
            ("After all of that record and world agree, no stock is held for an order that is over.", "drift"),
        )


def reconcile_transfers(session: Session) -> None:
    """Let the bank's books differ from ours, and correct that."""
    with session.service("python bank.py", "bank", "bank", *ACCOUNTS) as bank:
        session.amends("run transfer-money @transfers.jsonl --id-field transfer_id", status=4)
        session.remark(
            "While the bank is down somebody changes its books: one amount, a transfer that is deleted, and one",
            "that nobody ordered. No saga fails, and nobody notices.",
        )
        session.prompt("kill %?bank")
        bank.stop()
        session.python("tamper.py", "--data", f"{DATA}/bank", *DAMAGE)
        session.prompt(f"python bank.py --data {DATA}/bank --port {bank.base_url.rpartition(':')[2]} &")
        bank.restart()
        session.remark("Drift: the rule bank-log compares the log with our ledger. Exit code 1: it found some.")
        session.amends("drift", status=1)
        session.remark("It is about money, so the rule only proposes. The drifts are recorded, and wait for approval.")
        found = DRIFT_ID.findall(session.amends_said("reconcile bank-log", status=1))
        approvals = " ".join(f"--approve {drift}" for drift in dict.fromkeys(found))
        session.remark("Somebody has asked the bank and approves: the differences go on our books, as open items.")
        session.amends(f"reconcile bank-log {approvals} --reason 'asked the bank'")
        session.amends_each(
            ("The facts of that scan: each correction names the event that it wrote.", "reconciliation bank-log:2"),
            ("The corrective event, which names the fact that caused it.", "history OpenItem/t-01"),
            ("From here on our books and the bank's agree.", "drift"),
        )


if __name__ == "__main__":
    sys.exit(run_session(HERE, play, TRY_NEXT))
