"""The core keeps every law on a part of the plans of `make prove`."""

import pytest
from proving.core_plans import RICH_PLANS, small_plans
from proving.plan_parts import effect_node, plan_of
from proving.prove_core import LIMITS, Task, explore_task, is_unknowable

from amends.aggregates.run.plan import Plan
from amends.sagas.definition.participants import Contract
from amends.sagas.prove.plans.plan_only import begin_plan
from amends.sagas.prove.search import Search
from amends.sagas.prove.story import story_of

PART = 60


@pytest.mark.parametrize("plan", small_plans()[::PART], ids=lambda plan: plan.fingerprint[:8])
def test_small_plans_keep_every_law(plan: Plan) -> None:
    """One fault and one decision of an operator break no law, at any moment, on a plan of one or two groups."""
    assert explore_task(Task(plan, Contract.REMEMBERS_UNDO, 1, 1)).unexpected == ()


@pytest.mark.parametrize("plan", small_plans()[7::PART], ids=lambda plan: plan.fingerprint[:8])
def test_keyed_participants_break_laws_only_where_no_saga_can_know(plan: Plan) -> None:
    """With keyed participants a law breaks only by a call that acts after its undo or its probe."""
    assert explore_task(Task(plan, Contract.KEYED, 1, 0)).unexpected == ()


@pytest.mark.parametrize("name", ["the saga of the README", "a pivot in the middle"])
def test_rich_plans_keep_every_law(name: str) -> None:
    """Two faults break no law."""
    assert explore_task(Task(RICH_PLANS[name], Contract.REMEMBERS_UNDO, 2, 0)).unexpected == ()


def test_the_limit_of_keyed_participants_is_found() -> None:
    """A call that acts after its undo breaks a law at a keyed participant, and the story is recognised."""
    player, root = begin_plan(plan_of(effect_node("a", attempts=1)), contract=Contract.KEYED, faults=1)
    violations = Search(player).explore(root).violations
    assert {each.law.name for each in violations} <= LIMITS
    assert [is_unknowable(story_of(player, root, each.path)) for each in violations] == [True] * len(violations)
    assert violations
