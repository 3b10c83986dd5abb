"""Write the reference page of the laws of the search, and of the mutants of the core that they kill.

`python docs/_tools/laws.py` writes the page; the tests of the mutants compare each row with the story that they find.
"""

# ruff: noqa: INP001 - a program, not a package

import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from proving.mutant_parts import Killed, Mutant, killed  # noqa: E402 - they are among the tests
from proving.mutants import MUTANTS  # noqa: E402 - as above

from amends.sagas.prove.laws import LAWS  # noqa: E402 - as above

__all__ = ["PAGE", "law_rows", "mutant_row", "page"]

PAGE = ROOT / "docs" / "reference" / "laws-and-mutants.md"

TEXT = """\
# Laws of the search, and the mutants that they kill

<!-- Written by docs/_tools/laws.py from the laws and from the mutants of the tests; do not edit. -->

This page is for you if you read a report of the search, or want to know how far to trust it. The search explores the
stories of a run: every order of calls, answers, crashes and decisions, up to a number of faults. It checks these laws
in each story.

| law | statement |
|---|---|
{laws}

## Mutants

A law that no fault breaks proves nothing. So the tests break the core of Amends on purpose: each *mutant* is one small
wrong change, and the search has to find a story that breaks a law. On the core as it is, the same plans keep every law.
The table has the law that each mutant breaks first, with the faults and the decisions of its shortest story.

| fault of the core | law | shortest story |
|---|---|---|
{mutants}
"""


def law_rows() -> Iterable[str]:
    """Return a row of the table for each law."""
    return (_row(law.name, law.statement) for law in LAWS)


def mutant_row(mutant: Mutant, death: Killed) -> str:
    """Return the row of a mutant."""
    return _row(mutant.fault, death.law, f"{death.line}: {death.message}")


def page() -> str:
    """Return the page; it takes some seconds, because every mutant is explored.

    Raises:
        RuntimeError: A mutant survives.
    """
    rows = []
    for mutant in MUTANTS:
        death = killed(mutant)
        if death is None:
            raise RuntimeError(f"no law notices the mutant: {mutant.fault}")
        rows.append(mutant_row(mutant, death))
    return TEXT.format(laws="\n".join(law_rows()), mutants="\n".join(rows))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
