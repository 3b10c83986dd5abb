"""The plans on which `make prove` explores the core: all of one or two groups, and some richer ones."""

from collections.abc import Iterator
from itertools import combinations_with_replacement, product

from amends.aggregates.run.plan import Plan, PlanNode, Role, Stage
from proving.plan_parts import effect_node, group, ordered, pivot_node, plan_of, retriable_node, transaction_node

__all__ = ["RICH_PLANS", "small_plans"]

_COMPENSATABLE = {
    "effect": effect_node("x"),
    "once": effect_node("x", attempts=1, undo_attempts=1),
    "probed": effect_node("x", attempts=1, probe=True),
    "reads": effect_node("x", attempts=1, read_only=True),
    "stays": effect_node("x", attempts=1, irreversible="it stays"),
    "transaction": transaction_node("x"),
}
_PIVOTS = {
    "pivot": pivot_node("x"),
    "pivot once": pivot_node("x", attempts=1),
    "pivot probed": pivot_node("x", attempts=1, probe=True),
    "pivot undone": pivot_node("x", attempts=1, undo=True),
    "pivot transaction": transaction_node("x", undo=False, role=Role.PIVOT),
}
_RETRIABLE = {
    "last": retriable_node("x"),
    "last once": retriable_node("x", attempts=1),
    "last transaction": transaction_node("x", undo=False, role=Role.RETRIABLE),
}


def _named(node: PlanNode, name: str) -> PlanNode:
    return node.model_copy(update={"name": name, "step": name})


def _stage(members: tuple[PlanNode, ...], names: str, *, in_order: bool = False) -> Stage:
    nodes = (_named(node, name) for node, name in zip(members, names, strict=False))
    return (ordered if in_order else group)(*nodes)


def _compensatable(names: str) -> Iterator[Stage]:
    kinds = _COMPENSATABLE
    for node in kinds.values():
        yield _stage((node,), names)
    for pair in combinations_with_replacement(("effect", "once", "probed", "transaction"), 2):
        yield _stage((kinds[pair[0]], kinds[pair[1]]), names)
    for pair in combinations_with_replacement(("effect", "probed", "transaction"), 2):
        yield _stage((kinds[pair[0]], kinds[pair[1]]), names, in_order=True)


def _pivots(names: str) -> Iterator[Stage]:
    for node in _PIVOTS.values():
        yield _stage((node,), names)


def _retriable(names: str) -> Iterator[Stage]:
    for node in _RETRIABLE.values():
        yield _stage((node,), names)
    for pair in combinations_with_replacement(("last", "last transaction"), 2):
        yield _stage((_RETRIABLE[pair[0]], _RETRIABLE[pair[1]]), names)


def small_plans() -> list[Plan]:
    """Return all plans of one or two groups."""
    alone = (*_compensatable("ab"), *_pivots("ab"), *_retriable("ab"))
    behind = (*_compensatable("cd"), *_pivots("cd"), *_retriable("cd"))
    two = [*product(_compensatable("ab"), behind), *product(_pivots("ab"), _retriable("cd"))]
    return [plan_of(stage) for stage in alone] + [plan_of(first, second) for first, second in two]


_A, _B, _C = effect_node("a"), effect_node("b"), effect_node("c")
_TA, _TB = transaction_node("ta"), transaction_node("tb")
_P, _R = pivot_node("p"), retriable_node("r")
_TP = transaction_node("p", undo=False, role=Role.PIVOT)
_A1, _B1 = effect_node("a", attempts=1, undo_attempts=1), effect_node("b", attempts=1, undo_attempts=1)

RICH_PLANS: dict[str, Plan] = {
    "the saga of the README": plan_of(_TA, _A, _TP),
    "two effects and a pivot": plan_of(_A, _B, _P),
    "effects that are called once": plan_of(_A1, _B1, _TP),
    "a pivot in the middle": plan_of(_A, _P, _R),
    "a transaction behind each effect": plan_of(_A1, _TA, _P, transaction_node("r", undo=False, role=Role.RETRIABLE)),
    "two effects together": plan_of(group(_A, _B1), _TP),
    "two effects in order": plan_of(ordered(_A1, _B), _TP),
    "an effect and a transaction together": plan_of(group(_A, _TA), _P),
    "a probe in each step": plan_of(
        effect_node("a", attempts=1, probe=True), effect_node("b", probe=True), pivot_node("p", probe=True)
    ),
    "a step that stays": plan_of(effect_node("s", irreversible="it stays"), _B1, _P),
    "a step that reads": plan_of(effect_node("q", read_only=True), _A, _P),
    "a pivot with an undo": plan_of(_A1, pivot_node("p", attempts=1, undo=True), _R),
    "a pivot behind a group": plan_of(group(_A1, _B1), pivot_node("p", attempts=1)),
    "two retriable effects together": plan_of(_A1, _TP, group(retriable_node("r"), retriable_node("s", attempts=1))),
}
"""Plans that are explored with two faults."""
