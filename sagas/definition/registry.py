"""The registry: all sagas and steps by name, where workers and runners look them up."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from pydantic import JsonValue

from amends.aggregates.errors import DefinitionError, MissingCodeError, NotFoundError
from amends.aggregates.values.json_codec import DEFAULT_LIMITS, JsonCodec, Limits
from amends.aggregates.values.strict_json import digest
from amends.compensations.catalog import Catalog, CatalogEntry
from amends.sagas.definition.saga import Saga
from amends.sagas.definition.step_definition import Operation, StepDefinition
from amends.sagas.definition.steps import Step

__all__ = ["Registry"]

_CODE_CHARS = 8


class Registry:
    """Sagas and steps by name.

    Args:
        sagas: The sagas.
        steps: Steps in addition to those in the sagas: runs in flight may need steps that no saga contains today.
        limits: Bounds of one input.
        result_limits: Bounds of one result; `None` for the same.

    Raises:
        DefinitionError: Two sagas or two steps have one name.
    """

    def __init__(
        self,
        sagas: Iterable[Saga[Any]],
        steps: Iterable[Step[Any, Any]] = (),
        *,
        limits: Limits = DEFAULT_LIMITS,
        result_limits: Limits | None = None,
    ) -> None:
        self._limits = limits
        self._result_limits = result_limits or limits
        self._inputs: dict[str, JsonCodec[Any]] = {}
        self._results: dict[str, JsonCodec[Any]] = {}
        self.sagas: dict[str, Saga[Any]] = {}
        self.steps: dict[str, StepDefinition] = {}
        self._mappings: dict[str, Any] = {}
        for saga in sagas:
            if self.sagas.setdefault(saga.name, saga) is not saga:
                raise DefinitionError(f"saga name {saga.name!r} is used twice; rename one of the two")
            for placed in saga.placed:
                self._add(placed.step)
        for step in steps:
            self._add(step)

    def _add(self, step: Step[Any, Any]) -> None:
        known = step.definition
        present = self.steps.setdefault(known.name, known)
        if present is not known:
            raise DefinitionError(
                f"step name {known.name!r} is used twice: {present.run.location} and {known.run.location}; "
                f"give one of them a name: @{known.kind}(name=...)"
            )
        if step.mapping is not None:
            self._mappings[f"{step.mapping.__module__}:{step.mapping.__qualname__}"] = step.mapping

    def saga(self, name: str) -> Saga[Any]:
        """Find a saga.

        Raises:
            NotFoundError: No saga has this name; the message lists the names that exist.
        """
        if name not in self.sagas:
            there_are = ", ".join(sorted(self.sagas)) or "none"
            raise NotFoundError(f"no saga is called {name!r}; defined are: {there_are}")
        return self.sagas[name]

    def step(self, name: str) -> StepDefinition:
        """Find a step.

        Raises:
            MissingCodeError: No step has this name: this process lacks the code of a run in flight.
        """
        if name not in self.steps:
            raise MissingCodeError(
                f"no step is called {name!r} here, but an open run needs it; deploy the module that defines it"
            )
        return self.steps[name]

    def mapping(self, name: str) -> Any:  # noqa: ANN401 - a function of the user's
        """Find a mapping function by its dotted name.

        Raises:
            MissingCodeError: No registered step uses it.
        """
        if name not in self._mappings:
            raise MissingCodeError(
                f"no step uses the mapping {name!r} here, but an open run needs it; deploy its module"
            )
        return self._mappings[name]

    def operation(self, step: str, *, undo: bool = False, probe: bool = False) -> Operation:
        """Find the function that runs, compensates or probes a step.

        Raises:
            MissingCodeError: The registry does not have the step, or the step does not have the function.
        """
        known = self.step(step)
        found = known.undo if undo else known.probe if probe else known.run
        if found is None:
            what = "compensation" if undo else "probe"
            raise MissingCodeError(f"step {step!r} has no {what} here, but an open run needs it; deploy its module")
        return found

    def input_codec(self, saga: Saga[Any]) -> JsonCodec[Any]:
        """Return the codec that writes a saga's input within this registry's limits."""
        if saga.name not in self._inputs:
            what = f"input of saga {saga.name!r}"
            self._inputs[saga.name] = JsonCodec(saga.input_type, what=what, limits=self._limits)
        return self._inputs[saga.name]

    def result_codec(self, step: str) -> JsonCodec[Any]:
        """Return the codec that writes a step's result within this registry's limits.

        Raises:
            MissingCodeError: The registry does not have the step.
        """
        if step not in self._results:
            what = f"result of step {step!r}"
            self._results[step] = JsonCodec(self.step(step).types[1], what=what, limits=self._result_limits)
        return self._results[step]

    @cached_property
    def code(self) -> str:
        """A short fingerprint of the registered sagas and steps; equal wherever the same ones are registered."""
        plans: dict[str, JsonValue] = {name: saga.plan.fingerprint for name, saga in self.sagas.items()}
        operations: dict[str, JsonValue] = {
            name: [step.undo is not None, step.probe is not None] for name, step in self.steps.items()
        }
        return digest([plans, operations])[:_CODE_CHARS]

    @cached_property
    def catalog(self) -> Catalog:
        """The compensation catalog of all steps.

        Raises:
            DefinitionError: A fault that only the whole catalog shows (see `Catalog.faults`), or an input or result
                type that cannot be stored; without this check the fault would appear after the step has acted.
        """
        for saga in self.sagas.values():
            self.input_codec(saga)
        for name in self.steps:
            self.result_codec(name)
        catalog = Catalog(
            entries=tuple(_entry(step, self.sagas.values()) for step in self.steps.values()),
            plans=tuple(saga.plan for saga in self.sagas.values()),
        )
        if faults := catalog.faults():
            more = f" (and {len(faults) - 1} more: {' | '.join(faults[1:])})" if len(faults) > 1 else ""
            raise DefinitionError(faults[0] + more)
        return catalog


def _entry(step: StepDefinition, sagas: Iterable[Saga[Any]]) -> CatalogEntry:
    uses = [(saga, placed) for saga in sagas for placed in saga.placed if placed.step.definition is step]
    node = uses[0][1].node() if uses else None
    return CatalogEntry(
        step=step.name,
        kind=step.kind,
        location=step.run.location,
        sagas=tuple(dict.fromkeys(saga.name for saga, _ in uses)),
        roles=tuple(dict.fromkeys(placed.role for _, placed in uses)),
        compensation=None if step.undo is None else step.undo.location,
        irreversible=next((placed.reason for _, placed in uses if placed.reason), None),
        read_only=step.read_only,
        probe=None if step.probe is None else step.probe.location,
        retry=None if node is None else node.retry,
        timeout_ms=None if node is None else node.timeout_ms,
        undo=step.undo_policy,
        owner=step.owner,
        runbook=step.runbook,
        participant=None if step.participant is None else step.participant.name,
        contract=None if step.participant is None else step.participant.contract.value,
    )
