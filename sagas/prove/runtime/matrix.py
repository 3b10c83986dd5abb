"""The contract matrix: the promises of participants under which a saga holds, and a story for each that it does not.

Two participants are explored in every combination of contracts. With more of them, one at a time has a weaker contract
while the others remember undos, and then all have the same one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from amends.sagas.definition.participants import Contract, Participant
from amends.sagas.prove.end import Invariant
from amends.sagas.prove.experiment import Contracts, Experiment
from amends.sagas.prove.report import Report
from amends.sagas.prove.runtime.explore import SECONDS, Progress, run_experiment
from amends.sagas.prove.terms import combinations_of

__all__ = ["ContractMatrix", "MatrixRow", "contract_matrix"]

_ALL_COMBINATIONS = 2


@dataclass(frozen=True)
class MatrixRow:
    """One combination of contracts.

    Attributes:
        report: The report of its search.
    """

    report: Report

    @property
    def contracts(self) -> Mapping[str, Contract]:
        """The contract of each participant, by name."""
        return self.report.contracts

    @property
    def holds(self) -> bool:
        """Whether no story that was tried breaks a law."""
        return self.report.holds

    def __str__(self) -> str:
        contracts = self.report.contracts_text or "none"
        if self.holds:
            return f"{contracts}: holds ({self.report.verdict})"
        first = self.report.broken[0]
        faults = "; ".join(line.text for line in first.story.lines if line.fault) or "no fault"
        return f"{contracts}: fails: {first.message}; after: {faults}; replay: {first.token}"


@dataclass(frozen=True)
class ContractMatrix:
    """The combinations of contracts that were explored.

    Attributes:
        saga: Name of the saga.
        rows: The combinations; the strongest contracts first.
    """

    saga: str
    rows: tuple[MatrixRow, ...]

    @property
    def needed(self) -> dict[str, Contract]:
        """The weakest contract of each participant with which the saga holds while the others remember undos.

        A participant with which the saga never holds is left out.
        """
        weakest: dict[str, Contract] = {}
        for row in self.rows:
            weaker = {name: each for name, each in row.contracts.items() if each is not Contract.REMEMBERS_UNDO}
            if row.holds and len(weaker) <= 1:
                weakest.update(weaker or row.contracts)
        return weakest

    def __str__(self) -> str:
        return "\n".join([f"{self.saga}: contracts", *(f"  {row}" for row in self.rows)])


def contract_matrix(
    experiment: Experiment,
    combinations: Sequence[Contracts] | None = None,
    *,
    invariant: Invariant | None = None,
    always: Invariant | None = None,
    budget: timedelta = timedelta(seconds=SECONDS),
    seed: int = 0,
    progress: Progress | None = None,
) -> ContractMatrix:
    """Explore a saga with each combination of contracts.

    Args:
        experiment: The saga with its input and assumptions; its contracts do not matter.
        combinations: The combinations to explore; `None` for those that the description of this module names.
        invariant: Your own law, checked at every end; `None` for none.
        always: The same, checked in every state.
        budget: The time for all searches together; each gets an equal part.
        seed: The seed of random stories.
        progress: Shows the progress of each search; `None` for none.

    Raises:
        ProveError: The budget is not positive, or a function of the saga cannot be explored.
    """
    chosen = list(_combinations(experiment)) if combinations is None else combinations
    part = budget / len(chosen)
    rows = []
    for contracts in chosen:
        prepared = replace(experiment, contracts=contracts).prepare()
        report = run_experiment(prepared, invariant=invariant, always=always, budget=part, seed=seed, progress=progress)
        rows.append(MatrixRow(report))
    return ContractMatrix(experiment.saga.name, tuple(rows))


def _combinations(experiment: Experiment) -> Iterator[Contracts]:
    names: list[Participant | str] = list(experiment.prepare().contracts)
    kinds = list(Contract)
    if len(names) <= _ALL_COMBINATIONS:
        yield from combinations_of(dict.fromkeys(names, kinds))
        return
    strong = dict.fromkeys(names, Contract.REMEMBERS_UNDO)
    yield strong
    weak: list[Contract] = [kind for kind in kinds if kind is not Contract.REMEMBERS_UNDO]
    yield from ({**strong, name: kind} for name in names for kind in weak)
    yield from (dict.fromkeys(names, kind) for kind in weak)
