"""A plan is data with a stable fingerprint, and its retry delays are a formula."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from strategies import make_plan, plan_node, plan_of, plans, retry_policy

from amends.aggregates.run.plan import Guarantee, Plan, PlanNode, RetryPolicy, Role, Stage, StepKind, UndoPolicy

GOLDEN = Plan(
    saga="place-order",
    input_type="PlaceOrder",
    stages=(
        Stage(
            nodes=(
                PlanNode(
                    name="reserve",
                    step="reserve_stock",
                    kind=StepKind.TRANSACTION,
                    role=Role.COMPENSATABLE,
                    retry=RetryPolicy(max_attempts=3, first_ms=100, factor=2.0, longest_ms=30_000),
                    undo=UndoPolicy(
                        retry=RetryPolicy(max_attempts=None, first_ms=200, factor=1.5, longest_ms=60_000),
                        timeout_ms=None,
                    ),
                    mapping="orders:to_stock",
                ),
                PlanNode(
                    name="charge",
                    step="charge",
                    kind=StepKind.EFFECT,
                    role=Role.COMPENSATABLE,
                    retry=RetryPolicy(max_attempts=5, first_ms=200, factor=2.0, longest_ms=30_000),
                    timeout_ms=10_000,
                    probe=True,
                    irreversible="the fee is not paid back",
                    queue="payments",
                ),
            ),
            ordered=True,
        ),
        Stage(nodes=(plan_node("confirm", role=Role.PIVOT, undo=False, kind=StepKind.TRANSACTION),)),
    ),
    keys=("order_id", "sku"),
)


def test_a_fingerprint_is_the_same_for_ever() -> None:
    """Runs in flight find their plans by fingerprint, so this value changes only together with `Plan.format`."""
    assert GOLDEN.fingerprint == "4e779980bbc3923edd93c0d40265ce53c95678884d6c1fe10ea66908e396c764"


@given(plan=plans())
def test_a_plan_survives_json(plan: Plan) -> None:
    """A plan comes back equal from the store, and has its fingerprint."""
    stored = Plan.model_validate(json.loads(json.dumps(plan.model_dump(mode="json"), sort_keys=True)))
    assert stored == plan
    assert stored.fingerprint == plan.fingerprint


def changed(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a JSON value that differs from the given one, and is of its kind."""
    match value:
        case bool():
            return not value
        case None:
            return 1
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case _:
            raise AssertionError(value)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401 - JSON
    """List the paths of all single values in JSON."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in leaves(item, (*path, key))]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in leaves(item, (*path, index))]
    return [path]


ALTERNATIVES: dict[str, Any] = {
    "kind": {"transaction": "effect", "effect": "transaction"},
    "role": {"compensatable": "pivot", "pivot": "retriable", "retriable": "compensatable"},
}
OPTIONAL_TEXTS = {"irreversible", "mapping", "queue"}


def test_a_fingerprint_depends_on_every_field() -> None:
    """Changing any single value of a plan gives another fingerprint."""
    prints = {GOLDEN.fingerprint}
    paths = [path for path in leaves(GOLDEN.model_dump(mode="json")) if path != ("format",)]
    for path in paths:
        data: Any = GOLDEN.model_dump(mode="json")
        holder = data
        for part in path[:-1]:
            holder = holder[part]
        name, old = path[-1], holder[path[-1]]
        if name in ALTERNATIVES:
            holder[name] = ALTERNATIVES[name][old]
        elif name in OPTIONAL_TEXTS and old is None:
            holder[name] = "x"
        elif name == "undo":
            holder[name] = {"retry": retry_policy().model_dump(), "timeout_ms": None}
        else:
            holder[name] = changed(old)
        prints.add(Plan.model_validate(data).fingerprint)
    assert len(paths) > 50
    assert len(prints) == len(paths) + 1


def test_a_fingerprint_depends_on_the_order_of_steps() -> None:
    """The same nodes in another order, or grouped otherwise, are another plan."""
    a, b = plan_node("a"), plan_node("b")
    found = {
        plan_of(a, b).fingerprint,
        plan_of(b, a).fingerprint,
        plan_of(Stage(nodes=(a, b))).fingerprint,
        plan_of(Stage(nodes=(b, a))).fingerprint,
    }
    assert len(found) == 4


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (RetryPolicy(max_attempts=5, first_ms=200, factor=2, longest_ms=1_000), [200, 400, 800, 1_000, None, None]),
        (RetryPolicy(max_attempts=1, first_ms=200, factor=2, longest_ms=1_000), [None, None]),
        (RetryPolicy(max_attempts=None, first_ms=100, factor=1, longest_ms=1_000), [100, 100, 100, 100]),
        (RetryPolicy(max_attempts=None, first_ms=100, factor=1.5, longest_ms=1_000), [100, 150, 225, 337, 506]),
        (RetryPolicy(max_attempts=None, first_ms=0, factor=2, longest_ms=1_000), [0, 0, 0]),
        (RetryPolicy(max_attempts=None, first_ms=500, factor=2, longest_ms=0), [0, 0, 0]),
        (RetryPolicy(max_attempts=3, first_ms=500, factor=2, longest_ms=100), [100, 100, None]),
    ],
)
def test_delays_follow_the_formula(policy: RetryPolicy, delays: list[int | None]) -> None:
    """After attempt n the next is due min(first * factor ** (n - 1), longest) later, until the attempts are spent."""
    assert [policy.delay_ms(attempt) for attempt in range(1, len(delays) + 1)] == delays


policies = st.builds(
    RetryPolicy,
    max_attempts=st.none() | st.integers(1, 10**9),
    first_ms=st.integers(0, 10**9),
    factor=st.floats(1, 100),
    longest_ms=st.integers(0, 10**12),
)


@given(policy=policies, attempt=st.integers(1, 10**9))
def test_delays_grow_up_to_their_bound(policy: RetryPolicy, attempt: int) -> None:
    """A delay is a whole number of milliseconds within the bound and never shorter than the one before it."""
    delay, following = policy.delay_ms(attempt), policy.delay_ms(attempt + 1)
    spent = policy.max_attempts is not None and attempt >= policy.max_attempts
    assert (delay is None) is spent
    if delay is not None:
        assert isinstance(delay, int)
        assert 0 <= delay <= policy.longest_ms
        assert following is None or following >= delay


@pytest.mark.parametrize(
    "changes",
    [{"max_attempts": 0}, {"first_ms": -1}, {"factor": 0.5}, {"factor": float("nan")}, {"longest_ms": -1}, {"more": 1}],
)
def test_a_policy_out_of_bounds_is_no_policy(changes: dict[str, Any]) -> None:
    """Values that the formula does not allow are refused when a plan is read."""
    with pytest.raises(ValidationError):
        RetryPolicy(**{"max_attempts": 1, "first_ms": 1, "factor": 1, "longest_ms": 1, **changes})


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"stages": []}, {"stages": [{"nodes": []}]}, {"unknown": 1}], ids=str
)
def test_a_plan_of_another_format_is_refused(change: dict[str, Any]) -> None:
    """A plan of a format that this version does not know, or without steps, is refused."""
    with pytest.raises(ValidationError):
        Plan.model_validate({**GOLDEN.model_dump(mode="json"), **change})


def test_nodes_and_stages_are_found_by_name() -> None:
    """Names lead to nodes, to the stage that holds them, and to their promises."""
    assert list(GOLDEN.nodes) == ["reserve", "charge", "confirm"]
    assert GOLDEN.stage_of == {"reserve": 0, "charge": 0, "confirm": 1}
    once, by_key = Guarantee.ONCE.value, Guarantee.BY_KEY.value
    assert GOLDEN.guarantees == {"reserve": once, "charge": by_key, "confirm": once}


@pytest.mark.parametrize(
    ("roles", "forward_only"),
    [
        ("cc", [False, False]),
        ("cpr", [False, False, True]),
        ("prr", [False, True, True]),
        ("ccr", [False, False, True]),
        ("r", [True]),
        ("p", [False]),
    ],
)
def test_the_pivot_divides_a_plan(roles: str, forward_only: list[bool]) -> None:
    """Stages up to the pivot can be undone, those behind it cannot; without one, the first retriable step divides."""
    of = {"c": Role.COMPENSATABLE, "p": Role.PIVOT, "r": Role.RETRIABLE}
    plan = plan_of(*(plan_node(f"n{index}", role=of[role]) for index, role in enumerate(roles)))
    assert [plan.forward_only(stage) for stage in range(len(roles))] == forward_only


def test_equal_choices_make_equal_plans() -> None:
    """A plan is a value: two made in the same way are equal and have one fingerprint."""
    first, second = make_plan(lambda options: options[-1]), make_plan(lambda options: options[-1])
    assert first == second
    assert first.fingerprint == second.fingerprint
