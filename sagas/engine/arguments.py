"""The first argument of every call: the recorded input and result, read with the loaded code.

Reading it is not part of the step. If code is missing, or if stored data does not fit the loaded types, `arguments_of`
raises `CannotContinueError`: no function was called, no attempt is used up, and the run waits for other code.
`amends.sagas.engine.blockers` asks the same function about calls that are still to come, so both agree. A mapping is
the user's code: it runs as part of the call, and an exception in it is an outcome like the step's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import JsonValue

from amends.aggregates.errors import CannotContinueError, DefinitionError, InputError, MissingCodeError
from amends.aggregates.run.plan import PlanNode, StepKind
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import Direction
from amends.aggregates.values.json_codec import JsonCodec
from amends.sagas.definition.context import Attempted, Done
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.signatures import mapping_types
from amends.sagas.definition.step_definition import Operation

__all__ = ["Arguments", "BlockerKind", "arguments_of"]


class BlockerKind(StrEnum):
    """The kind of thing that a run lacks."""

    SAGA = "saga"
    """The saga is not loaded, and nothing else names the type of its input."""
    STEP = "step"
    """The step is not loaded."""
    COMPENSATION = "compensation"
    """The step no longer has a compensation."""
    PROBE = "probe"
    """The step no longer has a probe."""
    MAPPING = "mapping"
    """No loaded step uses the mapping that computes the step's input."""
    INPUT = "input"
    """The recorded input is no longer valid for its type."""
    RESULT = "result"
    """A recorded result is no longer valid for its type."""
    PLAN = "plan"
    """A step asked for the result of a step that the run's plan does not have."""
    AGGREGATE = "aggregate"
    """A stored event of an aggregate cannot be read, or the class of the aggregate has a fault."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """A user's function with its first argument, which is built when the function is called.

    Attributes:
        operation: The function and its bounds.
        given: The saga's input.
        mapping: Computes the step's input from the saga's; `None` if the step takes the saga's input unchanged.
        undo: Builds the argument of a compensation from the step's input and result; `None` for a step or a probe.
        result: The step's result, for its compensation; `None` if the step is in doubt.
    """

    operation: Operation
    given: Any
    mapping: Callable[[Any], Any] | None = None
    undo: Callable[[Any, Any], Any] | None = None
    result: Any = None

    def first(self) -> Any:  # noqa: ANN401 - of the type that the user's function takes
        """Return the function's first argument; runs the mapping, which is the user's code and may raise anything."""
        given = self.given if self.mapping is None else self.mapping(self.given)
        return given if self.undo is None else self.undo(given, self.result)


def arguments_of(registry: Registry, record: RunRecord, node: PlanNode, direction: Direction) -> Arguments:
    """Return the function and the first argument of one call.

    Raises:
        CannotContinueError: The deployed code cannot make this call: code is missing, or recorded data does not fit it.
    """
    gather = _Gather(registry, record, node)
    operation = gather.operation(direction)
    given, mapping = gather.input(), gather.mapping()
    if direction is not Direction.UNDO:
        return Arguments(operation, given, mapping)
    undo = Done if node.kind is StepKind.TRANSACTION else Attempted
    return Arguments(operation, given, mapping, undo, gather.result())


_KINDS = {
    Direction.DO: BlockerKind.STEP,
    Direction.UNDO: BlockerKind.COMPENSATION,
    Direction.PROBE: BlockerKind.PROBE,
}


@dataclass(frozen=True, slots=True)
class _Gather:
    registry: Registry
    record: RunRecord
    node: PlanNode

    def operation(self, direction: Direction) -> Operation:
        step = self.node.step
        if step not in self.registry.steps:
            raise self._blocked(
                BlockerKind.STEP, f"no step is called {step!r} here", "deploy the module that defines it"
            )
        try:
            return self.registry.operation(step, undo=direction is Direction.UNDO, probe=direction is Direction.PROBE)
        except MissingCodeError:
            kind = _KINDS[direction]
            raise self._blocked(kind, f"step {step!r} has no {kind} here", f"deploy its {kind} again") from None

    def mapping(self) -> Callable[[Any], Any] | None:
        name = self.node.mapping
        if name is None:
            return None
        try:
            mapping: Callable[[Any], Any] = self.registry.mapping(name)
        except MissingCodeError:
            raise self._blocked(
                BlockerKind.MAPPING,
                f"no step uses the mapping {name!r} here",
                f"deploy a module that still has a step with .using({name.rpartition(':')[2]})",
            ) from None
        return mapping

    def input(self) -> Any:  # noqa: ANN401 - of the saga's input type
        saga = self.record.started.saga
        return self._load(
            self._input_codec(saga),
            self.record.started.input,
            BlockerKind.INPUT,
            f"the recorded input is no longer valid for the input type of saga {saga!r}",
            "deploy an input type that accepts the recorded input, for example with a default for a new field",
        )

    def _input_codec(self, name: str) -> JsonCodec[Any]:
        saga = self.registry.sagas.get(name)
        if saga is not None:
            return saga.input_codec
        mapping = self.mapping()
        if mapping is None:
            return self.registry.step(self.node.step).input_codec
        try:
            return JsonCodec(mapping_types(mapping, "mapping")[0], what=f"input of saga {name!r}")
        except DefinitionError:
            raise self._blocked(
                BlockerKind.SAGA, f"no saga is called {name!r} here", "deploy the module that defines it"
            ) from None

    def result(self) -> Any:  # noqa: ANN401 - of the step's result type
        if self.node.name not in self.record.results:
            return None
        return self._load(
            self.registry.result_codec(self.node.step),
            self.record.results[self.node.name],
            BlockerKind.RESULT,
            f"the recorded result is no longer valid for the result type of step {self.node.step!r}",
            "deploy a result type that accepts the recorded result, for example with a default for a new field",
        )

    def _load(self, codec: JsonCodec[Any], value: JsonValue, kind: BlockerKind, why: str, remedy: str) -> Any:  # noqa: ANN401 - of the codec's type
        try:
            return codec.load(value)
        except InputError as error:
            raise self._blocked(kind, f"{why}: {error.fault or 'its codec refuses it'}", remedy) from None

    def _blocked(self, kind: BlockerKind, why: str, remedy: str) -> CannotContinueError:
        return CannotContinueError(self.record.run_id, self.node.name, kind=kind.value, why=why, remedy=remedy)
