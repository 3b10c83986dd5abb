"""`@prove`: a test that explores every way in which a run of a saga can fail."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from amends.sagas.definition.participants import Contract, Participant
from amends.sagas.definition.saga import Saga
from amends.sagas.prove.end import Invariant
from amends.sagas.prove.experiment import Results
from amends.sagas.prove.problem import ProveError
from amends.sagas.prove.report import Report
from amends.sagas.prove.runtime.explore import SECONDS, explore, replay
from amends.sagas.prove.story import Story
from amends.sagas.prove.terms import combinations_of

__all__ = ["PROOF", "BrokenLawError", "Case", "Proof", "WantedContracts", "prove"]

I = TypeVar("I")  # noqa: E741 - the input, as in every signature here

PROOF = "__amends_proof__"
"""Attribute of a test function that holds its `Proof`; the pytest plugin looks for it."""

WantedContracts = Mapping[Participant | str, Contract | Sequence[Contract]]
"""Contracts to explore in place of the declared ones; a list asks for one search with each of them."""


class BrokenLawError(AssertionError):
    """A story breaks a law; the message has the shortest one.

    Args:
        report: The report of the search.

    Attributes:
        report: The report of the search.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


class Case(NamedTuple):
    """One search that a test asks for.

    Attributes:
        name: The contracts that the test names, such as `payment=remembers-undo`; empty if it names none.
        contracts: The contracts to explore in place of the declared ones.
    """

    name: str
    contracts: Mapping[Participant | str, Contract]


@dataclass(frozen=True)
class Proof:
    """The question that a test asks.

    Attributes:
        saga: The saga.
        input: The input of its run.
        contracts: The contracts that the test names.
        places: The arguments of `explore` that say where the run begins.
        bounds: The arguments of `explore` that bound the search.
    """

    saga: Saga[Any]
    input: Any
    contracts: WantedContracts
    places: Mapping[str, Any]
    bounds: Mapping[str, Any]

    @property
    def cases(self) -> tuple[Case, ...]:
        """The searches: one for each combination of contracts."""
        choices = {name: _choices(name, wanted) for name, wanted in self.contracts.items()}
        return tuple(_case(contracts) for contracts in combinations_of(choices))

    def explore(self, case: Case) -> Report:
        """Explore one case.

        Raises:
            BrokenLawError: A story breaks a law.
            InputError: An argument does not fit, or a function of the saga cannot be explored.
        """
        report = explore(self.saga, self.input, contracts=case.contracts, **self.places, **self.bounds)
        if not report.holds:
            raise BrokenLawError(report)
        return report

    def replay(self, token: str) -> Story:
        """Play the story of a token again.

        Raises:
            InputError: The text is no token, or it belongs to another saga or input.
        """
        return replay(token, self.saga, self.input, **self.places)


def prove(
    saga: Saga[I],
    input: I,  # noqa: A002 - the word that sagas use
    *,
    given: Sequence[object] = (),
    tables: object | None = None,
    others: Sequence[tuple[Saga[Any], Any]] = (),
    faults: int = 2,
    operators: int = 0,
    contracts: WantedContracts | None = None,
    results: Results | None = None,
    always: Invariant | None = None,
    seconds: float = SECONDS,
    seed: int = 0,
) -> Callable[[Invariant], Callable[[], None]]:
    """Return a decorator that turns an invariant into a test over every way in which a run can fail.

    The decorated function takes an `End`, and asserts. The search calls it at every end that a story of at most
    `faults` faults can have. With pytest, each combination of contracts is one test item, and a failing item prints
    the shortest story.

    Args:
        saga: The saga.
        input: The input of the run.
        given: Aggregates that exist before the run, and statements that insert rows into `tables`.
        tables: Your own tables, as SQLAlchemy's `MetaData`; `None` if there are none.
        others: Further runs in the same world, each a saga and its input.
        faults: The number of faults in one story.
        operators: The number of decisions that operators may make in one story.
        contracts: Contracts to explore in place of those that the participants declare, by participant or its name; a
            list asks for one search with each.
        results: Results of steps in place of their functions, by step; an exception is raised.
        always: An invariant that is checked in every state, also while the run is open; `None` for none.
        seconds: The time budget of one search. When 70 % of it are spent, random stories follow.
        seed: The seed of random stories.

    Example:
        >>> from amends import Call, Saga, effect, pivot
        >>> from amends.testing import End, prove
        >>> @effect
        ... async def pay(amount: int, call: Call) -> str:
        ...     return f"paid {amount}"
        >>> @prove(Saga("pay", int, pivot(pay)), 12, faults=1)
        ... def test_nobody_pays_twice(end: End) -> None:
        ...     assert end.standing(pay) <= 1
        >>> test_nobody_pays_twice()
    """

    def decorate(invariant: Invariant) -> Callable[[], None]:
        places = {"given": given, "tables": tables, "others": others, "results": results}
        bounds = {
            "invariant": invariant,
            "always": always,
            "faults": faults,
            "operators": operators,
            "seconds": seconds,
            "seed": seed,
        }
        proof = Proof(saga, input, contracts or {}, places, bounds)

        def test() -> None:
            for case in proof.cases:
                proof.explore(case)

        functools.update_wrapper(test, invariant)
        # pytest reads the parameters of the wrapped function, and would search for a fixture named `end`.
        del test.__wrapped__  # type: ignore[attr-defined]  # set by update_wrapper
        test.__annotations__ = {"return": None}
        setattr(test, PROOF, proof)
        return test

    return decorate


def _choices(name: Participant | str, wanted: object) -> Sequence[Contract]:
    offered = wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted]
    choices = [each for each in offered if isinstance(each, Contract)]
    if not choices or len(choices) < len(offered):
        shown = name if isinstance(name, str) else name.name
        known = ", ".join(f"Contract.{each.name}" for each in Contract)
        raise ProveError(f"contracts={{{shown!r}: {wanted!r}}}: use one of {known}, or a list of them")
    return choices


def _case(contracts: Mapping[Participant | str, Contract]) -> Case:
    names = (
        f"{each if isinstance(each, str) else each.name}={contract.value.replace(' ', '-')}"
        for each, contract in contracts.items()
    )
    return Case(",".join(names), contracts)
