"""Nodes of plans that several tests of decisions share."""

from strategies import plan_node

from amends.sagas.engine.outcome import Failed, Succeeded

SUCCEEDED = Succeeded(None)
LOST = Failed("TimeoutError", "no answer")
EFFECT = plan_node("a")
