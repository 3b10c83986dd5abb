"""Test `amends list --stuck`: the runs that need attention, on a real store with runs of every kind."""

import pytest
from reading_shop import LONG, Amends, one_line

from amends.aggregates.run.record import RunSummary
from amends.aggregates.run.state import RunStatus
from amends.cli.commands.runs import list_stuck as stuck_module
from amends.sagas.engine.overdue import Overdue, Why

STUCK = ["order-accepted", "order-slow-undo", "order-hang", "order-stuck", "order-mail"]


def test_stuck_runs_are_listed_with_the_reason(amends: Amends) -> None:
    """Open runs that nothing advances and runs that wait for an operator are found; the exit status says so."""
    answer = amends("list", "--stuck")
    assert answer.code == 1
    lines = answer.out.splitlines()
    assert lines[0].split() == ["run", "saga", "status", "stuck", "why", "last", "error"]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert list(rows) == STUCK
    assert "reserve_stock is due, but no worker does it" in rows["order-accepted"]
    assert "charge_card is due, but no worker does it" in rows["order-hang"]
    assert "reserve_stock waits for an operator" in rows["order-stuck"]
    assert "send_receipt waits for an operator" in rows["order-mail"]
    assert all(line.isprintable() for line in lines)


def test_json_says_since_when(amends: Amends) -> None:
    """A run that waits for an operator is stuck since its last fact, which asked for one."""
    answer = amends("list", "--stuck", "--json", "--where", "order_id=stuck")
    assert answer.code == 1
    (run,) = answer.json
    assert run["overdue"] == [{"node": "reserve_stock", "since_ms": run["updated_ms"], "why": "attention"}]
    assert run["stuck_since_ms"] == run["updated_ms"]
    assert run["status"] == "NEEDS_ATTENTION"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--saga", "place-order"], STUCK),
        (["--saga", "cancel-order"], []),
        (["--status", "needs-attention"], ["order-stuck", "order-mail"]),
        (["--status", "completed", "--status", "running"], ["order-accepted", "order-hang"]),
        (["--where", "order_id=done"], []),
        (["--since", "1ms"], []),
        (["--limit", "2"], STUCK[:2]),
        (["--limit", "5"], STUCK),
    ],
)
@pytest.mark.parametrize("page", [2, 200])
def test_stuck_runs_are_narrowed_by_options(
    amends: Amends, options: list[str], found: list[str], page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option of `list` narrows the search, with pages of any size; an empty result is status 0."""
    monkeypatch.setattr(stuck_module, "_PAGE", page)
    answer = amends("list", "--stuck", "--json", *options)
    assert [run["run_id"] for run in answer.json] == found
    assert answer.code == (1 if found else 0)


def test_remarks_say_that_there_are_more_or_none(amends: Amends) -> None:
    """A list that is cut says so, and an empty one says that nothing is stuck."""
    assert "the newest 4 are shown" in amends("list", "--stuck", "--limit", "4").err
    assert amends("list", "--stuck", "--limit", "5").err == ""
    assert one_line(amends("list", "--stuck", "--saga", "cancel-order")) == "no runs are stuck"


def test_runs_that_have_ended_cannot_be_stuck(amends: Amends) -> None:
    """A request for stuck runs of a status in which no run can be stuck is a usage error."""
    answer = amends("list", "--stuck", "--status", "completed")
    assert answer.code == 2
    assert one_line(answer).startswith("--stuck with --status COMPLETED: such runs have ended")
    assert LONG not in answer.err


@pytest.mark.parametrize("columns", ["40", "80"])
def test_a_narrow_screen_shows_everything(amends: Amends, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns without room next to the others move below their row."""
    monkeypatch.setenv("COLUMNS", columns)
    answer = amends("list", "--stuck")
    assert "why: reserve_stock waits for an operator" in " ".join(answer.out.split())
    assert all(len(line) <= int(columns) for line in answer.out.splitlines())


def test_a_run_with_many_open_nodes_fits_a_screen() -> None:
    """Of 200 nodes that wait for an operator three are named and the others counted; JSON names all."""
    run = RunSummary("r", "s", RunStatus.NEEDS_ATTENTION, 9, 0, 0, "", None, {}, "d", "f")
    nodes = tuple(Overdue(f"step_{number}", 0, Why.ATTENTION) for number in range(200))
    stuck = stuck_module.Stuck(run, (*nodes, Overdue("late", 0, Why.SLOW)))
    assert stuck.why == (
        "step_0, step_1, step_2 and 197 more: waits for an operator; late has been open for longer than its threshold"
    )
    assert len(stuck.to_json()["overdue"]) == 201  # type: ignore[arg-type]  # a list
