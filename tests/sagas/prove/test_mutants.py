"""The laws of the search notice faults of the core: each mutant breaks one, and the core as it is breaks none."""

import runpy
from typing import Any

import pytest
from proving.mutant_parts import Mutant, explored, killed
from proving.mutants import MUTANTS
from repository import ROOT

from amends.sagas.prove.laws import INVARIANT, LAWS

BY_CONTRACT = {"never undone twice"}
"""Laws that no mutant of the core can break, because a participant that keeps its contract prevents it."""


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    """Load the program that writes the page about laws and mutants."""
    return runpy.run_path(str(ROOT / "docs" / "_tools" / "laws.py"))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.fault.replace(" ", "-"))
def test_a_mutant_is_killed(mutant: Mutant, generator: dict[str, Any]) -> None:
    """A law notices the fault, the core without it keeps every law, and the page has the story."""
    assert explored(mutant.plan, mutant.faults, mutant.decisions).violations == ()
    death = killed(mutant)
    assert death is not None, "no law notices it"
    assert death.law == mutant.law, death.message
    page = generator["PAGE"].read_text(encoding="utf-8").splitlines()
    assert generator["mutant_row"](mutant, death) in page, "write the page again: python docs/_tools/laws.py"


def test_the_page_has_every_law_and_no_other_row(generator: dict[str, Any]) -> None:
    """The page lists each law with its statement, and as many mutants as there are."""
    page = generator["PAGE"].read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert rows[1 : len(LAWS) + 1] == list(generator["law_rows"]())
    assert len(rows) == 2 + len(LAWS) + len(MUTANTS)


def test_every_law_has_a_mutant() -> None:
    """No law is idle: a mutant breaks it, a contract does, or it is the user's own."""
    assert {law.name for law in LAWS} == {mutant.law for mutant in MUTANTS} | BY_CONTRACT | {INVARIANT.name}
