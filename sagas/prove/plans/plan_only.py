"""The plan alone: explore a saga's shape without any code of the user. Pure.

Every step acts and returns a fixed result, so the stories show what the plan permits: the ways in which a run can end,
and the nodes that can be left open.
"""

from pydantic import JsonValue

from amends.aggregates.run.fact import IN_PROCESS_DRIVER
from amends.aggregates.run.plan import Plan, PlanNode, StepKind
from amends.sagas.definition.context import Attempted, Call, Done, UnitOfWork
from amends.sagas.definition.participants import Contract
from amends.sagas.definition.step_definition import Operation, StepDefinition
from amends.sagas.engine.start import Start
from amends.sagas.prove.functions import ProvedRegistry
from amends.sagas.prove.memory import Shelf
from amends.sagas.prove.player import Player
from amends.sagas.prove.terms import Terms
from amends.sagas.prove.units import Units
from amends.sagas.prove.world import World

__all__ = ["PlanRegistry", "begin_plan"]

_RESULT = "done"


def _transact(_: JsonValue, __: UnitOfWork) -> JsonValue:
    return _RESULT


def _call(_: JsonValue, __: Call) -> JsonValue:
    return _RESULT


def _undo_transaction(_: Done[JsonValue, JsonValue], __: UnitOfWork) -> None:
    return None


def _undo_call(_: Attempted[JsonValue, JsonValue], __: Call) -> None:
    return None


def _probe(_: JsonValue, __: Call) -> JsonValue:
    return _RESULT


def _same(value: JsonValue) -> JsonValue:
    return value


class PlanRegistry(ProvedRegistry):
    """A registry whose steps are the nodes of a plan.

    Args:
        plan: The plan.
    """

    refuses_undo = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(())
        for node in plan.nodes.values():
            self.steps[node.step] = _definition(node)

    def _mapping(self, name: str) -> object:
        """Return the identity for every mapping."""
        del name
        return _same


def begin_plan(
    plan: Plan,
    *,
    contract: Contract = Contract.REMEMBERS_UNDO,
    probe_may_miss: bool = False,
    faults: int = 1,
    decisions: int = 0,
    runs: int = 1,
) -> tuple[Player, World]:
    """Return a player and the world in which runs of a plan begin.

    Args:
        plan: The plan.
        contract: The contract of every participant.
        probe_may_miss: Whether a probe may miss an effect that took place a moment before.
        faults: The number of faults in one story.
        decisions: The number of decisions that operators may make in one story.
        runs: The number of runs.
    """
    nodes = [node for node in plan.nodes.values() if node.kind is StepKind.EFFECT]
    terms = {node.step: Terms(node.step, contract, probe_may_miss) for node in nodes}
    units = Units(PlanRegistry(plan), terms)
    starts = [Start(f"run-{number}", plan, None, {}, IN_PROCESS_DRIVER, "prove") for number in range(1, runs + 1)]
    return Player(units), units.begin(starts, Shelf(), faults=faults, decisions=decisions)


def _definition(node: PlanNode) -> StepDefinition:
    transaction = node.kind is StepKind.TRANSACTION
    undo = _undo_transaction if transaction else _undo_call
    return StepDefinition(
        node.step,
        node.kind,
        Operation(_transact if transaction else _call, None, None),
        read_only=node.read_only,
        undo=None if node.undo is None else Operation(undo, None, None),
        probe=Operation(_probe, None, None) if node.probe else None,
    )
