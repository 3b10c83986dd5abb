"""Test faults of reconciliation on real processes: each drift is corrected once, or not at all."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from journal_parts import prepare, step
from reconcile_parts import APART_MS, Account, Bank, Process, account_names, corrections

from amends.aggregates.journal import StepWork
from amends.aggregates.sql.journal import SqlJournal, open_journal

DAY_MS = 24 * 3_600_000
START_MS = 1_000_000_000_000


@dataclass
class World:
    """A store with accounts, the bank that has them, and processes that compare the two."""

    url: str
    journal: SqlJournal
    bank: Bank
    processes: list[Process]
    now_ms: int = field(default=START_MS)

    def reconcile(self, process: int = 0, *, after_ms: int = APART_MS, wish: str = "") -> dict[str, Any]:
        """Reconcile in a process, some time later."""
        self.now_ms += after_ms
        return self.reconcile_at(process, self.now_ms, wish)

    def reconcile_at(self, process: int, now_ms: int, wish: str = "") -> dict[str, Any]:
        """Reconcile in a process at a time of its own; return nothing when the process was killed."""
        return self.processes[process].reconcile(self.url, self.bank.file, now_ms, wish) or {}

    def corrected(self, name: str = "a00") -> int:
        """Return how often an account was corrected."""
        account = self.journal.load_blocking(Account, name)
        assert account is not None
        return account.corrected


@pytest.fixture(scope="module")
def processes() -> Iterator[list[Process]]:
    """Yield three reconcilers, which start at their first use."""
    three = [Process() for _ in range(3)]
    yield three
    for each in three:
        each.end()


@pytest.fixture
def world(tmp_path: Path, processes: list[Process]) -> Iterator[Callable[[str, int], World]]:
    """Yield a function that creates a world in which record and bank agree."""
    opened: list[SqlJournal] = []

    def make(url: str, accounts: int = 1) -> World:
        journal = open_journal(prepare(url), aggregates=[Account])
        opened.append(journal)
        names = account_names(accounts)

        def open_all(uow: StepWork) -> None:
            for name in names:
                uow.add(Account(name))

        journal.commit_blocking(step(open_all))
        bank = Bank(tmp_path / "bank.json")
        bank.says(**dict.fromkeys(names, 0))
        return World(url, journal, bank, processes)

    yield make
    for journal in opened:
        journal.close_blocking()


@pytest.fixture
def there(world: Callable[[str, int], World], sqlite_url: str) -> World:
    """Return a world with one account, on SQLite."""
    return world(sqlite_url, 1)


@pytest.mark.parametrize("when", ["before correcting", "in the command", "after correcting"])
def test_who_is_killed_leaves_one_correction(there: World, when: str) -> None:
    """After a kill before, during or right after a correction, the next reconciler makes it one correction in total."""
    there.bank.says(a00=5)
    there.reconcile()
    assert there.reconcile(wish=f"die {when}") == {}
    assert there.corrected() == (1 if when == "after correcting" else 0)
    for process in (1, 0, 1):
        there.reconcile(process)
    assert there.corrected() == 1
    assert len(corrections(there.journal)) == 1


def test_reconcilers_at_once_make_each_correction_once(world: Callable[[str, int], World], store_url: str) -> None:
    """Three processes that find the same twenty drifts at the same time correct each of them once between them."""
    there = world(store_url, 20)
    there.bank.says(**dict.fromkeys(account_names(20), 5))
    with ThreadPoolExecutor() as at_once:
        for _ in range(3):
            there.now_ms += APART_MS
            answers = list(at_once.map(lambda process: there.reconcile_at(process, there.now_ms), range(3)))
            # A process whose scans others overtake every time has not scanned, which is right on a busy machine.
            overtaken = "other processes scanned with this rule"
            blind = [str(answer["blind"]) for answer in answers if answer["blind"] is not None]
            assert [reason for reason in blind if overtaken not in reason] == []
    assert [there.corrected(name) for name in account_names(20)] == [1] * 20
    assert len(corrections(there.journal)) == len(set(corrections(there.journal))) == 20


@pytest.mark.parametrize("answer", ["empty", "partial", "garbled", "late", "gone"])
def test_no_answer_from_outside_is_no_news(there: World, answer: str) -> None:
    """An answer that is empty, partial, garbled, late or absent clears nothing and corrects nothing."""
    there.bank.says(a00=5)
    there.reconcile()
    match answer:
        case "late":
            there.bank.hangs()
        case "gone":
            there.bank.file.unlink()
        case _:
            there.bank.answers(
                {"empty": "", "partial": '{"count": 1, "accounts": {}}', "garbled": '{"count": 1, "acc'}[answer]
            )
    blind = there.reconcile()
    assert blind["blind"]
    assert there.corrected() == 0
    there.bank.says()
    seeing = there.reconcile()
    assert seeing["corrected"] == 1, "it is the same drift, which was seen before"


def test_what_is_wrong_for_one_period_is_not_believed(there: World) -> None:
    """A difference that only one scan sees is not corrected, however often such differences occur."""
    for balance in (5, 6, 7):
        there.bank.says(a00=balance)
        assert there.reconcile()["seen"] == 1
        there.bank.says(a00=0)
        assert there.reconcile()["seen"] == 0
    assert there.corrected() == 0


def test_a_correction_that_fails_leaves_nothing_and_is_given_up(there: World) -> None:
    """A command that fails after a change leaves no change; it is tried three times, later each time."""
    there.bank.says(a00=5)
    tries = 0
    for _ in range(9):
        answer = there.reconcile(wish="fail", after_ms=60_000)
        tries += answer["problems"] == ["RuntimeError: the ledger is locked"]
    assert tries == 3
    assert answer["held"] == [
        "the correction failed 3 times: RuntimeError: the ledger is locked; find the cause, then approve"
    ]
    assert there.corrected() == 0


def test_a_subject_that_flips_for_ever_is_left_alone(there: World) -> None:
    """A subject that drifts after each correction is corrected three times within a day; then people must decide."""
    for _ in range(12):
        there.bank.says(a00=100 + there.corrected())
        answer = there.reconcile(after_ms=60_000)
    assert there.corrected() == 3
    assert "drifts again" in str(answer["held"])


def test_a_clock_a_day_ahead_stops_nobody(there: World) -> None:
    """When the clock of one process is a day ahead, drift is corrected once, and not a day late."""
    for balance in (5, 6):
        there.bank.says(a00=balance)
        for period in range(3):
            there.now_ms += APART_MS
            there.reconcile_at(1, there.now_ms + DAY_MS, "fail" if period == 0 else "")
            there.reconcile_at(0, there.now_ms)
    assert there.corrected() == 2
    assert len(corrections(there.journal)) == 2
