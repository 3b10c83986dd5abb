"""The state diagrams of the documentation match the code."""

import runpy
from typing import Any

import pytest
from repository import ROOT

from amends.aggregates.run.state import CLOSED, RunStatus
from amends.aggregates.run.transitions import NODE_TRANSITIONS, RUN_TRANSITIONS, WHILE


@pytest.fixture(scope="module")
def diagrams() -> dict[str, Any]:
    """Load the program that draws them; `docs` is no package."""
    return runpy.run_path(str(ROOT / "docs" / "_tools" / "diagrams.py"))


def test_the_page_is_what_is_drawn(diagrams: dict[str, Any]) -> None:
    """The page in the repository equals the drawing of today's tables; `python docs/_tools/diagrams.py` writes it."""
    assert diagrams["PAGE"].read_text(encoding="utf-8") == diagrams["state_diagram"]()


def test_the_architecture_shows_the_same_run(diagrams: dict[str, Any]) -> None:
    """The page about the architecture shows the drawn diagram of a run."""
    page = diagrams["ARCHITECTURE"].read_text(encoding="utf-8")
    assert page == diagrams["architecture"]()
    assert diagrams["run_diagram"]() in page


def test_every_row_of_the_tables_is_drawn(diagrams: dict[str, Any]) -> None:
    """Each status and each kind of fact that is in a table is an arrow of the diagram."""
    for name, table in (("run_diagram", RUN_TRANSITIONS), ("node_diagram", NODE_TRANSITIONS)):
        drawn = diagrams[name]().splitlines()
        for status, row in table.items():
            arrows = [line for line in drawn if line.startswith(f"    {status.value.replace(' ', '_')} --> ")]
            for kind, after in row.items():
                target = f"--> {after.value.replace(' ', '_')}: "
                assert any(target in line and kind in line for line in arrows), (status, kind)
            assert row or f"    {status.value.replace(' ', '_')} --> [*]" in arrows


def test_what_opens_a_closed_run_is_drawn(diagrams: dict[str, Any]) -> None:
    """Each kind of fact about a node that can come when a run is closed is an arrow that leads out of it."""
    drawn = diagrams["run_diagram"]().splitlines()
    for status in CLOSED - {RunStatus.COMPLETED}:  # a late effect is only recorded there
        leading = "".join(line for line in drawn if line.startswith(f"    {status} --> ") and "[*]" not in line)
        assert {kind for kind in WHILE if kind in leading} == {kind for kind in WHILE if status in WHILE[kind]}


def test_a_table_is_drawn_like_this(diagrams: dict[str, Any]) -> None:
    """Statuses become states, kinds of facts become labels, and a status without a row ends the diagram."""
    table = {"on": {"switched off": ("Pressed", "Pulled")}, "switched off": {}}
    assert diagrams["draw"]("on", table) == (
        "stateDiagram-v2\n"
        "    [*] --> on\n"
        '    state "switched off" as switched_off\n'
        "    on --> switched_off: Pressed / Pulled\n"
        "    switched_off --> [*]\n"
    )
