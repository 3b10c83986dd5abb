"""Test the fold of a run's facts into the rows that `amends run` shows."""

import pytest
from hypothesis import given
from rich.console import Console
from runs.examples import CLAIM, FAILURE, PLAN, decided, fact
from strategies import World, eventful_histories, histories, started

from amends.aggregates.run import facts
from amends.aggregates.run.state import RunStatus
from amends.cli.output.live import render
from amends.cli.views.fact_words import Mark
from amends.cli.views.progress import Board


def board_of(*said: facts.Fact) -> Board:
    """Fold facts that follow an acceptance at 0 ms."""
    board = Board(PLAN)
    for each in (started(PLAN), *said):
        board.apply(each)
    return board


def marks(board: Board) -> dict[str, Mark]:
    """Return the mark of every row."""
    return {f"undo of {row.node}" if row.undo else row.node: row.mark for row in board.rows}


def test_the_stage_that_is_next_is_busy() -> None:
    """The row of a transaction moves, although no fact marks its beginning."""
    board = board_of(fact("StepSucceeded", 10, node="a", attempt=1, result=None))
    assert marks(board) == {"a": Mark.DONE, "b": Mark.BUSY, "c": Mark.BUSY, "d": Mark.PENDING}
    assert [(row.began_ms, row.ended_ms) for row in board.rows] == [(0, 10), (10, None), (10, None), (None, None)]


def test_an_effect_lasts_from_its_first_attempt() -> None:
    """The duration of a step includes the waits between its attempts."""
    board = board_of(
        fact("StepStarted", 5, node="a", attempt=1, **CLAIM),
        fact("StepAttemptFailed", 20, node="a", attempt=1, retry_at_ms=50, **FAILURE),
    )
    row = board.rows[0]
    assert (row.mark, row.text, row.began_ms, row.due_ms) == (Mark.WAITING, "attempt 1 failed: E: no", 5, 50)
    board.apply(fact("StepStarted", 50, node="a", attempt=2, **CLAIM))
    board.apply(fact("StepSucceeded", 60, node="a", attempt=2, result=1))
    row = board.rows[0]
    assert (row.mark, row.text, row.began_ms, row.ended_ms, row.due_ms) == (Mark.DONE, "", 5, 60, None)


def test_what_is_undone_stands_below_the_steps_in_its_order() -> None:
    """Steps keep their last state; their undos have rows of their own, and no row waits any more."""
    board = board_of(
        fact("StepSucceeded", 10, node="a", attempt=1, result=None),
        fact("StepSucceeded", 20, node="b", attempt=1, result=None),
        fact("StepRejected", 30, node="c", attempt=1, reason="no"),
        fact("SagaFailed", 30, node="c", reason="no"),
        fact("CompensationStarted", 31, node="b", attempt=1, **CLAIM),
        fact("CompensationExhausted", 40, node="b"),
        fact("CompensationSucceeded", 50, node="a", attempt=1),
    )
    assert list(marks(board).items()) == [
        ("a", Mark.DONE),
        ("b", Mark.DONE),
        ("c", Mark.FAILED),
        ("d", Mark.PENDING),
        ("undo of b", Mark.OPEN),
        ("undo of a", Mark.DONE),
    ]


def check_that_no_row_moves(world: World) -> None:
    """Check the rows of a closed run: none moves, and each row of a completed run is done."""
    board = Board(world.record.state.plan)
    for each in world.facts:
        board.apply(each)
    shown = {row.mark for row in board.rows}
    assert Mark.BUSY not in shown
    if world.record.state.status is RunStatus.COMPLETED:
        assert shown == {Mark.DONE}


@given(histories())
def test_no_row_moves_once_the_run_is_closed(world: World) -> None:
    """Every closed run of any saga shows its completed nodes, and none that moves."""
    check_that_no_row_moves(world)


@given(eventful_histories())
def test_no_row_moves_whatever_operators_do(world: World) -> None:
    """Cancels, decisions and late answers open rows again; every run that closes after that shows none that moves."""
    check_that_no_row_moves(world)


def test_an_operator_opens_a_run_that_goes_forward_again() -> None:
    """The next node moves again after a decision, and the row has its author, reason and evidence."""
    board = board_of(
        fact("StepRejected", 10, node="a", attempt=1, reason="no"),
        fact("AttentionRequested", 10, nodes=("a",), reason="no"),
    )
    assert Mark.BUSY not in marks(board).values()
    board.apply(decided("RetryRequested", node="a", attempt=0))
    assert board.rows[0].mark is Mark.WAITING
    board.apply(decided("StepSkipped", node="a", result=None, evidence="TX-7"))
    assert (board.rows[0].mark, board.rows[0].text) == (Mark.DONE, "skipped, by op: why; evidence: TX-7")
    assert marks(board)["b"] is Mark.BUSY


def test_a_late_effect_opens_its_undo_again() -> None:
    """An effect that acted after its undo must be undone again, and the row says so until it is."""
    undone = (
        fact("StepInDoubt", 10, node="a", reason="?"),
        fact("SagaFailed", 10, node="a", reason="?"),
        fact("CompensationSucceeded", 20, node="a", attempt=1),
        fact("SagaCompensated", 20),
    )
    board = board_of(*undone, fact("LateEffectObserved", 30, node="a", attempt=1, result=1))
    assert marks(board) == {
        "a": Mark.DONE,
        "b": Mark.PENDING,
        "c": Mark.PENDING,
        "d": Mark.PENDING,
        "undo of a": Mark.PENDING,
    }
    assert board.rows[-1].text == "to be undone again"


def test_nothing_new_is_shown_as_begun_after_a_cancel() -> None:
    """A cancelled run begins no further step."""
    board = board_of(fact("StepSucceeded", 10, node="a", attempt=1, result=None), decided("CancelRequested"))
    assert Mark.BUSY not in marks(board).values()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_rows_are_plain_text_within_the_width(encoding: str) -> None:
    """Names and reasons of users can neither colour a row, nor break it, nor exceed the terminal's width."""
    reason = "[red]no[/red]\n\x1b[2J" + "x" * 200
    board = board_of(fact("StepRejected", 30, node="a", attempt=1, reason=reason))
    console = Console(width=60, force_terminal=True, color_system=None, record=True)
    with console.capture() as captured:
        console.print(render(board, 1_000, encoding=encoding))
    lines = captured.get().splitlines()
    assert len(lines) == 4
    assert all(len(line) <= 60 for line in lines)
    assert "refused: [red]no[/red] ?[2Jxx" in lines[0]
    assert captured.get().isascii() is False or encoding == "ascii"
