"""The user's functions in the search: run for real, or replaced by a result. Pure.

A transaction really runs, on aggregates and tables in memory. The function of an effect runs when the participant
carries the call out; its result is the participant's answer. The search cannot wait, so an effect that waits for a
network has to be replaced by a result (`results={charge_card: "receipt"}`). A probe never runs: the books answer.

The search injects refusals into transactions, but not into their undos: those run on your own store, so only your own
code can refuse, and that code runs.
"""

import copy
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import Any, NamedTuple

from amends.aggregates.errors import MissingCodeError, Rejected
from amends.aggregates.run.plan import StepKind
from amends.aggregates.run.state import Direction
from amends.aggregates.values.error_report import lineage
from amends.sagas.definition.context import UnitOfWork
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.saga import Saga
from amends.sagas.definition.step_definition import Operation
from amends.sagas.definition.steps import Step
from amends.sagas.engine.calls import EffectCall, outcome_of_error, outcome_of_result
from amends.sagas.engine.outcome import Outcome
from amends.sagas.prove.memory import MemoryWork
from amends.sagas.prove.problem import ProveError

__all__ = ["Functions", "InjectedError", "ProvedRegistry", "Ran", "Script", "TransactionFault", "results_by_name"]


class TransactionFault(StrEnum):
    """The faults that the search injects into a transaction."""

    REFUSED = "is refused"
    FAILS = "fails before it writes"
    FAILS_LATE = "fails after it wrote"


class Ran(NamedTuple):
    """A transaction that ran in a unit.

    Attributes:
        node: The node.
        undo: Whether it was the undo.
    """

    node: str
    undo: bool


class InjectedError(Exception):
    """The error that the search raises in place of a user's function."""


class Script:
    """What the transactions of the present unit do; the player of moves sets it before each unit.

    Attributes:
        run: Index of the run whose unit it is.
        ran: The transactions that have run in the unit, in order.
        problem: The error because of which the search has to end; `None` if there is none.
    """

    def __init__(self) -> None:
        self.run = 0
        self.ran: list[Ran] = []
        self.problem: ProveError | None = None
        self._fault: tuple[int, TransactionFault] | None = None

    def start(self, run: int, fault: tuple[int, TransactionFault] | None = None) -> None:
        """Begin a unit.

        Args:
            run: Index of the run.
            fault: The fault to inject, with the number of transactions that run before it; `None` for none.
        """
        self.run, self.ran, self._fault = run, [], fault

    def next_fault(self, ran: Ran) -> TransactionFault | None:
        """Return the fault of the transaction that runs now, and count the transaction."""
        self.ran.append(ran)
        if self._fault is not None and self._fault[0] == len(self.ran) - 1:
            return self._fault[1]
        return None

    def note(self, error: BaseException, step: str) -> None:
        """Keep the first error because of which the search has to end."""
        for each in lineage(error):
            if isinstance(each, ProveError) and self.problem is None:
                self.problem = ProveError(f"step {step!r}: {each}")


_UNWATCHED = nullcontext()


class ProvedRegistry(Registry):
    """A registry whose transactions obey a script.

    Args:
        sagas: The sagas.
        results: Results of steps by name, in place of their functions.

    Attributes:
        refuses_undo: Whether the undo of a transaction may be refused by injection.
        watch: Returns the block in which a function of the step with this name runs.
        lacks: The step, or the mapping of a step, that is missing; empty if none is.
    """

    refuses_undo = False

    def __init__(self, sagas: Iterable[Saga[Any]], results: Mapping[str, object] | None = None) -> None:
        super().__init__(sagas)
        self.script = Script()
        self.watch: Callable[[str], AbstractContextManager[object]] = lambda _: _UNWATCHED
        self.results: Mapping[str, object] = results or {}
        self.lacks = ""
        self._operations: dict[tuple[str, bool, bool], Operation] = {}

    def operation(self, step: str, *, undo: bool = False, probe: bool = False) -> Operation:
        """Return the function of a step; that of a transaction obeys the script."""
        place = (step, undo, probe)
        operation = self._operations.get(place)
        if operation is None:
            real = super().operation(step, undo=undo, probe=probe)
            scripted = self.step(step).kind is StepKind.TRANSACTION
            operation = self._scripted(step, real, undo=undo) if scripted else real
            self._operations[place] = operation
        return operation

    def without(self, part: str) -> "ProvedRegistry":
        """Return the registry of a release that lacks a step or a mapping; it obeys the same script."""
        lacking = copy.copy(self)
        lacking.lacks = part
        lacking.steps = {name: step for name, step in self.steps.items() if name != part}
        return lacking

    def mapping(self, name: str) -> Any:  # noqa: ANN401 - a function of the user's
        """Return a mapping.

        Raises:
            MissingCodeError: The release lacks it.
        """
        if name == self.lacks:
            raise MissingCodeError(f"the release lacks the mapping {name!r}; deploy it again")
        return self._mapping(name)

    def _mapping(self, name: str) -> Any:  # noqa: ANN401 - as above
        return super().mapping(name)

    def _scripted(self, step: str, real: Operation, *, undo: bool) -> Operation:
        def transact(first: Any, uow: UnitOfWork) -> Any:  # noqa: ANN401 - the user's types
            fault = self.script.next_fault(Ran(uow.node, undo))
            if isinstance(uow.work, MemoryWork):
                uow.work.acts = (f"{uow.run_id}/{uow.node}", self.script.run, uow.node, undo)
            if fault is TransactionFault.REFUSED:
                raise Rejected("refused by the search")
            if fault is TransactionFault.FAILS:
                raise InjectedError("failed before it wrote")
            value = self._transacted(step, real, first, uow, undo=undo)
            if fault is TransactionFault.FAILS_LATE:
                raise InjectedError("failed after it wrote")
            return value

        return Operation(transact, real.retry, real.timeout)

    def _transacted(self, step: str, real: Operation, first: Any, uow: UnitOfWork, *, undo: bool) -> Any:  # noqa: ANN401 - as above
        if step in self.results:
            return None if undo else _given(self.results[step])
        try:
            with self.watch(step):
                return real.function(first, uow)
        except BaseException as error:
            self.script.note(error, step)
            raise


class Functions:
    """Carries out the calls of effects.

    Args:
        registry: The registry that has the functions.
    """

    def __init__(self, registry: ProvedRegistry) -> None:
        self._registry = registry

    def carry_out(self, task: EffectCall) -> Outcome:
        """Return the outcome of a call that the participant carries out.

        Raises:
            ProveError: The function waits for something outside of the search.
        """
        results = self._registry.results
        try:
            if task.step in results:
                value = None if task.direction is Direction.UNDO else _given(results[task.step])
            else:
                with self._registry.watch(task.step):
                    value = task.operation.function(task.argument, task.call)
                    if inspect.isawaitable(value):
                        value = _finished(value, task.step)
        except (KeyboardInterrupt, ProveError):
            raise
        except BaseException as error:  # noqa: BLE001 - every way in which a function can end is an outcome of it
            return outcome_of_error(error)
        return outcome_of_result(self._registry, task.step, task.direction, value)


def _given(result: object) -> object:
    if isinstance(result, BaseException):
        raise result
    return result


def _finished(value: Awaitable[Any], step: str) -> Any:  # noqa: ANN401 - the user's type
    """Return the result of a coroutine that never waits."""
    steps = value.__await__()
    try:
        next(steps)
    except StopIteration as end:
        return end.value
    except RuntimeError as error:
        if "no running event loop" in str(error):
            raise _waits(step) from error
        raise
    close: Callable[[], None] | None = getattr(value, "close", None)
    if close is not None:
        close()
    raise _waits(step)


def _waits(step: str) -> ProveError:
    return ProveError(
        f"step {step!r}: its function waits for something outside of the search; "
        f"replace it: results={{{step}: a result}}"
    )


def results_by_name(results: Mapping[Step[Any, Any], object]) -> dict[str, object]:
    """Return results by the names of their steps."""
    return {step.definition.name: value for step, value in results.items()}
