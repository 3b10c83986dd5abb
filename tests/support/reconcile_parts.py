"""A bank in a file, accounts in our store, a rule that compares both, and reconcilers as separate processes.

Run as a program, this file reconciles once for every line that it reads.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from eventsourcing.domain import event

from amends import Aggregate, Cause, Command, Drift, DriftKind, Observation, ScanFailed, UnitOfWork, drift_rule
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.reconciler.drift.rule import Rule
from amends.reconciler.drift.stream import Reconciliation
from amends.reconciler.runtime.reconciler import Reconciler

__all__ = ["APART_MS", "Account", "Bank", "Process", "account_names", "bank_rule", "corrections", "reconciler"]

APART_MS = 10_000
NOTHING: Any = None


class Account(Aggregate):
    """Our record of the balance of one account at the bank."""

    @event("Opened")
    def __init__(self, id: str) -> None:  # noqa: A002, ARG002 - the word that aggregates use
        self.balance = 0
        self.corrected = 0

    @event("Corrected")
    def correct(self, balance: int, drift: str) -> None:  # noqa: ARG002 - kept in the event
        """Adopt the bank's balance."""
        self.balance = balance
        self.corrected += 1


@dataclass
class Bank:
    """The bank's books: a file with the balance of each account, and the number of accounts.

    Attributes:
        file: The file.
        accounts: The correct balances.
    """

    file: Path
    accounts: dict[str, int] = field(default_factory=dict)

    def says(self, **changes: int) -> None:
        """Write the bank's answer, with some accounts changed for good."""
        self.accounts |= changes
        self.answers(json.dumps({"count": len(self.accounts), "accounts": self.accounts}))

    def answers(self, text: str) -> None:
        """Write a text as the bank's answer, in one step for all readers."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    def hangs(self) -> None:
        """Keep every reader waiting without an answer."""
        self.file.unlink()
        os.mkfifo(self.file)


def account_names(count: int) -> list[str]:
    """Return the names of a number of accounts."""
    return [f"a{number:02}" for number in range(count)]


def take_over(found: tuple[str, int, str], cause: Cause, uow: UnitOfWork) -> None:
    """Correct an account; or, as the test demands, fail or be killed in the middle."""
    name, balance, wish = found
    uow.get(Account, name).correct(balance, cause.drift)
    if wish == "die in the command":
        os.kill(os.getpid(), signal.SIGKILL)
    if wish == "fail":
        raise RuntimeError("the ledger is locked")


def bank_rule(bank: Path, wish: str = "") -> Rule:
    """Create the rule that each account in the store has the bank's balance."""
    # Only a bank that hangs is not waited for: a scan of twenty accounts may take long on a busy machine.
    timeout = timedelta(milliseconds=500) if bank.is_fifo() else timedelta(minutes=4)

    @drift_rule(
        "bank",
        every=timedelta(seconds=2),
        mode="apply",
        confirm_after=timedelta(milliseconds=APART_MS),
        timeout=timeout,
    )
    def bank_agrees(observation: Observation) -> Iterator[Drift]:
        """Check that every account has the bank's balance."""
        text = bank.read_text()
        if not text:
            raise ScanFailed("the bank says nothing")
        answer = json.loads(text)
        if len(answer["accounts"]) != answer["count"]:
            raise ScanFailed("the bank's answer is not complete")
        for name, balance in answer["accounts"].items():
            account = observation.load(Account, name)
            observation.scanned(1)
            if account is not None and account.balance != balance:
                yield Drift(
                    subject=f"Account/{name}",
                    kind=DriftKind.DIFFERENT,
                    expected=account.balance,
                    actual=balance,
                    correction=Command(take_over, (name, balance, wish)),
                )

    return bank_agrees


def reconciler(journal: SqlJournal, now_ms: int) -> Reconciler:
    """Create a reconciler whose clock stands still."""
    # No rule here intervenes in a run or acts outside of the store.
    return Reconciler(journal, NOTHING, NOTHING, clock=lambda: now_ms, actor=f"process {os.getpid()}", driven={})


def corrections(journal: SqlJournal, rule: str = "bank") -> list[str]:
    """List the corrected drifts, in order."""
    journal.codec.register(Reconciliation)
    events = [journal.codec.to_domain(each) for each in journal.events_blocking(f"reconciliation/{rule}")]
    return [each.fact.drift for each in events if type(each).__name__ == "DriftCorrected"]


class Process:
    """A reconciler as a separate process, which starts again after a test has killed it."""

    def __init__(self) -> None:
        self._process: Popen[str] | None = None

    def reconcile(self, url: str, bank: Path, now_ms: int, wish: str = "") -> dict[str, Any] | None:
        """Run a scan and the corrections at a time; return the result, or `None` when a test killed the process."""
        if self._process is None:
            arguments = (sys.executable, "-P", str(Path(__file__)))
            self._process = Popen(arguments, stdin=PIPE, stdout=PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([url, str(bank), now_ms, wish]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            assert self._process.wait() == -signal.SIGKILL
            self._process = None
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


async def reconcile_once(journal: SqlJournal, bank: Path, now_ms: int, wish: str) -> dict[str, Any]:
    """Scan, and correct the drifts that are due."""
    by, rule = reconciler(journal, now_ms), bank_rule(bank, wish)
    verdict = await by.scan(rule)
    if verdict.due and wish == "die before correcting":
        os.kill(os.getpid(), signal.SIGKILL)
    made = [await by.correct(rule, name, verdict.seen[name]) for name in verdict.due]
    if made and wish == "die after correcting":
        os.kill(os.getpid(), signal.SIGKILL)
    return {
        "blind": verdict.rule_state.unobservable,
        "seen": len(verdict.seen),
        "held": sorted(set(verdict.held.values())),
        "corrected": sum(each.problem is None for each in made),
        "problems": sorted({each.problem for each in made if each.problem is not None}),
    }


async def main() -> None:
    """Reconcile once for every line, until the input ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        url, bank, now_ms, wish = json.loads(line)
        journal = open_journal(url, aggregates=[Account, Reconciliation])
        answer = await reconcile_once(journal, Path(bank), now_ms, wish)
        await journal.close()
        print(json.dumps(answer), flush=True)  # noqa: T201 - its answer


if __name__ == "__main__":
    asyncio.run(main())
