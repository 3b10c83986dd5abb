"""The terms on which each effect of a saga is explored: its participant and the contract. Pure."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from amends.aggregates.run.plan import StepKind
from amends.sagas.definition.participants import Contract, Participant
from amends.sagas.definition.registry import Registry
from amends.sagas.prove.problem import ProveError

__all__ = ["ASSUMED", "Terms", "combinations_of", "terms_of"]

ASSUMED = Contract.REMEMBERS_UNDO
"""The contract of an effect that names no participant; the report says that it was assumed."""


class Terms(NamedTuple):
    """The terms of one effect.

    Attributes:
        participant: Name of the participant; the name of the step if the step names none.
        contract: Its contract in this search.
        probe_may_miss: Whether a probe may miss an effect that took place a moment before.
        assumed: Whether no one stated the contract.
    """

    participant: str
    contract: Contract
    probe_may_miss: bool = False
    assumed: bool = False


def terms_of(registry: Registry, contracts: Mapping[Participant | str, Contract] | None = None) -> dict[str, Terms]:
    """Return the terms of every effect, by name of its step.

    Args:
        registry: The steps.
        contracts: Contracts to explore in place of the declared ones, by participant or its name; an effect without a
            participant goes by the name of its step.

    Raises:
        ProveError: No effect calls a participant of that name.
    """
    wanted = {each.name if isinstance(each, Participant) else each: value for each, value in (contracts or {}).items()}
    terms: dict[str, Terms] = {}
    for name, step in registry.steps.items():
        if step.kind is StepKind.EFFECT:
            declared = step.participant
            participant = name if declared is None else declared.name
            contract = wanted.get(participant) or (ASSUMED if declared is None else declared.contract)
            missing = declared is not None and declared.probe_may_miss
            terms[name] = Terms(participant, contract, missing, declared is None and participant not in wanted)
    known = {each.participant for each in terms.values()}
    for name in wanted:
        if name not in known:
            raise ProveError(
                f"contracts={{{name!r}: ...}}: no effect of the saga calls this participant; "
                f"it calls {', '.join(sorted(known)) or 'none'}"
            )
    return terms


def combinations_of(choices: Mapping[Participant | str, Sequence[Contract]]) -> list[dict[Participant | str, Contract]]:
    """Return every combination of contracts; the choices of the last participant change first.

    Args:
        choices: The contracts to choose from, by participant or its name.
    """
    return [dict(zip(choices, chosen, strict=True)) for chosen in product(*choices.values())]
