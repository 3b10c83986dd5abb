"""An experiment: the saga, its input and the assumptions of a search, checked before it begins. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import JsonValue

from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.run.fact import IN_PROCESS_DRIVER
from amends.aggregates.values.strict_json import digest
from amends.sagas.definition.participants import Contract, Participant
from amends.sagas.definition.saga import Saga
from amends.sagas.definition.steps import Step
from amends.sagas.engine.start import Start, prepare_start
from amends.sagas.prove.functions import ProvedRegistry, results_by_name
from amends.sagas.prove.memory import Kept, Shelf, Tables
from amends.sagas.prove.player import Player
from amends.sagas.prove.problem import ProveError
from amends.sagas.prove.terms import Terms, terms_of
from amends.sagas.prove.token import ReplayToken
from amends.sagas.prove.units import Units
from amends.sagas.prove.values import content_of, fork_aggregate
from amends.sagas.prove.world import World

__all__ = ["Contracts", "Experiment", "Prepared", "Results"]

Contracts = Mapping[Participant | str, Contract]
"""Contracts to explore in place of the declared ones."""

Results = Mapping[Step[Any, Any], object]
"""Results of steps in place of their functions; an exception is raised."""

_FINGERPRINT_CHARS = 8


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The question of a search.

    Attributes:
        saga: The saga.
        input: The input of its run.
        others: Further runs in the same world, each a saga and its input.
        given: Aggregates that exist before.
        tables: The user's own tables before; `None` if there are none.
        faults: The number of faults in one story, 0 or more.
        operators: The number of decisions that operators may make in one story, 0 or more.
        contracts: Contracts to explore in place of the declared ones.
        results: Results of steps in place of their functions.
        prefix: The start of the ids of the runs.
    """

    saga: Saga[Any]
    input: Any
    others: Sequence[tuple[Saga[Any], Any]] = ()
    given: Sequence[Aggregate] = ()
    tables: Tables | None = None
    faults: int = 2
    operators: int = 0
    contracts: Contracts = field(default_factory=dict)
    results: Results = field(default_factory=dict)
    prefix: str = "run"

    def __post_init__(self) -> None:
        _check_count("faults", self.faults)
        _check_count("operators", self.operators)

    def prepare(self) -> "Prepared":
        """Check everything, and return the world in which the search begins.

        Raises:
            ProveError: A result, a contract or an aggregate does not fit.
            InputError: The input is not valid.
            DefinitionError: The saga has a fault.
        """
        sagas = dict.fromkeys([self.saga, *(saga for saga, _ in self.others)])
        registry = ProvedRegistry(sagas, results_by_name(self.results))
        registry.catalog  # noqa: B018 - faults of the whole catalog are raised before the search begins
        self._check_results(registry)
        terms = terms_of(registry, self.contracts)
        units = Units(registry, terms)
        starts = [
            prepare_start(
                registry, saga, value, run_id=f"{self.prefix}-{number}", driver=IN_PROCESS_DRIVER, actor="prove"
            )
            for number, (saga, value) in enumerate([(self.saga, self.input), *self.others], 1)
        ]
        root = units.begin(starts, self._shelf(), faults=self.faults, decisions=self.operators)
        return Prepared(self, registry, Player(units), root, terms, tuple(starts))

    def _check_results(self, registry: ProvedRegistry) -> None:
        for step in self.results:
            if registry.steps.get(step.definition.name) is not step.definition:
                raise ProveError(
                    f"results={{{step.name}: ...}}: the saga has no such step; it has {', '.join(registry.steps)}"
                )
        for name, value in registry.results.items():
            if not isinstance(value, BaseException):
                registry.result_codec(name).dump(value)

    def _shelf(self) -> Shelf:
        kept: dict[str, Kept] = {}
        for aggregate in self.given:
            copy = fork_aggregate(aggregate)
            copy.collect_events()
            kept[type(copy).stream_of(copy.id)] = Kept(copy, content_of(copy))
        return Shelf(kept, self.tables)


@dataclass(frozen=True)
class Prepared:
    """An experiment that can begin.

    Attributes:
        experiment: The experiment.
        registry: The user's functions.
        player: Plays the moves.
        root: The world in which it begins.
        terms: The terms of every effect, by name of its step.
        starts: The starts of the runs.
    """

    experiment: Experiment
    registry: ProvedRegistry
    player: Player
    root: World
    terms: dict[str, Terms]
    starts: tuple[Start, ...]

    @property
    def fingerprint(self) -> str:
        """The start of a fingerprint of plans and inputs."""
        return _fingerprint(self.starts)

    @property
    def contracts(self) -> dict[str, Contract]:
        """The contract of each participant, sorted by name."""
        return dict(sorted((each.participant, each.contract) for each in self.terms.values()))

    def token(self, path: tuple[int, ...]) -> str:
        """Return the token of a story."""
        experiment = self.experiment
        contracts = tuple(self.contracts.values())
        return str(ReplayToken(experiment.faults, experiment.operators, contracts, self.fingerprint, path))

    @classmethod
    def of_token(cls, experiment: Experiment, token: ReplayToken) -> "Prepared":
        """Return the experiment with the assumptions that a token names.

        Raises:
            ProveError: The token belongs to another saga, input or participants.
        """
        names = list(experiment.prepare().contracts)
        if len(names) != len(token.contracts):
            raise ProveError(
                f"the token is about {len(token.contracts)} participants, the saga has {len(names)}; "
                f"explore the saga again"
            )
        contracts: dict[Participant | str, Contract] = dict(zip(names, token.contracts, strict=True))
        changed = replace(experiment, faults=token.faults, operators=token.decisions, contracts=contracts)
        prepared = changed.prepare()
        if prepared.fingerprint != token.fingerprint:
            raise ProveError("the token belongs to another saga or input, or the saga has changed; explore it again")
        return prepared


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ProveError(f"{name}={value!r}: give a whole number of 0 or more")


def _fingerprint(starts: Sequence[Start]) -> str:
    content: list[JsonValue] = [[start.plan.fingerprint, start.input] for start in starts]
    return digest(content)[:_FINGERPRINT_CHARS]
