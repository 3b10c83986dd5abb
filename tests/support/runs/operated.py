"""Runs that operators decide about."""

from typing import Any

from strategies import LEASE_MS, AnyResults, CallInFlight, World, plan_node, plan_of

from amends.aggregates.run.facts import Fact
from amends.aggregates.run.plan import Role
from amends.aggregates.run.state import RunStatus
from amends.sagas.engine.decide import Conclusion, RunStep, decide
from amends.sagas.engine.interventions import Intervention, InterventionKind, fact_of
from amends.sagas.engine.outcome import Failed, Refused, Succeeded

REGISTRY: Any = AnyResults()
PIVOT = plan_node("pivot", role=Role.PIVOT, undo=False)
AFTER = plan_node("after", role=Role.RETRIABLE, undo=False)


def wish(verb: InterventionKind, node: str | None = None, **changes: Any) -> Intervention:  # noqa: ANN401 - any field
    """Create an operator's decision."""
    return Intervention(
        **{"kind": verb, "node": node, "actor": "op", "reason": "because", "evidence": "seen", **changes}
    )


def do(world: World, name: str, outcome: Succeeded | Refused | Failed) -> None:
    """Answer the call that is due at a node."""
    work = next(each for each in decide(world.record.state, world.now_ms) if getattr(each, "node", "") == name)
    assert not isinstance(work, Conclusion)
    world.answer(world.call(work), outcome)  # type: ignore[arg-type]  # not a wait either, as the tests have it
    world.conclude()


def unanswered() -> tuple[World, CallInFlight]:
    """Begin a run whose first attempt is still without an answer at the end of its claim; return its call as well."""
    world = World.begin(plan_of(plan_node("a"), PIVOT))
    call = world.call(RunStep("a", 1))
    world.now_ms = 10 * LEASE_MS
    world.conclude()
    return world, call


def operate(world: World, verb: InterventionKind, node: str | None = None, **changes: Any) -> Fact | None:  # noqa: ANN401 - as above
    """Write an operator's decision."""
    fact = fact_of(REGISTRY, world.record, wish(verb, node, **changes), world.now_ms, 7)
    if fact is not None:
        world.append(fact)
        world.conclude()
    return fact


def status(world: World) -> RunStatus:
    """Return a run's status."""
    return world.record.state.status


def open_nodes(world: World) -> tuple[str, ...]:
    """Return the nodes that an operator has to decide about."""
    return world.record.current


def kinds(world: World) -> list[str]:
    """Return the facts of a run by kind."""
    return [fact.kind for fact in world.facts]
