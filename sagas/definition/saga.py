"""A saga as its author defines it, and its compilation into a plan."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, JsonValue

from amends.aggregates.errors import DefinitionError, InputError
from amends.aggregates.run.plan import Plan, PlanNode, Role, Stage, StepKind
from amends.aggregates.text import shorten
from amends.aggregates.values.json_codec import JsonCodec
from amends.sagas.definition.retry import EFFECT_RETRY, TRANSACTION_RETRY, Retry, check_retry, milliseconds
from amends.sagas.definition.signatures import fits, label, mapping_types, type_name
from amends.sagas.definition.steps import Part, Step

__all__ = ["Group", "Placed", "Saga", "irreversible", "parallel", "pivot", "retriable"]

I = TypeVar("I")  # noqa: E741 - the input, as in every signature here
I_contra = TypeVar("I_contra", contravariant=True)

_SAGA_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
FOREVER = Retry(max_attempts=None, longest=Retry().longest * 2)
MAX_NODES = 10_000


class Placed(Part[I_contra]):
    """A step together with its role in one saga.

    Attributes:
        step: The step.
        role: Its role.
        retry: The retry policy in this place; `None` for the step's own.
        reason: The reason why the step stays when the others are undone; `None` if it is undone, too.
    """

    def __init__(
        self, step: Step[I_contra, Any], role: Role, retry: Retry | None = None, reason: str | None = None
    ) -> None:
        self.step = step
        self.role = role
        self.retry = retry
        self.reason = reason

    def __repr__(self) -> str:
        return f"<{self.role} {self.step.name!r}>"

    def node(self) -> PlanNode:
        """Build the plan's node."""
        step, known = self.step, self.step.definition
        default = TRANSACTION_RETRY if known.kind is StepKind.TRANSACTION else EFFECT_RETRY
        if self.role is Role.RETRIABLE:
            default = FOREVER
        timeout = known.run.timeout
        mapping = step.mapping
        return PlanNode(
            name=step.name,
            step=known.name,
            kind=known.kind,
            role=self.role,
            retry=(self.retry or known.run.retry or default).policy,
            timeout_ms=None if timeout is None else milliseconds(timeout),
            undo=known.undo_policy if self.reason is None else None,
            probe=known.probe is not None,
            irreversible=self.reason,
            read_only=known.read_only,
            mapping=None if mapping is None else f"{mapping.__module__}:{mapping.__qualname__}",
            queue=known.queue,
            local=known.local,
            overdue_ms=None if known.overdue is None else milliseconds(known.overdue),
        )


class Group(Part[I_contra]):
    """Steps that run in parallel.

    Attributes:
        members: The steps.
        ordered: Whether they are undone one by one, the last one that started first.
    """

    def __init__(self, members: Sequence[Placed[I_contra]], *, ordered: bool) -> None:
        if not members:
            raise DefinitionError("parallel() has no members; pass at least one step")
        for member in members:
            if member.role is Role.PIVOT:
                raise DefinitionError(
                    f"parallel({member.step.name!r}): a pivot decides for the whole run and cannot run in a group; "
                    "put it after the group"
                )
            if member.role is not members[0].role:
                raise DefinitionError(
                    f"parallel({members[0].step.name!r}, {member.step.name!r}): one is {members[0].role}, the other "
                    f"{member.role}; mark all members retriable, or none"
                )
        self.members = tuple(members)
        self.ordered = ordered

    def __repr__(self) -> str:
        return f"<parallel {', '.join(repr(member.step.name) for member in self.members)}>"


def parallel(*members: Step[I, Any] | Placed[I], ordered: bool = False) -> Group[I]:
    """Run steps in parallel; the next stage starts when all of them have succeeded.

    When one step fails, the run waits for the steps in flight and undoes all that succeeded.

    Args:
        members: Steps, plain or marked `retriable` or `irreversible`.
        ordered: Whether to undo them one by one, the last one that started first, instead of all together.

    Raises:
        DefinitionError: There is no member, one member is a pivot, only some members are retriable, or one is not a
            step.
    """
    return Group([_placed(member, "parallel()") for member in members], ordered=ordered)


def pivot(step: Step[I, Any], *, retry: Retry | None = None) -> Placed[I]:
    """Mark the go/no-go step: a failure before it compensates the saga; after it the saga only goes forward.

    Args:
        step: The step.
        retry: Its retry policy in this place; `None` for the step's own.

    Raises:
        DefinitionError: `step` is not a step.
    """
    return _marked("pivot", step, Role.PIVOT, retry)


def retriable(step: Step[I, Any], *, retry: Retry | None = None) -> Placed[I]:
    """Mark a step after the pivot; the driver repeats it until it succeeds.

    Args:
        step: The step.
        retry: The policy that says when to give up and ask an operator. `None` for the step's own, and if it has none,
            for unlimited attempts.

    Raises:
        DefinitionError: `step` is not a step.
    """
    return _marked("retriable", step, Role.RETRIABLE, retry)


def irreversible(step: Step[I, Any], reason: str) -> Placed[I]:
    """Mark a step that stays when the saga is compensated.

    Args:
        step: The step.
        reason: The reason why this is right, for readers of the catalog.

    Raises:
        DefinitionError: `step` is not a step, or the reason is empty.
    """
    placed = _marked("irreversible", step, Role.COMPENSATABLE, None, reason)
    _check_reason(step.name, reason)
    return placed


@dataclass(frozen=True)
class _Layout:
    stages: tuple[tuple[tuple[Placed[Any], ...], bool], ...]

    @property
    def placed(self) -> tuple[Placed[Any], ...]:
        return tuple(member for members, _ in self.stages for member in members)


class Saga(Generic[I]):
    """A business process of steps: either all of them succeed, or those that acted are undone.

    A saga is data: its steps in order. The constructor raises the faults that it can see. Faults that need the whole
    catalog (a step without compensation, a name used twice, steps in an order that cannot be undone) are raised once
    all modules are loaded.

    Args:
        name: The saga's name, unique among all sagas: 1 to 100 lower-case letters, digits, `-`, `_` and `.`.
        input: The type of the saga's input: a pydantic model, or any type that pydantic validates.
        body: Steps, marked steps and parallel groups, in order.
        keys: Fields of the input by which `amends list --where` finds runs.

    Raises:
        DefinitionError: The name is not valid, there is no step, a step's input type does not fit, two nodes have one
            name, or a key is not a field of the input.
    """

    def __init__(self, name: str, input: type[I], *body: Part[I], keys: Sequence[str] = ()) -> None:  # noqa: A002
        _check_saga_name(name)
        if isinstance(input, Part):
            raise DefinitionError(
                f"saga {name!r}: the second argument is {input!r} instead of the type of the input; write Saga(name, "
                "Input, step, ...)"
            )
        self.name = name
        self.input_type = input
        self._layout = _lay_out(name, body)
        _check_fit(name, input, self._layout.placed)
        _check_keys(name, input, keys)
        self.keys = tuple(keys)

    def __repr__(self) -> str:
        return f"<saga {self.name!r}>"

    @property
    def placed(self) -> tuple[Placed[Any], ...]:
        """Every step with its role, in order."""
        return self._layout.placed

    @cached_property
    def input_codec(self) -> JsonCodec[I]:
        """The codec that validates and reads the saga's input, and writes it within the default limits."""
        return JsonCodec(self.input_type, what=f"input of saga {self.name!r}")

    @cached_property
    def plan(self) -> Plan:
        """The compiled saga. Compiling seals its steps: a compensation or probe can no longer be attached."""
        for placed in self.placed:
            placed.step.definition.sealed = True
        return Plan(
            saga=self.name,
            input_type=type_name(self.input_type),
            stages=tuple(
                Stage(nodes=tuple(member.node() for member in members), ordered=ordered)
                for members, ordered in self._layout.stages
            ),
            keys=self.keys,
        )

    def key_values(self, value: JsonValue) -> Mapping[str, str]:
        """Read the declared business keys from an input's JSON.

        Raises:
            InputError: A key's value is an object or a list.
        """
        found: dict[str, str] = {}
        for key in self.keys:
            item = value.get(key) if isinstance(value, dict) else None
            if isinstance(item, dict | list):
                raise InputError(
                    f"saga {self.name!r}: business key {key!r} is {shorten(item)}; use a single value, because Amends "
                    "cannot look up a list or an object"
                )
            if item is not None:
                found[key] = item if isinstance(item, str) else str(item)
        return found


def _check_saga_name(name: object) -> None:
    if not isinstance(name, str) or not _SAGA_NAME.fullmatch(name):
        raise DefinitionError(
            f"saga name {shorten(name)}: use 1 to 100 lower-case letters, digits, '-', '_' and '.', beginning with "
            f"a letter or digit"
        )


def _check_reason(step: str, reason: object) -> None:
    if not isinstance(reason, str) or not reason.strip():
        raise DefinitionError(f"irreversible({step!r}, {reason!r}): write the reason in words; operators read it")


def _marked(mark: str, step: Step[I, Any], role: Role, retry: Retry | None, reason: str | None = None) -> Placed[I]:
    where = f"{mark}()"
    if isinstance(step, Placed):
        raise DefinitionError(f"{where}: step {step.step.name!r} has a mark already; remove one of the two")
    if isinstance(step, Group):
        raise DefinitionError(f"{where}: a parallel group cannot be marked; mark its members")
    _placed(step, where)
    check_retry(retry, f"{mark}({step.name!r})")
    return Placed(step, role, retry, reason)


def _placed(part: object, where: str) -> Placed[Any]:
    if isinstance(part, Placed):
        return part
    if isinstance(part, Step):
        return Placed(part, Role.COMPENSATABLE)
    if isinstance(part, Group):
        raise DefinitionError(f"{where}: a parallel group cannot contain another; list all steps in one parallel(...)")
    hint = (
        "decorate it with @transaction or @effect" if callable(part) else "pass steps made by @transaction or @effect"
    )
    raise DefinitionError(f"{where}: {label(part)} is not a step; {hint}")


def _lay_out(name: str, body: Sequence[object]) -> _Layout:
    if not body:
        raise DefinitionError(f"saga {name!r}: the saga has no steps; pass at least one")
    stages: list[tuple[tuple[Placed[Any], ...], bool]] = [
        (part.members, part.ordered) if isinstance(part, Group) else ((_placed(part, f"saga {name!r}"),), False)
        for part in body
    ]
    layout = _Layout(tuple(stages))
    if len(layout.placed) > MAX_NODES:
        raise DefinitionError(f"saga {name!r}: {len(layout.placed)} steps, the limit is {MAX_NODES}; use several sagas")
    seen: set[str] = set()
    for placed in layout.placed:
        if placed.step.name in seen:
            raise DefinitionError(
                f"saga {name!r}: the node {placed.step.name!r} occurs twice; give one of the two a name: "
                f".using(mapping, name=...)"
            )
        seen.add(placed.step.name)
    return layout


def _check_fit(name: str, given: Any, placed: Sequence[Placed[Any]]) -> None:  # noqa: ANN401 - any type form
    for step in (item.step for item in placed):
        expected = step.definition.types[0]
        actual = given
        if step.mapping is not None:
            where = f"saga {name!r}: mapping {step.mapping.__qualname__!r} of step {step.name!r}"
            taken, actual = mapping_types(step.mapping, where)
            if not fits(given, taken):
                raise DefinitionError(
                    f"{where}: takes {type_name(taken)}, the saga's input is {type_name(given)}; change one of them"
                )
        if not fits(actual, expected):
            raise DefinitionError(
                f"saga {name!r}: step {step.name!r} takes {type_name(expected)}, but would receive "
                f"{type_name(actual)}; "
                f"use {step.definition.name}.using(a function from {type_name(given)} to {type_name(expected)})"
            )


def _check_keys(name: str, given: Any, keys: Sequence[str]) -> None:  # noqa: ANN401 - any type form
    if isinstance(keys, str):
        raise DefinitionError(f"saga {name!r}: keys={keys!r}; give a tuple of field names, ({keys!r},)")
    fields = given.model_fields if isinstance(given, type) and issubclass(given, BaseModel) else None
    for key in keys:
        if fields is not None and key not in fields:
            raise DefinitionError(
                f"saga {name!r}: key {key!r} is not a field of {type_name(given)}; use one of {', '.join(fields)}"
            )
