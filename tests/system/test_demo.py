"""`make demo`: its output, the suggestions that it prints, and that it leaves no process running."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bounds import HANG_S
from forked import AMENDS, run_forked
from repository import ROOT

from amends.sagas.temporal.server.embedded_server import running
from amends.sagas.temporal.server.locks import dev_lock, dev_running


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """Copy the examples, so that no test disturbs a demo that a developer runs."""
    ignore = shutil.ignore_patterns(".amends", "__pycache__")
    return shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=ignore) / "orders"


@contextmanager
def demo(example: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the demo of an example as `make` does, in the top folder; kill it at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, f"examples/{example.name}/demo.py"],
        cwd=example.parent.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**{name: text for name, text in os.environ.items() if name != "COLUMNS"}, "PYTHONUNBUFFERED": "1"},
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def assert_nothing_runs(orders: Path, said: str) -> None:
    """Check that neither worker, nor server, nor a service that printed its address still runs."""
    for folder in (orders, orders.parent / "transfer", orders.parent / "payments"):
        assert not dev_running(folder / ".amends")
        assert running(folder / ".amends") is None
    for port in re.findall(r"listening on \w+://127\.0\.0\.1:(\d+)", said):
        with socket.socket() as service:
            assert service.connect_ex(("127.0.0.1", int(port))) != 0


@pytest.mark.soak  # the tests of the pages of both examples type most of its commands
def test_the_demo_shows_a_session_whose_end_can_be_tried(orders: Path) -> None:
    """The demo starts afresh, shows each command before its answer and a history of each kind; its suggestions work.

    A reconciler finds damage that was done without the system, corrects it after an approval, and does not find it
    again.
    """
    (orders / ".amends").mkdir()
    (orders / ".amends" / "events.db").write_text("of an earlier demo")
    with demo(orders) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    prompts = re.findall(r"^\$ amends (.*)", out, re.MULTILINE)
    assert prompts[:3] == [
        "dev &",
        "run stock-up @deliveries.jsonl --id-field sku",
        "run place-order @orders.jsonl --id-field order_id",
    ]
    assert prompts[3:8] == ["list", "history o-01", "history o-03", "history o-05", "history o-07"]
    assert "12 runs in " in out
    assert ": 6 COMPENSATED, 6 COMPLETED; see: amends list" in out
    shown = dict(re.findall(r"^\$ amends history (\S+)\n(.*?)(?=^# (?:o-|After ))", out, re.MULTILINE | re.DOTALL))
    assert "SagaCompleted" in shown["o-01"]
    assert "StepRejected" in shown["o-03"]
    assert shown["o-05"].count("/charge_card/do/0") == 2
    assert shown["o-07"].count("CompensationSucceeded") == 2
    reconciled = prompts[8:]
    approvals = reconciled.pop(4)
    assert reconciled == [
        "drift",
        "run transfer-money @transfers.jsonl --id-field transfer_id",
        "drift",
        "reconcile bank-log",
        "reconciliation bank-log:2",
        "history OpenItem/t-01",
        "drift",
    ]
    for transfer in ("t-01", "t-02", "wire-1"):
        (drift,) = re.findall(
            rf"^corrected (\S+) of {transfer}: .* which wrote OpenItem/{transfer}:1$", out, re.MULTILINE
        )
        assert f"--approve {drift}" in approvals
    assert len(re.findall(r"^\$ amends drift\nno drift, by \d+ rules$", out, re.MULTILINE)) == 2
    assert 'cause="reconciliation/bank-log:2"' in out
    assert_nothing_runs(orders, out)
    assert try_suggestions(orders, out) == 3


@pytest.mark.soak  # the test of the example's page types most of its commands
def test_the_demo_kills_a_consumer_and_counts_each_payment_once(orders: Path) -> None:
    """A worker is killed while payments come; NATS' own list of ids and the store agree, and no process remains."""
    with demo(orders.parent / "payments") as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "$ kill -9 " in out
    assert out.count("$ amends dev &") == 2
    counted = re.findall(r"^missing: (\d+), credited more than once: (\d+)$", out, re.MULTILINE)
    # After the kill, and in the mode that lets duplicates take effect.
    assert counted == [("0", "0"), ("0", "10")]
    assert "14 took effect, 0 still held" in out
    assert_nothing_runs(orders, out)
    assert try_suggestions(orders, out) == 2


def try_suggestions(orders: Path, said: str) -> int:
    """Run the commands that a demo suggests at its end, and return their number."""
    _, _, last = said.partition("\nTry next:\n")
    suggested = [line.partition("#")[0].strip() for line in last.splitlines()]
    top = orders.parent.parent
    for line in suggested:
        program, *arguments = shlex.split(line)
        assert top.joinpath(program).resolve() == AMENDS.resolve()
        tried = run_forked(arguments, folder=top, environment=os.environ, timeout_s=HANG_S)
        assert (tried.code, tried.err) == (0, b""), line
        assert tried.out.count(b"\n") >= 3, line
    return len(suggested)


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(signal.SIGINT, "$ amends run place-order", marks=pytest.mark.soak),
        (signal.SIGTERM, "listening on"),
    ],
)
def test_an_interrupted_demo_stops_what_it_started(orders: Path, number: signal.Signals, moment: str) -> None:
    """A request to stop, such as Ctrl-C in the middle of the orders, ends the demo with 130, and no process remains."""
    with demo(orders) as process:
        assert process.stdout is not None
        said = ""
        while moment not in said:
            line = process.stdout.readline()
            assert line, f"it ended early: {said}"
            said += line
        process.send_signal(number)
        rest, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "demo: interrupted; every process that it started has stopped"
    assert "Traceback" not in err
    assert_nothing_runs(orders, said + rest)


def test_a_part_that_does_not_start_is_said_in_one_line(orders: Path) -> None:
    """The line quotes the failed part's own words, the demo fails, and the parts that did start are stopped."""
    (orders / "storefront.py").write_text("raise RuntimeError('no stock today')\n")
    with demo(orders) as process:
        out, err = process.communicate()
    assert process.returncode == 1
    (line,) = err.splitlines()
    assert line.startswith(
        "demo: amends dev: ended before it was ready: amends: module 'storefront' cannot be imported"
    )
    assert "no stock today" in line
    assert_nothing_runs(orders, out)


def test_a_demo_takes_nothing_away_from_a_running_dev(orders: Path) -> None:
    """The demo does not start afresh while a developer works in its folder."""
    kept = orders / ".amends" / "events.db"
    kept.parent.mkdir()
    kept.write_text("in use")
    with dev_lock(kept.parent), demo(orders) as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert re.fullmatch(r"demo: an `amends dev` runs in .*: stop it first, the demo starts afresh there\n", err)
    assert kept.read_text() == "in use"
