"""Kill the consumer of a stream of payments, and count the payments afterwards: the second part of `make demo`.

A payment provider publishes to a NATS server that this session starts; 2 % of its messages come twice, and one customer
has a payment that is refused. `amends dev` takes the payments, is killed with -9 in the middle, and is started again. A
script counts the credits against NATS' own list of ids. The data stays in `.amends` until the next session removes it.

The session stops every process that it started, by its process id, however it ends.
"""

import asyncio
import sys
import time
from contextlib import ExitStack
from pathlib import Path

# The terminal session and the processes of services are those of the orders example.
sys.path.append(str(Path(__file__).resolve().parent.parent / "orders"))

from count import STORE
from payments import STREAM
from provider import POISONED, TWICE_EVERY
from session import DemoError, Session, run_session, start_afresh

from amends.aggregates.sql.journal import open_journal

HERE = Path(__file__).resolve().parent
PAYMENTS = 3_000
SECONDS = 6
KILLED_AT = 800
MORE = 500
REFUSED = 15
"""Position of the refused payment in the stream."""
REFUSED_ID = "p-00013"
BOUND_S = 60
STEP_S = 0.05
TRY_NEXT = (
    (HERE, "pipeline show payments", "its position, its mode, and the counts of its messages"),
    (HERE, f"history Account/{POISONED}", "every credit of the customer"),
)


def play(session: Session) -> None:
    """Type the whole session."""
    start_afresh(session, HERE)
    session.remark("The stream of a payment provider, on a NATS server of this machine.")
    with session.service("python broker.py", "nats", "broker", scheme="nats"):
        take_payments(session)
    session.remark("All of it is stopped now; the facts and the stream stay in .amends until the next demo.")


def take_payments(session: Session) -> None:
    """Kill the consumer while the provider publishes, start it again, and count."""
    session.remark(f"The provider publishes for {SECONDS} s; 2 % of its messages come twice. A worker takes them.")
    with ExitStack() as stack:
        consumer = stack.enter_context(session.dev())
        with session.script("provider.py", f"--payments={PAYMENTS}", f"--seconds={SECONDS}"):
            until_taken(KILLED_AT)
            session.remark("In the middle of it, somebody kills the worker, and starts it again.")
            session.prompt("kill -9 %?dev")
            consumer.kill()
            consumer.wait()
            stack.enter_context(session.dev())
        until_taken(PAYMENTS + PAYMENTS // TWICE_EVERY)
        session.remark("NATS' own list of ids against the credits in the store:")
        session.python("count.py")
        deal_with_the_refused_one(session)
        switch_the_mode(session)


def deal_with_the_refused_one(session: Session) -> None:
    """Show the held messages, skip the refused one, and let the later ones of its customer take effect."""
    session.remark("One payment was refused, and the later ones of its customer wait behind it:")
    session.amends("pipeline quarantine list payments --limit 3")
    session.remark("Somebody decides that the refused one has no effect; then the others are credited, in order.")
    session.amends(f"pipeline quarantine skip payments {STREAM} {REFUSED} --reason 'refunded by the provider'")
    session.amends(f"pipeline quarantine retry payments {POISONED} --reason 'the refused payment is dealt with'")
    session.remark("The audit: the account of the pipeline, and the ids of the source, which it reads again.")
    session.amends("pipeline audit payments --against-source")


def switch_the_mode(session: Session) -> None:
    """Show what exactly-once refuses: in the mode `observed`, the same duplicates take effect."""
    session.remark("For a trial the mode observed: duplicates are counted, and take effect still.")
    session.amends("pipeline mode payments observed --reason trial")
    session.python("provider.py", f"--payments={MORE}")
    until_taken(PAYMENTS + MORE + (PAYMENTS + MORE) // TWICE_EVERY)
    session.remark("Exit code 1: these are the credits that the mode exactly-once had refused.")
    session.python("count.py", "--skipped", REFUSED_ID, status=1)
    session.amends("pipeline mode payments exactly-once --reason 'the trial is over'")
    session.amends("pipeline show payments")


def until_taken(messages: int) -> None:
    """Wait until the pipeline has dealt with a number of messages.

    Raises:
        DemoError: It has not within a minute.
    """
    journal = open_journal(f"sqlite:///{HERE / STORE}")
    try:
        for _ in range(int(BOUND_S / STEP_S)):
            position = journal.intake.position("payments", STREAM)
            if position is not None and position.next > messages:
                return
            time.sleep(STEP_S)
    finally:
        asyncio.run(journal.close())
    raise DemoError(f"the pipeline has not taken {messages} messages within {BOUND_S} s")


if __name__ == "__main__":
    sys.exit(run_session(HERE, play, TRY_NEXT))
