"""The work on the messages of one unit: each one is applied, passed over, or held.

A handler runs under a savepoint of its own. If it fails for good, its changes are undone, and the unit goes on without
them. An error of the store ends the whole unit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amends.aggregates.errors import (
    AmendsError,
    AppendConflictError,
    Rejected,
    StartConflictError,
    UnitLost,
    UnreachableError,
)
from amends.aggregates.intake import HeldKind, HeldMessage
from amends.aggregates.journal import Tx
from amends.aggregates.run.facts import SagaStarted
from amends.aggregates.values.error_report import is_a, raised_in_amends, reason_of
from amends.aggregates.values.strict_json import clean_text
from amends.pipelines.control.state import PipelineState
from amends.pipelines.definition.pipeline import Handles, Pipeline, Starts
from amends.pipelines.intake.arrival import Arrival, fault_of
from amends.pipelines.intake.flow import Breaker, Failure
from amends.pipelines.intake.judge import Judge, Scene, Verdict
from amends.pipelines.intake.modes import Mode
from amends.pipelines.intake.remember import (
    IdMemory,
    Memory,
    NoMemory,
    NumberMemory,
    Remembered,
    RunMemory,
    bucket_of,
    gap_hash,
    number_hash,
    start_ms_of,
)
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.engine.start import Start, check_same_request

__all__ = ["IntakeParts", "MessageWork", "TrippedError"]

_REASON_CHARS = 500
_APPLIED = frozenset({Verdict.APPLY, Verdict.APPLY_AGAIN})


class TrippedError(AmendsError):
    """The breaker has detected a fault of the whole pipeline; the unit wrote nothing.

    Args:
        fault: The fault.
        position: Position of the first message of the unit with this fault.
    """

    def __init__(self, fault: str, position: int) -> None:
        super().__init__(f"five messages within a minute ended with the same fault: {fault}")
        self.fault = fault
        self.position = position


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeParts:
    """The parts with which every unit of a pipeline works.

    Attributes:
        pipeline: The pipeline.
        protocol: The writing side of runs, for `starts`.
        now_ms: Returns the driver's time, in milliseconds since the epoch.
    """

    pipeline: Pipeline[Any]
    protocol: RunProtocol
    now_ms: Callable[[], int]


class MessageWork:
    """Works on the messages of one unit.

    Args:
        tx: The unit's transaction.
        parts: The parts of the pipeline.
        state: The state of the pipeline.
        messages: All messages of the unit.

    Attributes:
        name: Name of the pipeline.
        state: The state of the pipeline.
        memory: The memory of messages.
        judge: The judge of the messages; see `judge_in`.
        started: Ids of the runs to drive: those that the unit started.
        failures: The failures of messages.
        readable: Number of readable messages.
    """

    def __init__(self, tx: Tx, parts: IntakeParts, state: PipelineState, messages: Sequence[Arrival]) -> None:
        self._tx = tx
        self._parts = parts
        self.name = parts.pipeline.name
        self._work = parts.pipeline.work
        self.state = state
        uniform = state.uniform_mode
        # Each message asks for its mode, and nearly always all keys have the same.
        self._mode_of: Callable[[str], Mode] = state.mode_of if uniform is None else lambda _: uniform
        self._accepted: dict[str, SagaStarted] = {}
        self._conflicts: dict[str, str] = {}
        self._first_faults: dict[str, int] = {}
        self._horizon = 0
        self.memory = self._memory_of([each for each in messages if not each.fault])
        self.judge = Judge(Scene(partition=""), self.memory)
        self.started: list[str] = []
        self.failures: list[Failure] = []
        self.readable = 0

    def judge_in(self, messages: Iterable[Arrival], **scene: Any) -> None:  # noqa: ANN401 - fields of `Scene`
        """Set the scene in which the messages are judged.

        Args:
            messages: All messages of the unit.
            scene: The fields of the scene that this unit does not know: those of the position.
        """
        keys = list(dict.fromkeys(each.key for each in messages if each.key))
        releasing = scene.get("releasing", False)
        held: Mapping[str, HeldKind] = {} if releasing or not keys else self._tx.intake.held_keys(self.name, keys)
        self.judge = Judge(
            Scene(held=held, mode_of=self._mode_of, horizon_ms=start_ms_of(self._horizon), **scene), self.memory
        )

    # ---- the memory

    def _memory_of(self, readable: Sequence[Arrival]) -> Memory:
        intake = self._tx.intake
        if isinstance(self._work, Starts):
            return RunMemory(self._same_run_of(self._tx.first_facts([each.subject.run_id for each in readable])))
        self._horizon = intake.horizon(self.name)
        if self._parts.pipeline.sequence is not None:
            last = intake.last_numbers(self.name, list(dict.fromkeys(each.key for each in readable)))
            late = [each for each in readable if (each.sequence or 0) <= last.get(each.key, -1)]
            return NumberMemory(
                last,
                self._known([make(each.key, each.sequence or 0) for each in late for make in (gap_hash, number_hash)]),
            )
        if not any(mode.remembers_ids for mode in self.state.modes):
            return NoMemory()
        return IdMemory(self._known([each.hash for each in readable]))

    def _known(self, hashes: Sequence[bytes]) -> Mapping[bytes, bytes]:
        if not hashes:
            return {}
        return self._tx.intake.known(self.name, list(dict.fromkeys(hashes)), oldest_bucket=self._horizon)

    def _same_run_of(self, facts: Mapping[str, SagaStarted]) -> Callable[[Remembered], bool | None]:
        def same(message: Remembered) -> bool | None:
            start: Start = message.subject
            first = facts.get(start.run_id) or self._accepted.get(start.run_id)
            if first is None:
                return None
            try:
                check_same_request(self._parts.protocol.registry, first, start)
            except StartConflictError as error:
                self._conflicts[start.run_id] = str(error)
                return False
            return True

        return same

    # ---- one message

    def do(self, message: Arrival, *, attempts: int = 0) -> None:
        """Judge the next message, and apply, pass over or hold it.

        Args:
            message: The message.
            attempts: The number of times that its handler has run before.

        Raises:
            JournalError: The store cannot be read or written.
        """
        verdict = self.judge.verdict(message)
        if verdict in _APPLIED:
            self._apply(message, again=verdict is Verdict.APPLY_AGAIN, attempts=attempts)
        else:
            self._pass_over(message, verdict)

    def check(self, breaker: Breaker) -> None:
        """Check whether the failures so far show a fault of the whole pipeline.

        Raises:
            TrippedError: They do.
        """
        fault = breaker.fault(self.failures, self.readable)
        if fault is not None:
            raise TrippedError(fault, self._first_faults[fault])

    def _apply(self, message: Arrival, *, again: bool, attempts: int) -> None:
        shadow = self._mode_of(message.key) is Mode.SHADOW
        error = self._error_of(message, shadow=shadow)
        self.readable += 1
        if shadow:
            self.judge.skipped(message, learn=False)
        elif error is None:
            self.judge.applied(message, again=again)
        else:
            self._hold(message, error, attempts)

    def _error_of(self, message: Arrival, *, shadow: bool) -> BaseException | None:
        """Apply a message, and return the error with which it failed for good; `None` if it took effect."""
        try:
            if isinstance(self._work, Starts):
                self._start(message.subject)
            else:
                self._handle(self._work, message, shadow=shadow)
        except UnitLost:
            raise
        except BaseException as error:
            if isinstance(error, UnreachableError | AppendConflictError) and raised_in_amends(error):
                raise
            return error
        return None

    def _start(self, start: Start) -> None:
        record = self._parts.protocol.accept(self._tx, start, self._parts.now_ms())
        self._accepted[start.run_id] = record.started
        self.started.append(start.run_id)

    def _handle(self, work: Handles, message: Arrival, *, shadow: bool) -> None:
        keep_for = self._parts.pipeline.remember if work.notify_duplicates else None
        try:
            with self._tx.unit_of_work(cause=self._cause_of(message), keep_sent_for=keep_for) as uow:
                work.function(message.subject, uow)
                if shadow:
                    raise _RollBackError  # noqa: TRY301 - leaving the savepoint is the point
        except _RollBackError:
            pass

    def _hold(self, message: Arrival, error: BaseException, attempts: int) -> None:
        if is_a(error, Rejected):
            # A refusal is an answer about this message, so it says nothing about the pipeline.
            reason = f"refused: {clean_text(reason_of(error), _REASON_CHARS)}"
        else:
            reason = fault_of(error)
            self._fail(message, reason, message.key)
        self.judge.set_aside(message, HeldKind.FAILED, reason, attempts=attempts + 1)

    def _fail(self, message: Arrival, fault: str, key: str) -> None:
        self.failures.append(Failure(fault, key, self._parts.now_ms()))
        self._first_faults.setdefault(fault, message.raw.position)

    def _pass_over(self, message: Arrival, verdict: Verdict) -> None:
        if verdict is Verdict.FAULT:
            self._fail(message, message.fault, "" if message.kind is HeldKind.UNDECODABLE else message.key)
        else:
            self.readable += 1
        if isinstance(self._work, Handles):
            if verdict is Verdict.REPEATED and self._work.notify_duplicates:
                self._tx.outbox.send_again(self._cause_of(message))
        elif verdict is Verdict.CONFLICT:
            self.judge.set_aside(message, HeldKind.CONFLICT, self._conflicts[message.subject.run_id])
            return
        self.judge.settle(message, verdict)

    def _cause_of(self, message: Arrival) -> str:
        return f"{self.name}/{message.id}"

    # ---- the results

    @property
    def gaps(self) -> int:
        """Count of sequence numbers that producers have left out."""
        return self.memory.gaps if isinstance(self.memory, NumberMemory) else 0

    @property
    def held(self) -> Sequence[HeldMessage]:
        """The messages to hold."""
        return self.judge.held

    def write(self) -> None:
        """Write the held messages, and everything that the memory has learnt."""
        intake, memory = self._tx.intake, self.memory
        if self.held:
            intake.hold(self.name, self.held)
        if isinstance(memory, IdMemory | NumberMemory) and memory.new:
            bucket = max(bucket_of(self._tx.recorded_at_ms, self._parts.pipeline.remember), self._horizon)
            intake.remember(self.name, bucket, list(memory.new.values()))
        if isinstance(memory, NumberMemory) and memory.numbers:
            intake.set_numbers(self.name, memory.numbers)


class _RollBackError(Exception):
    """Leaves the savepoint of a handler that ran in the mode `shadow`."""
