"""The report of a search: its verdict, the number of stories, and for each broken law a shortest story. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from amends.sagas.definition.participants import Contract
from amends.sagas.prove.coverage import Coverage
from amends.sagas.prove.experiment import Prepared
from amends.sagas.prove.laws import Law
from amends.sagas.prove.search import Explored
from amends.sagas.prove.story import Story, story_of

__all__ = ["BrokenLaw", "Report", "Verdict", "report_of"]


class Verdict(StrEnum):
    """The result of a search in one word."""

    PROVED = "proved"
    """Every story within the number of faults was explored, and none breaks a law."""
    SAMPLED = "sampled"
    """The time was over before every story was explored; no story that was tried breaks a law."""
    BROKEN = "broken"
    """A story breaks a law."""


@dataclass(frozen=True)
class BrokenLaw:
    """A law that a story breaks.

    Attributes:
        law: The law.
        message: How the story breaks it.
        faults: The number of faults in the story.
        story: A shortest story that was found.
        token: Plays the story again.
    """

    law: Law
    message: str
    faults: int
    story: Story
    token: str

    def __str__(self) -> str:
        books = "\n".join(f"    {line}" for line in self.story.books)
        return (
            f"{self.law.statement}\nBroken: {self.message}\nThe story, with {_count(self.faults, 'fault')}:\n"
            f"{self.story}\nThe books:\n{books}\nReplay: {self.token}"
        )


@dataclass(frozen=True)
class Report:
    """The result of a search.

    Attributes:
        saga: Name of the saga.
        faults: The number of faults in one story.
        operators: The number of decisions of operators in one story.
        contracts: The contract of each participant, by name.
        assumed: Participants whose contract no one stated.
        explored: The numbers of the search.
        broken: The laws that stories break; the one with the shortest story first.
        seed: The seed of random stories.
    """

    saga: str
    faults: int
    operators: int
    contracts: Mapping[str, Contract]
    assumed: tuple[str, ...]
    explored: Explored
    broken: tuple[BrokenLaw, ...]
    seed: int

    @property
    def verdict(self) -> Verdict:
        """The result in one word."""
        if self.broken:
            return Verdict.BROKEN
        return Verdict.PROVED if self.explored.complete >= self.faults else Verdict.SAMPLED

    @property
    def holds(self) -> bool:
        """Whether no story that was tried breaks a law."""
        return not self.broken

    @property
    def scenarios(self) -> int:
        """The number of stories from the start to an end."""
        return self.explored.scenarios

    @property
    def states(self) -> int:
        """The number of different worlds."""
        return self.explored.states

    @property
    def coverage(self) -> Coverage:
        """The rows of the node table that were used."""
        return self.explored.coverage

    @property
    def contracts_text(self) -> str:
        """The contract of each participant in words; empty if there is no participant."""
        return ", ".join(f"{name}: {contract.value}" for name, contract in self.contracts.items())

    def __str__(self) -> str:
        participants = self.contracts_text or "none"
        lines = [f"{self.saga}: {self.verdict}; {self._numbers()}; participants: {participants}"]
        lines += [f"\n{each}" for each in self.broken]
        return "\n".join(lines)

    def _numbers(self) -> str:
        explored = self.explored
        numbers = f"{_count(self.faults, 'fault')}, {explored.scenarios:,} stories in {explored.states:,} states"
        if explored.complete >= self.faults:
            return numbers
        done = f"complete up to {_count(explored.complete, 'fault')}" if explored.complete >= 0 else "not complete"
        return f"{numbers}; {done}, then {explored.sampled:,} random stories with seed {self.seed}"


def report_of(prepared: Prepared, explored: Explored, *, seed: int = 0) -> Report:
    """Return the report of a search."""
    experiment = prepared.experiment
    broken = tuple(
        BrokenLaw(
            each.law,
            each.message,
            each.faults,
            story_of(prepared.player, prepared.root, each.path),
            prepared.token(each.path),
        )
        for each in explored.violations
    )
    assumed = tuple(sorted({each.participant for each in prepared.terms.values() if each.assumed}))
    return Report(
        experiment.saga.name,
        experiment.faults,
        experiment.operators,
        prepared.contracts,
        assumed,
        explored,
        broken,
        seed,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
