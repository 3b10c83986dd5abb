"""The Inbox on both databases: once per key, in any order and after any crash, for as long as was stated."""

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import bounds
import pytest
from aggregate_parts import inbox_fixtures
from aggregate_parts.inbox_service import DAY, PRICE, Service
from bounds import HANG_S
from sqlalchemy import MetaData

from amends import Answer, Inbox, InputError, KeyConflictError, Rejected

url, service = inbox_fixtures.url, inbox_fixtures.service


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Start the calls at the same moment, each in a separate thread, and wait for all answers."""
    barrier = threading.Barrier(len(calls))

    def call(function: Callable[[], Any]) -> object:
        barrier.wait()
        return function()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(call, calls))


def test_the_same_call_again_gets_the_recorded_result(service: Service) -> None:
    """Every repetition of a call, in any notation of its numbers, gets the first result and changes nothing."""
    first = service.do("k", {"a": 1, "b": "x"})
    assert first == Answer("done", {"charged": "k"}, operation="charge")
    again = service.do("k", {"b": "x", "a": 1.0})
    assert again == Answer("done", {"charged": "k"}, operation="charge", repeated=True)
    assert service.find("k") == again
    assert service.settle("k") == again
    assert service.standing() == ["k"]


@pytest.mark.parametrize(
    ("operation", "content", "difference"),
    [
        ("charge", {"amount": "9.91"}, r"\(amount: first call '9.90', now '9.91'\)"),
        ("charge", {**PRICE, "tip": 1}, r"\(tip: first call absent, now 1\)"),
        ("refund", PRICE, r"\(operation: first call 'charge', now 'refund'\)"),
    ],
)
def test_another_call_under_a_used_key_is_a_conflict(
    service: Service, operation: str, content: object, difference: str
) -> None:
    """A key belongs to one operation and content; the error shows the difference, also after a refusal and an undo."""
    service.do("done")
    service.do("refused", raises=Rejected("no"))
    service.do("undone")
    service.undo("undo", "undone")
    for key in ("done", "refused", "undone"):
        with pytest.raises(KeyConflictError, match=rf"key '{key}' was used for another operation {difference}"):
            service.do(key, content, operation=operation)
    assert service.standing() == ["done"]


def test_a_no_stays_a_no(service: Service) -> None:
    """A refusal undoes the earlier writes, is recorded, and is repeated though the answer would be yes now."""
    refusal = service.do("k", raises=Rejected("card\0 declined"))
    assert refusal == Answer("refused", reason="card\N{REPLACEMENT CHARACTER} declined", operation="charge")
    assert service.do("k").outcome == "refused"
    assert service.do("k").reason == refusal.reason
    assert service.standing() == []


def test_any_other_failure_leaves_the_key_free(service: Service) -> None:
    """A bug or a lost connection is no answer: nothing is recorded, not even when the caller commits all the same."""
    with pytest.raises(OSError, match="disk"):
        service.do("k", raises=OSError("disk"))
    with service.engine.begin() as connection, pytest.raises(OSError, match="disk"):
        service.inbox.do(
            connection, "k", "charge", PRICE, lambda: service._take_effect(connection, "k", OSError("disk"))
        )
    with service.engine.begin() as connection, pytest.raises(InputError, match="result of charge under key 'k': <ob"):
        service.inbox.do(connection, "k", "charge", PRICE, object)
    assert (service.standing(), service.remembered()) == ([], 0)
    assert not service.do("k").repeated


def test_a_crash_between_effect_and_commit_leaves_neither(url: str, service: Service) -> None:
    """After kill -9 in the middle of the transaction the same call is the first one."""
    crash = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from aggregate_parts.inbox_service import Service, engine_at\n"
        "service = Service(engine_at(sys.argv[2])); connection = service.engine.connect()\n"
        "service.inbox.do(connection, 'k', 'charge', {'amount': '9.90'}, "
        "lambda: service._take_effect(connection, 'k', None))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    folder = Path(bounds.__file__).parent
    program = [sys.executable, "-P", "-c", crash, str(folder), url]
    done = subprocess.run(program, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (service.standing(), service.remembered()) == ([], 0)
    assert not service.do("k").repeated


def test_undo_after_do_takes_back_once(service: Service) -> None:
    """The undo gets the recorded result; its repetition and another undo change nothing; the do answers cancelled."""
    service.do("k")
    assert service.undo("u", "k") == Answer("done", {"refunded": "k"}, operation="undo")
    assert service.undo("u", "k") == Answer("done", {"refunded": "k"}, operation="undo", repeated=True)
    assert service.undo("u2", "k") == Answer("done", operation="undo")
    late = service.do("k")
    assert late == Answer("cancelled", {"charged": "k"}, operation="charge", cancelled_by="u", repeated=True)
    assert service.standing() == []


def test_undo_before_do_refuses_the_late_do(service: Service) -> None:
    """A tombstone holds for good, for any content of the late call, and the undo's answer stays the same."""
    assert service.undo("u", "k") == Answer("done", operation="undo")
    for content in (PRICE, {"amount": "1"}):
        assert service.do("k", content) == Answer("cancelled", cancelled_by="u", repeated=True)
    assert service.undo("u", "k").repeated
    assert service.standing() == []


def test_a_refused_do_and_a_refused_undo(service: Service) -> None:
    """Undoing a refusal succeeds without an effect; a refused undo leaves the effect, for every later undo to try."""
    service.do("no", raises=Rejected("no"))
    assert service.undo("u1", "no") == Answer("done", operation="undo")
    assert service.do("no").outcome == "refused"
    service.do("k")
    assert service.undo("u2", "k", raises=Rejected("spent")) == Answer("refused", reason="spent", operation="undo")
    assert service.undo("u2", "k").outcome == "refused"
    assert (service.do("k").outcome, service.standing()) == ("done", ["k"])
    assert service.undo("u3", "k").result == {"refunded": "k"}


def test_an_undo_that_fails_leaves_everything_as_it_was(service: Service) -> None:
    """An exception in the undo records nothing, neither under its key nor under that of the do."""
    service.do("k")
    with pytest.raises(OSError, match="disk"):
        service.undo("u", "k", raises=OSError("disk"))
    assert (service.do("k").outcome, service.find("u"), service.standing()) == ("done", None, ["k"])
    assert service.undo("u", "k").result == {"refunded": "k"}


def test_an_undo_has_a_key_of_its_own(service: Service) -> None:
    """The key of an undo is bound to the key it undoes, and cannot be the same."""
    service.undo("u", "k")
    with pytest.raises(KeyConflictError, match="of: first call 'k', now 'other'"):
        service.undo("u", "other")
    with pytest.raises(InputError, match="key 'k' cannot undo itself"):
        service.undo("k", "k")
    assert service.find("other") is None


def test_a_settled_no_stays_true(service: Service) -> None:
    """After a probe settled a key without an effect, no effect can happen under it."""
    assert service.find("k") is None
    assert service.settle("k") == Answer("cancelled")
    assert service.do("k") == Answer("cancelled", repeated=True)
    assert service.undo("u", "k") == Answer("done", operation="undo")
    assert service.standing() == []


def test_settling_waits_for_a_call_that_is_being_done(service: Service) -> None:
    """During the operation a find returns nothing, and a settle waits for the result instead of a premature refusal."""
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> Answer:
        with service.engine.begin() as connection:

            def work() -> object:
                inside.set()
                assert go_on.wait(HANG_S)
                return service._take_effect(connection, "k", None)

            return service.inbox.do(connection, "k", "charge", PRICE, work)

    with ThreadPoolExecutor(2) as threads:
        doing: Future[Answer] = threads.submit(slow)
        assert inside.wait(HANG_S)
        assert service.find("k") is None
        settling = threads.submit(service.settle, "k")
        # Whether it waits already or has not begun: it must not answer before the operation has ended.
        with pytest.raises(TimeoutError):
            settling.result(0.05)
        go_on.set()
        assert doing.result().outcome == settling.result().outcome == "done"
    assert service.standing() == ["k"]


def test_two_calls_at_once_are_one(service: Service) -> None:
    """Of many simultaneous calls under one key one acts, and the others get its result."""
    answers = together(*[lambda: service.do("k")] * 6)
    assert Counter(answer.repeated for answer in answers) == {False: 1, True: 5}
    assert {answer.outcome for answer in answers} == {"done"}
    assert [answer.result for answer in answers] == [{"charged": "k"}] * 6
    assert service.standing() == ["k"]


@pytest.mark.parametrize("number", range(4))
def test_do_undo_and_settle_at_once_agree(service: Service, number: int) -> None:
    """In every order the end is the same: after the undo no effect exists, and every answer fits one order."""
    keys = [f"{number}/{index}" for index in range(5)]
    for key in keys:
        done, undone, settled, undone2 = together(
            partial(service.do, key),
            partial(service.undo, f"{key}/u", key),
            partial(service.settle, key),
            partial(service.undo, f"{key}/u2", key),
        )
        took_back = [answer for answer in (undone, undone2) if answer.result is not None]
        assert len(took_back) == (done.outcome == "done")
        assert settled.outcome in (("done", "cancelled") if done.outcome == "done" else ("cancelled",))
        assert service.do(key).outcome == "cancelled"
    assert service.standing() == []


def test_a_key_is_remembered_for_the_retention_and_forgotten_after_it(service: Service) -> None:
    """Nothing younger than the retention is purged, an undo makes its key young again, and batches are limited."""
    for key in ("a", "b", "c", "undone"):
        service.do(key)
    service.now_s = DAY.total_seconds()
    assert service.purge() == 0
    service.undo("u", "undone")
    service.now_s += 1
    assert [service.purge(limit=2) for _ in range(3)] == [2, 1, 0]
    assert service.remembered() == 2
    assert service.do("undone").outcome == "cancelled"
    assert not service.do("a").repeated
    service.now_s += DAY.total_seconds() + 1
    assert service.purge() == 3
    assert service.standing() == ["a", "a", "b", "c"]


def test_calls_and_purges_at_once_do_not_disturb_each_other(service: Service) -> None:
    """A key that is purged while it is called again is simply new."""
    for number in range(10):
        service.do("old")
        service.now_s += DAY.total_seconds() + 1
        answer, _ = together(lambda: service.do("old"), service.purge)
        assert answer.outcome == "done"
        assert len(service.standing()) <= number + 2


def test_a_window_shorter_than_the_retention_is_refused(service: Service) -> None:
    """The retention that callers rely on cannot be shortened, nor left without a length."""
    with service.engine.begin() as connection:
        with pytest.raises(InputError, match="callers may rely on the retention of 1 day"):
            service.inbox.purge(connection, older_than=timedelta(hours=23))
        with pytest.raises(InputError, match="limit=0"):
            service.inbox.purge(connection, limit=0)
    with pytest.raises(InputError, match="give a timedelta longer than"):
        Inbox(MetaData(), retention=timedelta(0))
