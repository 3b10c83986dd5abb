"""Test lists, single runs and histories, on a real store with runs of every kind."""

import asyncio
import json
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from reading_shop import (
    LONG,
    NASTY,
    PROGRAM,
    Amends,
    Shop,
    accept_in,
    empty_store,
    journal_of,
    one_line,
    resume,
)

from amends.aggregates.run.state import RunStatus
from amends.aggregates.sql.journal import open_journal
from amends.cli.app import main
from amends.cli.commands.runs.list import read_status, read_where
from amends.cli.views.facts import Next, next_steps

# ---- list


def test_runs_are_listed_newest_first(amends: Amends) -> None:
    """Each run has one line in a pipe, whole ids included, and no text of users is an escape sequence."""
    answer = amends("list")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0].split() == ["run", "saga", "status", "started", "took", "at", "last", "error"]
    assert [line.split()[0] for line in lines[1:]] == [
        "order-accepted",
        "order-slow-undo",
        "order-hang",
        LONG,
        "order-stuck",
        "order-mail",
        "order-refused",
        "order-lost",
        "order-done",
    ]
    stuck = next(line for line in lines if line.startswith("order-stuck"))
    assert "NEEDS_ATTENTION" in stuck
    assert r"the shelf is locked[red]\x1b[31mred[/red]\nnext line\u202e" in stuck
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--status", "COMPLETED"], [LONG, "order-done"]),
        (
            ["--status", "needs-attention", "--status", "running"],
            ["order-accepted", "order-hang", "order-stuck", "order-mail"],
        ),
        (["--where", "order_id=lost"], ["order-lost"]),
        (["--where", f"order_id={NASTY}"], [LONG]),
        (["--where", "order_id=lost", "--status", "COMPLETED"], []),
        (["--saga", "cancel-order"], []),
        (["--saga", "place-order", "--limit", "2"], ["order-accepted", "order-slow-undo"]),
        (["--since", "2000-01-01", "--limit", "1"], ["order-accepted"]),
        (["--since", "1ms"], []),
    ],
)
def test_lists_are_narrowed_by_options(amends: Amends, options: list[str], found: list[str]) -> None:
    """Every option narrows the list; with `--json` stdout is an array, which is empty without a match."""
    answer = amends("list", "--json", *options)
    assert answer.code == 0
    assert [run["run_id"] for run in answer.json] == found


def test_a_listed_run_has_its_keys_and_times(amends: Amends) -> None:
    """JSON has the fields of the read model, with times in milliseconds."""
    (run,) = amends("list", "--json", "--where", "order_id=refused").json
    assert run["status"] == "COMPENSATED"
    assert run["keys"] == {"order_id": "refused"}
    assert run["error"] == "confirm_order: sold out"
    assert run["updated_ms"] >= run["started_ms"] > 1_600_000_000_000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--status", "DONE"],
            "--status 'DONE' is not a status; use RUNNING, CANCELLING, COMPENSATING, COMPLETED, COMPENSATED",
        ),
        (["--status", "\x1b[31m"], "--status '\\x1b[31m' is not a status"),
        (["--where", "order_id"], "--where 'order_id' is not FIELD=VALUE; write it like --where order_id=42"),
        (["--where", "=x"], "--where '=x' is not FIELD=VALUE"),
        (["--since", "yesterday"], "--since 'yesterday' is no time; write how long ago (90s, 2h, 7d)"),
        (["--limit", "0"], "Invalid value for '--limit'"),
        (["--limit", "many"], "Invalid value for '--limit'"),
        (["--colour"], "No such option: --colour"),
    ],
)
def test_wrong_options_end_in_one_line(amends: Amends, options: list[str], said: str) -> None:
    """An invalid option is refused with its value and the remedy, as a usage error."""
    answer = amends("list", *options)
    assert answer.code == 2
    assert said in one_line(answer)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--saga", "plaec"], "no runs of saga 'plaec'; the last runs are of: place-order"),
        (["--where", "sku=1"], "no run with a business key 'sku'; the last runs have: order_id"),
        (["--where", "order_id=0", "--status", "RUNNING"], "no runs match status RUNNING and order_id=0"),
    ],
)
def test_an_empty_list_says_why(amends: Amends, options: list[str], said: str) -> None:
    """An empty list is no error, and an option that matches no name in the store is named."""
    answer = amends("list", *options)
    assert answer.code == 0
    assert one_line(answer).startswith(said)


def test_a_list_that_is_cut_says_so(amends: Amends) -> None:
    """When there are more runs than the limit, a remark on stderr says so."""
    assert "the newest 2 are shown" in amends("list", "--limit", "2").err
    assert amends("list", "--limit", "9").err == ""


def test_statuses_and_keys_are_read_leniently() -> None:
    """Case and dashes do not matter in a status; a value may be empty or contain another `=`."""
    assert read_status(" needs-attention") is RunStatus.NEEDS_ATTENTION
    assert read_where("a=b=c") == ("a", "b=c")
    assert read_where("a=") == ("a", "")


# ---- show


def test_a_compensated_run_shows_planned_next_to_done(amends: Amends) -> None:
    """Each node of the plan is there, with its role, its state, its attempts, and its result or error."""
    answer = amends("show", "order-lost")
    assert answer.code == 0
    rows = {line.split()[1]: re.split(r"\s{2,}", line)[2:] for line in answer.out.splitlines() if re.match(r"\d", line)}
    assert rows == {
        "reserve_stock": ["transaction", "compensatable", "undone", "1/3, undo 1/2", '""'],
        "charge_card": [
            "effect",
            "compensatable",
            "failed",
            "2/2",
            "the probe found nothing under order-lost/charge_card/do/0",
        ],
        "quote_shipping": ["effect", "compensatable", "succeeded", "1/5", "7"],
        "confirm_order": ["transaction", "pivot", "pending"],
        "send_receipt": ["effect", "retriable", "pending"],
    }
    assert answer.out.startswith("order-lost  COMPENSATED\n")
    assert re.search(r"^last error  charge_card: .*the probe found nothing", answer.out, re.MULTILINE)
    assert "driver" not in answer.out


def test_a_run_that_needs_attention_says_what_is_open(amends: Amends) -> None:
    """Each open decision of an operator is named, with the reason, as text and as JSON."""
    answer = amends("show", "order-stuck")
    assert "attention   needs an operator: reserve_stock is undo exhausted" in answer.out
    assert (
        r"open        reserve_stock is undo exhausted: RuntimeError: the shelf is locked[red]\x1b[31mred" in answer.out
    )
    shown = amends("show", "order-stuck", "--json").json
    assert shown["attention"]["nodes"] == ["reserve_stock"]
    assert shown["status"] == "NEEDS_ATTENTION"
    assert shown["input"]["note"] == NASTY
    node = shown["nodes"][0]
    assert (node["undo_attempts"], node["max_undo_attempts"], node["status"]) == (2, 2, "undo exhausted")
    assert shown["driving"] is None


def test_an_open_run_says_what_comes_next(amends: Amends) -> None:
    """An open run shows the cause and end of its wait, the undos that remain, and its driver."""
    hang = amends("show", "order-hang").out
    assert re.search(r"^next +charge_card: attempt 1 gave no answer in time and counts as failed", hang, re.MULTILINE)
    assert re.search(
        r"^driver +driven by the process that started it \(in-process\), which may have ended", hang, re.MULTILINE
    )
    undo = amends("show", "order-slow-undo", "--json").json
    assert undo["status"] == "COMPENSATING"
    assert undo["still_to_undo"] == [["charge_card"], ["reserve_stock"]]
    assert undo["next"][0]["node"] == "charge_card"
    assert "to undo" in amends("show", "order-slow-undo").out


def test_an_open_run_without_temporal_says_that_nobody_drives_it(amends: Amends) -> None:
    """When no Temporal can be asked, the remedy is named, and the run is shown all the same."""
    answer = amends("show", "order-accepted")
    assert answer.code == 0
    assert "next    reserve_stock: attempt 1 of 3 now" in answer.out
    assert "unknown: no Temporal is configured and no embedded one runs; start one: amends dev" in answer.out


def test_an_unreachable_temporal_costs_a_second_at_most(amends: Amends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Temporal that does not answer is reported as away, and does not delay the output."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    driving = amends("show", "order-accepted", "--json").json["driving"]
    assert driving["driven"] is None
    assert driving["temporal"] == "127.0.0.1:1"
    assert "Temporal at 127.0.0.1:1" in driving["text"]


@pytest.mark.parametrize("command", ["show", "history"])
@pytest.mark.parametrize(
    ("run_id", "said"),
    [
        ("order-lsot", "no run has the id 'order-lsot' in this store; did you mean 'order-lost'"),
        ("order-st", "did you mean 'order-stuck'?"),
        ("completely-different", "`amends list` lists those there are"),
        ("x" * 1_001, "(1001 characters): use 1 to 200 letters"),
        ("../etc", "run id '../etc': use 1 to 200 letters"),
        ("a\x1b[31m", "run id 'a\\x1b[31m': use"),
    ],
)
def test_unknown_ids_end_in_one_line(amends: Amends, command: str, run_id: str, said: str) -> None:
    """An unknown id is answered with the nearest ids, and an invalid one with the form of ids."""
    answer = amends(command, run_id)
    assert answer.code == 2
    assert said in one_line(answer)


def test_what_comes_next_is_told_at_every_point(shop: Shop) -> None:
    """While a claim lasts, its end is shown; after that, the next undo is shown."""
    journal = journal_of(shop.project)
    hang, undo, stuck, accepted = (
        journal.record_blocking(f"order-{name}") for name in ("hang", "slow-undo", "stuck", "accepted")
    )
    journal.close_blocking()
    assert hang
    assert undo
    assert stuck
    assert accepted
    due_ms = hang.state.node("charge_card").due_ms
    assert due_ms is not None
    under_way = Next("charge_card", "attempt 1 of 2 is in flight until its claim ends", due_ms)
    assert next_steps(hang.state, hang.state.updated_ms) == (under_way,)
    (undoing,) = next_steps(undo.state, undo.state.updated_ms)
    assert undoing[:2] == ("charge_card", "undo attempt 1 of 10 is in flight until its claim ends")
    assert next_steps(accepted.state, 0) == (Next("reserve_stock", "attempt 1 of 3", None),)
    assert next_steps(stuck.state, 0) == ()


# ---- history


def test_a_history_tells_cause_and_effect(amends: Amends) -> None:
    """Each fact has its position, its time since the start, node, attempt, whole key, and the position of its cause."""
    answer = amends("history", "order-refused")
    assert answer.code == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in answer.out.splitlines() if re.match(r"\s*\d+\s", line)]
    assert [row[0] for row in rows] == [str(at) for at in range(1, len(rows) + 1)]
    assert rows[0][1:3] == ["+0 ms", "SagaStarted"]
    assert rows[-1][2] == "SagaCompensated"
    started = next(row for row in rows if row[2:4] == ["StepStarted", "charge_card"])
    assert started[4:7] == ["1", "order-refused/charge_card/do/0", "2"]
    undone = next(row for row in rows if row[2:4] == ["CompensationStarted", "charge_card"])
    assert undone[5] == "order-refused/charge_card/undo/0"


def test_a_step_that_returns_nothing_says_nothing(amends: Amends) -> None:
    """A result of `null` appears only in JSON, since it means nothing to a reader."""
    shown = amends("show", "order-done")
    assert re.search(r"confirm_order .* 1/3$", shown.out, re.MULTILINE)
    assert "null" not in shown.out + amends("history", "order-done").out
    nodes = {node["name"]: node for node in amends("show", "order-done", "--json").json["nodes"]}
    assert (nodes["confirm_order"]["has_result"], nodes["confirm_order"]["result"]) == (True, None)


def test_a_history_as_json_is_the_whole_journal(amends: Amends, shop: Shop) -> None:
    """JSON has every field of every fact, unshortened."""
    facts = amends("history", "order-stuck", "--json").json
    with_journal = open_journal(shop.project.settings.store_url)
    stored = with_journal.facts_blocking("order-stuck")
    with_journal.close_blocking()
    assert [fact["fact"] for fact in facts] == [fact.kind for fact in stored]
    assert facts[0]["input"] == {"order_id": "stuck", "fail": "undo", "note": NASTY}
    for shown, fact in zip(facts, stored, strict=True):
        assert shown.items() >= fact.model_dump(mode="json").items()


@pytest.mark.parametrize("run_id", ["order-stuck", LONG])
def test_nothing_that_users_write_breaks_a_history(amends: Amends, run_id: str) -> None:
    """Escape sequences, line breaks, markup and long ids stay in their cells."""
    for command in ("show", "history"):
        answer = amends(command, run_id)
        assert answer.code == 0
        assert all(line.isprintable() for line in answer.out.splitlines())
    assert r"\x1b[31m" in amends("show", "order-stuck").out


def test_watching_ends_when_the_run_is_closed(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Facts appended while a history is watched are printed once each, and the end of the run ends the command."""
    url = empty_store(tmp_path)
    asyncio.run(accept_in(url, shop.project, "watched", driver="in-process", fail="charge"))
    driver = threading.Thread(target=lambda: asyncio.run(resume(url, shop.project, "watched")))
    driver.start()
    code = main(["-C", str(tmp_path), "history", "watched", "--watch"])
    driver.join()
    out = capsys.readouterr().out
    assert code == 0
    positions = re.findall(r"^\s*(\d+)\s+\+", out, re.MULTILINE)
    assert positions == [str(at) for at in range(1, len(positions) + 1)]
    assert out.count("since start") == 1
    assert "SagaCompensated" in out
    assert out.splitlines()[-1].startswith("COMPENSATED after")


def test_ctrl_c_ends_watching_with_valid_json(shop: Shop) -> None:
    """An interrupted command ends with 130, and its output is valid JSON without any other text."""
    with subprocess.Popen(
        [PROGRAM, "-C", shop.folder, "history", "order-hang", "--watch", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline() + process.stdout.readline()
        process.send_signal(signal.SIGINT)
        # Not `communicate`, which drops the bytes that the reader has taken already.
        rest, said = process.stdout.read(), process.stderr.read()
    assert process.returncode == 130
    assert said in {"", "amends: interrupted\n"}
    facts = json.loads(first + rest)
    assert [fact["position"] for fact in facts] == list(range(1, len(facts) + 1))
    assert facts[0]["fact"] == "SagaStarted"
