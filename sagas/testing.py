"""Given / when / then for sagas: unit tests of failure paths, without a server and without real delays.

A scenario runs a saga with the in-process runner on a store in memory. Transactions really run. Effects do not: each
returns the answers from the test, and an effect without an answer fails the test, so that no unit test calls a
participant by accident. Time is virtual: an hour of retries passes at once.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar

from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.journal import Tx
from amends.aggregates.outbox import SentMessage
from amends.aggregates.run.facts import CompensationSucceeded, Fact
from amends.aggregates.run.state import RunStatus
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.sagas.definition.context import Call, ResultSource
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.saga import Saga
from amends.sagas.definition.step_definition import Operation
from amends.sagas.definition.steps import Effect, Step
from amends.sagas.engine.result import RunResult
from amends.sagas.runtime.clock import VirtualClock
from amends.sagas.runtime.effects import DriverAbort
from amends.sagas.runtime.runner import Runner

__all__ = ["LostReply", "Scenario", "Then", "blocking"]

A = TypeVar("A", bound=Aggregate)
I = TypeVar("I")  # noqa: E741 - the input, as in every signature here
R = TypeVar("R")
T = TypeVar("T")

_MESSAGES = 100_000


class LostReply(Exception):  # noqa: N818 - an event of the scenario, not a fault of the test
    """An answer of a scripted effect: the effect happened, but its reply was lost."""


class _UnansweredError(DriverAbort):
    """The saga called an effect without an answer; the error ends the driver, so that no retry hides it."""


class _Script:
    """The answers of the scripted functions, and the calls that they received."""

    def __init__(self) -> None:
        self.answers: defaultdict[tuple[str, str], deque[object]] = defaultdict(deque)
        self.calls: defaultdict[tuple[str, str], list[Call]] = defaultdict(list)

    def give(self, step: str, what: str, answers: Sequence[object]) -> None:
        """Replace the answers, because earlier ones left in front of them would make a test assert on an old script."""
        self.answers[step, what] = deque(answers)

    def answer(self, step: str, what: str, call: Call) -> object:
        self.calls[step, what].append(call)
        waiting = self.answers[step, what]
        if waiting:
            # The last answer stays, because a participant repeats its last answer.
            given = waiting.popleft() if len(waiting) > 1 else waiting[0]
            if isinstance(given, BaseException):
                raise given
            return given
        if what == "compensation":
            return None
        raise _UnansweredError(
            f"{what} of effect {step!r} has no answer in the scenario; add scenario.answers({step}, ...)"
        )


class _ScriptedRegistry(Registry):
    """A registry whose effects answer from a script."""

    script: _Script

    def operation(self, step: str, *, undo: bool = False, probe: bool = False) -> Operation:
        """Return the scripted function in place of an effect's own."""
        real = super().operation(step, undo=undo, probe=probe)
        if real.timeout is None:
            return real
        what = "compensation" if undo else "probe" if probe else "step"

        async def scripted(_: object, call: Call) -> object:
            return self.script.answer(step, what, call)

        return Operation(scripted, real.retry, real.timeout)


class Scenario(Generic[I]):
    """One saga, a store in memory, and a virtual clock.

    Args:
        saga: The saga under test; other sagas that use its steps are not needed.

    Attributes:
        registry: The saga's steps, with scripted effects.
        clock: The virtual clock.
        journal: The store.
        runner: The runner that drives the saga.

    Example:
        >>> from amends import Call, Rejected, Saga, effect
        >>> @effect
        ... def charge(amount: int, call: Call) -> str: ...
        >>> @charge.compensation
        ... def refund(tried: object, call: Call) -> None: ...
        >>> with Scenario(Saga("pay", int, charge)) as scenario:
        ...     then = scenario.answers(charge, Rejected("no funds")).when(12)
        ...     charge_refused = then.compensated().result.error
        >>> charge_refused
        'charge: no funds'
    """

    def __init__(self, saga: Saga[I]) -> None:
        self._saga = saga
        self.registry = _ScriptedRegistry([saga])
        self._script = self.registry.script = _Script()
        self.clock = VirtualClock()
        self.journal = open_journal("sqlite://")
        self.runner = Runner(self.journal, self.registry, clock=self.clock)
        self._runs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.journal.close_blocking()

    def given(self, *aggregates: Aggregate) -> Self:
        """Put aggregates into the store before the saga runs."""

        def save(tx: Tx) -> None:
            with tx.unit_of_work() as work:
                for aggregate in aggregates:
                    work.add(aggregate)

        self.journal.commit_blocking(save)
        return self

    def answers(self, step: Effect[Any, R], *answers: R | BaseException) -> Self:
        """Set the answers of an effect, attempt by attempt.

        They replace earlier answers for the effect.

        Args:
            step: The effect.
            answers: Results to return, or exceptions to raise: `Rejected` for a refusal, `LostReply` or any other for
                an attempt without an answer. The last answer repeats. Without any answer, a call fails the test again.
        """
        self._script.give(step.definition.name, "step", answers)
        return self

    def probe_answers(self, step: Effect[Any, R], *answers: R | BaseException | None) -> Self:
        """Set the answers of an effect's probe: a result, `None` for "it did not happen", or an exception.

        The last answer repeats. The answers replace earlier ones for the probe.
        """
        self._script.give(step.definition.name, "probe", answers)
        return self

    def compensation_answers(self, step: Effect[Any, Any], *answers: BaseException | None) -> Self:
        """Set the answers of an effect's compensation: `None` for done (the default), or an exception.

        The last answer repeats. The answers replace earlier ones for the compensation.
        """
        self._script.give(step.definition.name, "compensation", answers)
        return self

    def when(self, input: I, *, id: str | None = None) -> "Then":  # noqa: A002
        """Run the saga to its end.

        Args:
            input: Its input.
            id: Id of the run; by default `run-1`, `run-2` and so on.

        Raises:
            AssertionError: The saga called an effect that has no answer.
        """
        self._runs += 1
        began_ms = self.clock.now_ms()
        run_id = id or f"run-{self._runs}"
        try:
            result = blocking(self.runner.run(self._saga, input, id=run_id))
        except _UnansweredError as error:
            raise AssertionError(str(error)) from None
        facts = self.journal.facts_blocking(run_id)
        return Then(self.journal, self._script, result, facts, self.clock.now_ms() - began_ms)


class Then:
    """The result of a run, with assertions that show the whole run if they fail.

    Attributes:
        result: The run's result.
        history: Its facts.
        elapsed: Virtual time that the run took.
    """

    def __init__(
        self, journal: SqlJournal, script: _Script, result: RunResult, history: Sequence[Fact], elapsed_ms: int
    ) -> None:
        self._journal = journal
        self._script = script
        self.result = result
        self.history = tuple(history)
        self.elapsed = timedelta(milliseconds=elapsed_ms)

    def completed(self) -> Self:
        """Assert that every step succeeded."""
        return self._is(RunStatus.COMPLETED)

    def compensated(self, *nodes: str) -> Self:
        """Assert that the run was undone.

        Args:
            nodes: The nodes that were undone, in this order; without any, the assertion does not check nodes.
        """
        self._is(RunStatus.COMPENSATED)
        undone = tuple(fact.node for fact in self.history if isinstance(fact, CompensationSucceeded))
        if nodes and undone != nodes:
            self._fail(f"expected undone steps: {', '.join(nodes)}; undone steps: {', '.join(undone) or 'none'}")
        return self

    def needs_attention(self, *nodes: str) -> Self:
        """Assert that the run waits for an operator, about exactly these nodes."""
        self._is(RunStatus.NEEDS_ATTENTION)
        if nodes and set(nodes) != set(self.result.open_nodes):
            self._fail(f"expected open steps: {', '.join(nodes)}; open steps: {', '.join(self.result.open_nodes)}")
        return self

    def facts(self, *kinds: str) -> Self:
        """Assert that the run consists of exactly these kinds of facts, in this order."""
        found = tuple(fact.kind for fact in self.history)
        if found != kinds:
            self._fail(f"expected the facts {', '.join(kinds)}")
        return self

    def result_of(self, step: ResultSource[R]) -> R | None:
        """Return the result of a step; `None` if it has not succeeded."""
        return self.result.result_of(step)

    def aggregate(self, cls: type[A], id: str) -> A:  # noqa: A002 - the word that aggregates use
        """Load an aggregate as the run left it.

        Raises:
            AssertionError: There is no such aggregate.
        """
        found = self._journal.load_blocking(cls, id)
        if found is None:
            self._fail(f"there is no {cls.__name__} {id!r}")
        return found

    def calls(self, step: Step[Any, Any]) -> tuple[Call, ...]:
        """Return the calls of an effect, in order; all of them have the same key."""
        return tuple(self._script.calls[step.definition.name, "step"])

    def compensation_calls(self, step: Step[Any, Any]) -> tuple[Call, ...]:
        """Return the calls of an effect's compensation, in order."""
        return tuple(self._script.calls[step.definition.name, "compensation"])

    def sent(self, topic: str) -> tuple[SentMessage, ...]:
        """Return the messages that the run's transactions have sent to a topic, in order."""
        found = self._journal.outbox_blocking(topics=[topic], limit=_MESSAGES)
        return tuple(each.message for each in found if each.message.cause == self.result.run_id)

    def _is(self, status: RunStatus) -> Self:
        if self.result.status is not status:
            self._fail(f"expected the run to be {status}, it is {self.result.status}")
        return self

    def _fail(self, what: str) -> NoReturn:
        lines = [f"  {fact.position:>3} {fact.kind} {getattr(fact, 'node', '')}".rstrip() for fact in self.history]
        error = f"\nlast error: {self.result.error}" if self.result.error else ""
        raise AssertionError("\n".join([what + error, f"run {self.result.run_id!r}:", *lines]))


def blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, even if an event loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
