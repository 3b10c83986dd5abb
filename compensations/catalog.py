"""The compensation catalog: for every step, how it is undone, or why it is not.

It has three readers: the saga at the time of failure, the reconciler on schedule, and the operator at the command line.
It is built from all loaded steps, and reports missing compensations at start-up.
"""

from pydantic import BaseModel, ConfigDict

from amends.aggregates.run.plan import Guarantee, Plan, PlanNode, RetryPolicy, Role, StepKind, UndoPolicy

__all__ = ["Catalog", "CatalogEntry"]


class CatalogEntry(BaseModel):
    """The catalog's entry for one step.

    Attributes:
        step: Name of the step.
        kind: Transaction or effect.
        location: Place of its definition, as `module:name`.
        sagas: Sagas that contain it.
        roles: Its roles in them.
        compensation: Place of the compensation's definition; `None` when the step has none.
        irreversible: Why its effect stays; `None` unless the step was declared irreversible.
        read_only: Whether it changes nothing.
        probe: Place of the probe's definition; `None` when the step has none.
        retry: Attempts of the step in the first of its sagas; `None` when no saga contains it.
        timeout_ms: Bound of one attempt in milliseconds; `None` for transactions.
        undo: The compensation's policy; `None` when the step has none.
        owner: Contact for a run in which the step needs attention.
        runbook: Link to the instructions for operators.
        participant: Name of the service that the effect calls; `None` for a transaction, and when the step names none.
        contract: How that service treats repeated and late calls, such as `remembers undo`; `None` without a service.
    """

    model_config = ConfigDict(frozen=True)

    step: str
    kind: StepKind
    location: str
    sagas: tuple[str, ...]
    roles: tuple[Role, ...]
    compensation: str | None
    irreversible: str | None
    read_only: bool
    probe: str | None
    retry: RetryPolicy | None
    timeout_ms: int | None
    undo: UndoPolicy | None
    owner: str | None
    runbook: str | None
    participant: str | None = None
    contract: str | None = None

    @property
    def guarantee(self) -> Guarantee:
        """The guarantee for the step's effect."""
        return Guarantee.ONCE if self.kind is StepKind.TRANSACTION else Guarantee.BY_KEY

    @property
    def undone_by(self) -> str:
        """The way in which the step is undone, or the reason why it is not, in a few words."""
        if self.compensation is not None:
            return self.compensation
        if self.read_only:
            return "nothing to undo: read-only"
        if self.irreversible is not None:
            return f"irreversible: {self.irreversible}"
        return "not undone: " + (" and ".join(self.roles) or "in no saga")


class Catalog(BaseModel):
    """Every step of every loaded saga, with the plans that use them.

    Attributes:
        entries: The steps.
        plans: The compiled sagas.
    """

    model_config = ConfigDict(frozen=True)

    entries: tuple[CatalogEntry, ...]
    plans: tuple[Plan, ...]

    def faults(self) -> tuple[str, ...]:
        """Return the faults that prevent an undo, one line each, with function and remedy.

        A saga must have the order compensatable*, pivot?, retriable*. A compensatable step must have a compensation, or
        be declared irreversible or read-only.
        """
        locations = {entry.step: entry.location for entry in self.entries}
        return tuple(fault for plan in self.plans for fault in _plan_faults(plan, locations))


def _plan_faults(plan: Plan, locations: dict[str, str]) -> list[str]:
    faults: list[str] = []
    forward_since: PlanNode | None = None
    for node in (node for stage in plan.stages for node in stage.nodes):
        where = f"saga {plan.saga!r}: step {node.name!r} ({locations.get(node.step, node.step)})"
        if forward_since is not None and node.role is not Role.RETRIABLE:
            faults.append(
                f"{where} is {node.role} after the {forward_since.role} step {forward_since.name!r}, from which the "
                f"saga only goes forward; mark it retriable(...) or move it before"
            )
        if node.role is not Role.COMPENSATABLE:
            forward_since = forward_since or node
        elif forward_since is None and node.undo is None and node.irreversible is None and not node.read_only:
            faults.append(
                f"{where} has no compensation; add @{node.step}.compensation, or mark it pivot(...), "
                f"retriable(...), irreversible(..., reason) or read_only=True"
            )
    return faults
