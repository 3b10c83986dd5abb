"""The ways in which runs of a plan can end, and the nodes that can stay open, without any code of the user. Pure.

A policy with a limit counts as one with a single attempt, so that one fault stands for all attempts of a step that
fail. Otherwise a step with five attempts would need five faults before it gives up.
"""

from typing import Any, NamedTuple

from amends.aggregates.run.plan import Plan
from amends.aggregates.run.state import NodeStatus, RunStatus
from amends.aggregates.values.strict_json import ascii_json
from amends.sagas.prove.plans.plan_only import begin_plan
from amends.sagas.prove.search import Budget, Search
from amends.sagas.prove.world import World

__all__ = ["OpenNode", "Reachable", "ReachableEnd", "explore_plan"]

FAULTS = 2


class OpenNode(NamedTuple):
    """A node that an operator must decide about.

    Attributes:
        node: Its name.
        status: Its status.
    """

    node: str
    status: NodeStatus


class ReachableEnd(NamedTuple):
    """A way in which a run can end.

    Attributes:
        status: The status of the run.
        open_nodes: The nodes that stay open; empty unless the run needs attention.
        faults: The smallest number of faults that leads there.
    """

    status: RunStatus
    open_nodes: tuple[OpenNode, ...]
    faults: int


class Reachable(NamedTuple):
    """The ways in which runs of a plan can end.

    Attributes:
        ends: The ends, sorted by faults.
        faults: The number of faults in one run.
        complete: The number of faults up to which every run was explored; -1 for none.
    """

    ends: tuple[ReachableEnd, ...]
    faults: int
    complete: int


def explore_plan(plan: Plan, *, faults: int = FAULTS, budget: Budget = lambda _: 0.0) -> Reachable:
    """Explore a plan, and return the ways in which its runs can end.

    Args:
        plan: The plan.
        faults: The number of faults in one run.
        budget: The budget of the search.
    """
    player, root = begin_plan(_with_single_attempts(plan), faults=faults)
    ends: dict[tuple[RunStatus, tuple[OpenNode, ...]], int] = {}

    def note(world: World) -> None:
        record = world.runs[0]
        nodes = tuple(OpenNode(name, record.state.node(name).status) for name in sorted(record.current))
        place = (record.state.status, nodes if record.state.status is RunStatus.NEEDS_ATTENTION else ())
        ends[place] = min(ends.get(place, faults), faults - world.faults)

    explored = Search(player, judge=note, budget=budget).explore(root)
    found = [ReachableEnd(status, nodes, fewest) for (status, nodes), fewest in ends.items()]
    found.sort(key=lambda each: (each.faults, each.status, each.open_nodes))
    return Reachable(tuple(found), faults, explored.complete)


def _with_single_attempts(plan: Plan) -> Plan:
    content = plan.model_dump(mode="json")
    for stage in content["stages"]:
        for node in stage["nodes"]:
            for policy in (node, node.get("undo")):
                _limit(policy)
    return Plan.model_validate_json(ascii_json(content))


def _limit(policy: dict[str, Any] | None) -> None:
    if policy is not None and policy["retry"]["max_attempts"] is not None:
        policy["retry"]["max_attempts"] = 1
