"""Rows of the table: a figure is always a ratio of two things that were measured in turn, in the same run."""

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

__all__ = ["Effort", "Row", "in_turn", "ratios", "table"]


@dataclass(frozen=True)
class Effort:
    """The amount of work in a measurement.

    Attributes:
        rounds: Number of rounds; each gives one ratio.
        share: Part of the usual amount of work in a round; small ones only show that the code runs.
    """

    rounds: int
    share: float = 1.0

    @property
    def few_rounds(self) -> int:
        """Rounds of a long measurement, whose ratios differ little from round to round."""
        return min(3, self.rounds)

    def of(self, count: int) -> int:
        """Return the share of a count, at least 1."""
        return max(1, round(count * self.share))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: The measured thing.
        against: The thing that it is compared with.
        ratios: In each round, the first divided by the second.
        bound: The value that the median has to reach, or to stay under.
        at_least: Whether the bound is a lower one: the ratio is of speeds. Otherwise it is of times.
    """

    what: str
    against: str
    ratios: Sequence[float]
    bound: float
    at_least: bool = True

    @property
    def ratio(self) -> float:
        """The median: noise of the machine that hits one round does not move it."""
        return statistics.median(self.ratios)

    @property
    def held(self) -> bool:
        """Whether the bound holds."""
        return self.ratio >= self.bound if self.at_least else self.ratio <= self.bound


async def in_turn(rounds: int, *measures: Callable[[int], Awaitable[float]]) -> list[list[float]]:
    """Measure several things in short rounds, so that other load on the machine hits all of them.

    Every second round goes the other way round, so a drift of the speed favours none of them.

    Args:
        rounds: How many rounds.
        measures: Each receives the number of the round and returns its figure.

    Returns:
        For each of them its figure in every round.
    """
    found: list[list[float]] = [[] for _ in measures]
    for number in range(rounds):
        order = range(len(measures)) if number % 2 == 0 else reversed(range(len(measures)))
        for index in order:
            found[index].append(await measures[index](number))
    return found


def ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Divide round by round: the machine's speed drifts, but not between two neighbours."""
    return [a / b for a, b in zip(first, second, strict=True)]


def table(rows: Sequence[Row]) -> str:
    """Draw the rows as a Markdown table."""
    lines = ["| Amends | compared with | ratio | lowest to highest round | bound | held |", "|---|---|---|---|---|---|"]
    for row in rows:
        sign = "at least" if row.at_least else "at most"
        spread = f"{min(row.ratios):.2f} to {max(row.ratios):.2f}"
        held = "yes" if row.held else "**NO**"
        lines.append(f"| {row.what} | {row.against} | {row.ratio:.2f} | {spread} | {sign} {row.bound:g} | {held} |")
    return "\n".join(lines)
