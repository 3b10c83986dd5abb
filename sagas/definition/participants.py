"""Participants: the services that effects call, and how each of them treats repeated and late calls.

A participant is declared once and named by every effect that calls it: `@effect(participant=PAYMENT)`. `amends prove`
explores a saga with a model of the participant that keeps its contract, and no more than that.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from amends.aggregates.errors import DefinitionError
from amends.sagas.definition.signatures import check_name, label

__all__ = ["Contract", "Participant", "check_participant"]


class Contract(StrEnum):
    """How a participant treats calls that come twice, or late."""

    REMEMBERS_UNDO = "remembers undo"
    """It acts once per key, and never under a key whose undo came first, or whose probe found nothing (`Inbox`)."""
    KEYED = "keyed"
    """It acts once per key, but also when the call arrives after its undo."""
    FORGETFUL = "forgetful"
    """It ignores keys and acts on every call."""


@dataclass(frozen=True)
class Participant:
    """A service that effects call.

    Attributes:
        name: Its name, unique among the participants of a project.
        contract: How it treats repeated and late calls.
        probe_may_miss: Whether a probe may answer "not found" although the effect took place a moment before, such as
            a read of a replica.

    Raises:
        DefinitionError: The name or the contract is not valid.

    Example:
        >>> PAYMENT = Participant("payment", contract=Contract.REMEMBERS_UNDO)
        >>> PAYMENT.contract.value
        'remembers undo'
    """

    name: str
    contract: Contract = field(kw_only=True)
    probe_may_miss: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_name(self.name, "participant")
        if not isinstance(self.contract, Contract):
            raise DefinitionError(
                f"Participant({self.name!r}, contract={label(self.contract)}): use one of "
                f"{', '.join(f'Contract.{each.name}' for each in Contract)}"
            )


def check_participant(participant: object, where: str) -> None:
    """Refuse anything but a participant or `None`.

    Raises:
        DefinitionError: The value is neither.
    """
    if participant is not None and not isinstance(participant, Participant):
        raise DefinitionError(f"{where}: participant={label(participant)}; give a Participant(name, contract=...)")
