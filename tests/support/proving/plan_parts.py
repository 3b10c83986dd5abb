"""Plans for the tests of the search, written in a few words."""

from collections.abc import Sequence

from amends.aggregates.run.plan import Plan, PlanNode, RetryPolicy, Role, Stage, StepKind, UndoPolicy

__all__ = ["effect_node", "group", "ordered", "pivot_node", "plan_of", "retriable_node", "transaction_node"]

TIMEOUT_MS = 10_000


def retry(attempts: int | None) -> RetryPolicy:
    """Return a policy with a delay of a second."""
    return RetryPolicy(max_attempts=attempts, first_ms=1_000, factor=2, longest_ms=10_000)


def effect_node(
    name: str,
    *,
    attempts: int | None = 2,
    undo_attempts: int | None = 2,
    undo: bool = True,
    probe: bool = False,
    read_only: bool = False,
    irreversible: str | None = None,
    role: Role = Role.COMPENSATABLE,
) -> PlanNode:
    """Return an effect, with a compensation unless it needs none."""
    policy = UndoPolicy(retry=retry(undo_attempts), timeout_ms=TIMEOUT_MS)
    return PlanNode(
        name=name,
        step=name,
        kind=StepKind.EFFECT,
        role=role,
        retry=retry(attempts),
        timeout_ms=TIMEOUT_MS,
        undo=policy if undo and not read_only and irreversible is None else None,
        probe=probe,
        read_only=read_only,
        irreversible=irreversible,
    )


def transaction_node(
    name: str,
    *,
    attempts: int | None = 2,
    undo_attempts: int | None = 2,
    undo: bool = True,
    role: Role = Role.COMPENSATABLE,
) -> PlanNode:
    """Return a transaction."""
    policy = UndoPolicy(retry=retry(undo_attempts), timeout_ms=None)
    return PlanNode(
        name=name,
        step=name,
        kind=StepKind.TRANSACTION,
        role=role,
        retry=retry(attempts),
        undo=policy if undo else None,
    )


def pivot_node(name: str, *, attempts: int | None = 2, undo: bool = False, probe: bool = False) -> PlanNode:
    """Return an effect that decides the direction of its run."""
    return effect_node(name, attempts=attempts, undo=undo, probe=probe, role=Role.PIVOT)


def retriable_node(name: str, *, attempts: int | None = 2, probe: bool = False) -> PlanNode:
    """Return an effect behind the pivot."""
    return effect_node(name, attempts=attempts, undo=False, probe=probe, role=Role.RETRIABLE)


def group(*nodes: PlanNode) -> Stage:
    """Return a stage whose members run, and are undone, together."""
    return Stage(nodes=nodes)


def ordered(*nodes: PlanNode) -> Stage:
    """Return a stage whose members are undone one after the other."""
    return Stage(nodes=nodes, ordered=True)


def plan_of(*stages: Stage | PlanNode) -> Plan:
    """Return a plan; a node alone is a stage of one."""
    members: Sequence[Stage] = [each if isinstance(each, Stage) else group(each) for each in stages]
    return Plan(saga="explored", input_type="None", stages=tuple(members))
