"""Rows of the table: a figure is always a ratio of two things measured in the same run."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Row", "ratio", "table"]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What is measured.
        against: What it is measured against.
        ratio: The first divided by the second; above 1 is better when `at_least`, below 1 when not.
        bound: What it has to reach, or to stay under.
        at_least: Whether the bound is a lower one.
    """

    what: str
    against: str
    ratio: float
    bound: float
    at_least: bool = True

    @property
    def held(self) -> bool:
        """Whether the bound holds."""
        return self.ratio >= self.bound if self.at_least else self.ratio <= self.bound


def ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Divide pair by pair, and give the median: the machine's speed drifts, but not between two neighbours."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def table(rows: Sequence[Row]) -> str:
    """Draw the rows as a Markdown table."""
    lines = ["| measured | against | ratio | bound |", "|---|---|---|---|"]
    for row in rows:
        sign = "at least" if row.at_least else "at most"
        mark = "" if row.held else " (missed)"
        lines.append(f"| {row.what} | {row.against} | {row.ratio:.2f} | {sign} {row.bound:g}{mark} |")
    return "\n".join(lines)
