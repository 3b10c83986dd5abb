"""Test text, tables and flowcharts for the screen."""

import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType
from strategies import plan_node, retry_policy

from amends.aggregates.run.plan import Plan, Role, Stage, StepKind
from amends.aggregates.values.strict_json import ascii_json
from amends.cli.views.mermaid import flowchart
from amends.cli.views.plan import policy_text, shape_of
from amends.cli.views.table import WHOLE, WIDE, Column, clip, escaped, fields, styled, table, widths

EVIL = [
    "[red]x[/red]",
    "\x1b[31mred",
    "a\nb\r\tc",
    "\u202eright to left",
    "\ud800",
    "[/]",
    "漢字" * 30,
    "y" * 3_000,
    ":smile:",
]

COLUMNS = (
    Column("run", 12, copied=True),
    Column("status", 8),
    Column("attempts", 3, right=True),
    Column("error", 20, below=True),
)


def printed(renderable: RenderableType, width: int) -> list[str]:
    """Print for a screen without colours, and return the lines."""
    out = io.StringIO()
    Console(file=out, width=width, markup=False, highlight=False, emoji=False, color_system=None).print(renderable)
    return [line.rstrip() for line in out.getvalue().splitlines()]


# ---- text


@given(st.text(max_size=200))
def test_escaped_text_is_printable_and_one_line(text: str) -> None:
    """Shown text of users can neither move the cursor nor begin a new line."""
    shown = escaped(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb", r"a\nb"),
        ("\u202e", r"\u202e"),
        ("\ud800", r"\ud800"),
        ("[red]é漢[/red]", "[red]é漢[/red]"),
    ],
)
def test_escapes_are_those_of_python(text: str, shown: str) -> None:
    """No character is lost: a reader can reconstruct the original text."""
    assert escaped(text) == shown


@given(st.text(max_size=300), st.integers(2, 100))
@example("00\u03000", 2)
def test_clipped_text_fits(text: str, limit: int) -> None:
    """A shortened text keeps within its columns, and shows that it was shortened."""
    shown = clip(text, limit)
    assert cell_len(shown) <= limit
    assert shown == escaped(text) or shown.endswith("…")


# ---- tables


@given(
    st.lists(st.tuples(*[st.text(max_size=60) | st.sampled_from(EVIL)] * len(COLUMNS)), min_size=1, max_size=5),
    st.integers(24, 200) | st.just(WIDE),
)
def test_no_line_of_a_table_is_wider_than_the_screen(rows: list[tuple[str, ...]], width: int) -> None:
    """A table with any content fits its screen, and every line can be printed."""
    lines = printed(table(COLUMNS, rows, width), width)
    assert max(map(cell_len, lines), default=0) <= width
    assert all(line.isprintable() for line in lines)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200), st.integers(30, 200))
def test_what_is_copied_is_never_shortened(run_id: str, width: int) -> None:
    """An id without enough room is folded, and all of it is there."""
    lines = printed(table(COLUMNS, [(run_id, "COMPENSATED", "10", "")], width), width)
    first = "".join(line[: line.find(" ")] if " " in line.strip() else line for line in lines[1:])
    assert run_id in first.replace(" ", "")


@given(st.lists(st.integers(0, 120), min_size=4, max_size=4), st.integers(1, 300))
def test_widths_keep_to_the_screen_and_to_what_is_least(natural: list[int], width: int) -> None:
    """Shares add up to no more than the width, and none is smaller than its column allows."""
    shares = widths(COLUMNS, natural, width)
    least = [min(wish, column.least) for wish, column in zip(natural, COLUMNS, strict=True)]
    gaps = 2 * (len(COLUMNS) - 1)
    if shares is None:
        assert sum(least) + gaps > width
    else:
        assert sum(shares) + gaps <= max(width, sum(natural) + gaps)
        assert all(low <= share <= wish for low, share, wish in zip(least, shares, natural, strict=True))


def test_markup_and_escapes_are_shown_as_they_are() -> None:
    """Markup of rich has no meaning in foreign text, and control characters have no effect."""
    lines = printed(table(COLUMNS, [("[bold]id[/]", "\x1b[31m", ":smile:", "a\nb")], WIDE), WIDE)
    assert lines[1].split() == ["[bold]id[/]", r"\x1b[31m", ":smile:", r"a\nb"]


def test_a_table_gives_way_step_by_step() -> None:
    """With less room cells are shortened, then columns move below, and at last everything is stacked."""
    rows = [("order-1", "NEEDS_ATTENTION", "3", "the bank did not answer within 10 s, after three attempts")]
    assert printed(table(COLUMNS, rows, 100), 100) == [
        "run      status           attempts  error",
        "order-1  NEEDS_ATTENTION         3  the bank did not answer within 10 s, after three attempts",
    ]
    assert printed(table(COLUMNS, rows, 60), 60)[1] == "order-1  NEEDS_ATTENTION         3  the bank did not answer…"
    assert printed(table(COLUMNS, rows, 40), 40) == [
        "run      status           attempts",
        "order-1  NEEDS_ATTENTION         3",
        "    error: the bank did not answer",
        "    within 10 s, after three attempts",
    ]
    assert printed(table(COLUMNS, rows, 18), 18)[:4] == ["order-1", "    status:", "    NEEDS_ATTENTIO", "    N"]


def test_columns_that_are_shown_whole_go_below_together() -> None:
    """Columns to compare stand together, next to the row or below it, and none of their text is cut."""
    columns = [Column("id"), Column("expected", WHOLE, below=True), Column("actual", WHOLE, below=True)]
    rows = [("d-1", "three books", "two books and a picture")]
    assert printed(table(columns, rows, 80), 80)[1] == "d-1  three books  two books and a picture"
    assert printed(table(columns, rows, 35), 35) == [
        "id",
        "d-1",
        "    expected: three books",
        "    actual: two books and a picture",
    ]


def test_columns_without_anything_are_left_out() -> None:
    """A column that is empty in all rows takes no room."""
    assert printed(table(COLUMNS, [("a", "", "", "")], 80), 80) == ["run", "a"]


def test_a_status_keeps_its_colour_when_it_is_shortened() -> None:
    """The style of a cell survives any change of its text."""
    out = io.StringIO()
    console = Console(
        file=out, width=24, force_terminal=True, color_system="standard", no_color=False, legacy_windows=False
    )
    console.print(table(COLUMNS[:2], [("x" * 12, styled("NEEDS_ATTENTION", "red"))], 24))
    assert "\x1b[31mNEEDS_ATT" in out.getvalue()


def test_fields_leave_out_what_is_not_there() -> None:
    """An empty value has no line, and a long one is folded next to its name."""
    lines = printed(fields([("saga", "place-order"), ("error", None), ("keys", ""), ("input", "z" * 50)], 40), 40)
    assert lines == ["saga   place-order", f"input  {'z' * 33}", f"       {'z' * 17}"]


def test_json_is_ascii() -> None:
    """Printed JSON upsets neither a terminal nor an encoding, and reads back equal."""
    assert ascii_json({"a": EVIL}).isascii()


# ---- plans


def test_policies_read_like_sentences() -> None:
    """Attempts, delays and the timeout of one attempt are shown, each only when it is set."""
    assert policy_text(retry_policy(3, first_ms=200), 10_000) == "3 attempts, 200 ms x2 up to 1 s, timeout 10 s"
    assert policy_text(retry_policy(None)) == "no limit, 10 ms x2 up to 1 s"
    assert policy_text(retry_policy(1), 500) == "1 attempt, timeout 500 ms"
    assert policy_text(None) == ""


def plan() -> Plan:
    """Return a plan with everything that a flowchart can show."""
    return Plan(
        saga="end",
        input_type="Order",
        stages=(
            Stage(nodes=(plan_node("end", kind=StepKind.TRANSACTION),)),
            Stage(
                nodes=(plan_node("a"), plan_node("b"), plan_node("c", undo=False, irreversible='"it" <stays>; #1')),
                ordered=True,
            ),
            Stage(nodes=(plan_node("decide", undo=False, role=Role.PIVOT),)),
            Stage(nodes=(plan_node("class", undo=False, role=Role.RETRIABLE),)),
        ),
    )


def test_a_shape_fits_on_one_line() -> None:
    """Order, parallel groups and roles can be distinguished without colours."""
    assert shape_of(plan()) == "end > (a | b | c) > pivot decide > retriable class"


def test_a_flowchart_shows_both_ways() -> None:
    """The way forward visits every stage in order, the way back every compensation in reverse order."""
    lines = [line.strip() for line in flowchart(plan(), {}).splitlines()]
    assert lines[0] == "flowchart TD"
    assert [line for line in lines if " --> " in line] == [
        "start --> n0",
        "n0 --> s1",
        "s1 --> n4",
        "n4 --> n5",
        "n5 --> completed",
    ]
    assert [line for line in lines if line.startswith(("us1 ", "un0 "))] == [
        "us1 -.-> un0",
        "un0 -.-> compensated",
    ]
    assert 'subgraph us1 ["undone one by one"]' in lines
    assert 'n4{{"decide<br/>effect, pivot"}}' in lines
    assert 'n5(["class<br/>effect, retriable"])' in lines


def test_a_flowchart_takes_no_orders_from_labels() -> None:
    """Words of Mermaid are never ids, and its special characters in a label are written by number."""
    text = flowchart(plan(), {})
    assert "#34;it#34; #60;stays#62;#59; #35;1" in text
    assert all(line.count('"') in {0, 2} for line in text.splitlines())
    assert not any(line.strip() in {"end -->", "class"} for line in text.splitlines())


@given(st.lists(st.text("ab-/", min_size=1, max_size=30), max_size=20), st.integers(16, 60))
def test_sentences_are_folded_between_words(words: list[str], width: int) -> None:
    """A column of sentences breaks no word that fits in a line, and loses none."""
    column = Column("", 8, copied=True, prose=True)
    lines = printed(table([column], [[" ".join(words)]], width, header=False), width)
    assert "".join(lines).replace(" ", "") == "".join(words)
    whole = [word for line in lines for word in line.split()]
    assert all(word in whole for word in words if len(word) <= width)
