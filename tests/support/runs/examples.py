"""Facts of an imagined run, one by one, for tests of their words."""

from typing import Any

from strategies import plan_node, plan_of, started

from amends.aggregates.run import facts
from amends.aggregates.run.plan import Stage

__all__ = ["CLAIM", "FAILURE", "PLAN", "decided", "fact"]

PLAN = plan_of(plan_node("a"), Stage(nodes=(plan_node("b"), plan_node("c"))), plan_node("d"))
CLAIM = {"key": "k", "worker": "w", "lease_until_ms": 0}
FAILURE = {"error_type": "E", "error": "no"}


def fact(kind: str, at_ms: int, **fields: Any) -> facts.Fact:  # noqa: ANN401 - any field
    """Return a fact of a run."""
    common = started(PLAN).model_dump(
        include={"originator_id", "recorded_at_ms", "correlation_id", "causation_id", "actor"}
    )
    cls = facts.FACTS[kind]
    generation = {"generation": 0} if "generation" in cls.model_fields else {}
    return cls(**common, originator_version=1, as_of_ms=at_ms, **generation, **fields)


def decided(kind: str, **fields: Any) -> facts.Fact:  # noqa: ANN401 - any field
    """Return a fact of a decision."""
    return fact(kind, 0, reason="why", **fields).model_copy(update={"actor": "op"})
