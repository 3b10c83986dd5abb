"""The one workflow behind every saga: decide, activity, evolve.

It contains no user code and sees no user data. It is dynamic: the workflow type is the saga's name. All its decisions
come from `decide`; the journal is the truth, and activities return only the news of it. A change to the order of its
commands would break runs in flight; recorded histories in the tests guard against that.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.workflow import ActivityHandle

from amends.aggregates.run.plan import PlanNode, StepKind
from amends.aggregates.run.state import CLAIMED, Direction, RunState
from amends.sagas.engine.decide import Conclusion, Decision, WaitUntil, Work, decide
from amends.sagas.engine.protocol import LEASE_GRACE_MS
from amends.sagas.engine.seats import Function
from amends.sagas.temporal.messages import (
    ADVANCE,
    JOIN,
    WAKE,
    AdvanceRequest,
    CallRequest,
    JoinRequest,
    Progress,
    RunArguments,
    RunEnd,
)

__all__ = ["SagaWorkflow"]

# Temporal's retries are unlimited and cover our own infrastructure only; a step's attempts are facts.
_INFRASTRUCTURE = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), backoff_coefficient=2, maximum_interval=timedelta(seconds=5)
)
_ADVANCE_BOUND = timedelta(seconds=60)
_HEARTBEAT = timedelta(seconds=5)
# The activity's bound is far beyond the call's timeout, because the activity keeps an outcome until the store accepts
# it.
_RECORDING_BOUND = timedelta(minutes=10)
# The workflow asks again, because other code may have been deployed. The wait doubles from the shortest to the longest.
_SHORTEST_WAIT_MS, _LONGEST_WAIT_MS = 1_000, 60_000


@workflow.defn(dynamic=True, sandboxed=False)
class SagaWorkflow:
    """Drives one run from its acceptance to its end."""

    def __init__(self) -> None:
        self._woken = True
        self._cancel = False
        self._run = RunArguments("", "")
        self._state: RunState | None = None
        # The furthest position that a call has reported; the heads up to it may be missing here.
        self._reached = 0
        self._calls: dict[str, ActivityHandle[Progress]] = {}
        self._advance: ActivityHandle[Progress] | None = None
        # For a transaction that the deployed code cannot run: since when, until when to wait, and at which position.
        self._waits: tuple[int, int, int] | None = None

    @workflow.signal(name=WAKE)
    def wake(self) -> None:
        """Wake the workflow: another process has written to the journal."""
        self._woken = True

    @workflow.run
    async def run(self, args: Sequence[RawValue]) -> RunEnd:
        """Drive the run, and return how it closed."""
        self._run = workflow.payload_converter().from_payload(args[0].payload, RunArguments)
        while self._state is None or not self._state.closed:
            # Checked before new calls start, because a run with many parallel calls would otherwise never be idle.
            if workflow.info().is_continue_as_new_suggested() and self._idle():
                workflow.continue_as_new(self._run)
            # Start nothing until the missing heads are here, because they may contain the decision already.
            decisions = () if self._state is None or self._behind() else decide(self._state, _now_ms())
            self._begin_calls(decisions)
            self._begin_advance(decisions)
            await self._wait(decisions)
            self._collect()
        return RunEnd(self._state.status.value, self._state.position)

    def _idle(self) -> bool:
        """Check whether no activity is in flight and this workflow holds no news of its own."""
        return not self._calls and self._advance is None and not self._cancel

    def _behind(self) -> bool:
        """Check whether a call has reported a position whose heads are missing here."""
        return self._state is not None and self._state.position < self._reached

    def _begin_calls(self, decisions: Sequence[Decision]) -> None:
        state = self._state
        for work in decisions:
            if state is None or not isinstance(work, Work | WaitUntil) or work.node in self._calls:
                continue
            if isinstance(work, WaitUntil):
                if state.node(work.node).status in CLAIMED:
                    self._calls[work.node] = self._begin_join(state, work)
                continue
            node = state.plan.nodes[work.node]
            if node.kind is StepKind.EFFECT:
                self._calls[work.node] = self._begin_call(node, work, state.position)

    def _begin_call(self, node: PlanNode, work: Work, known: int) -> ActivityHandle[Progress]:
        direction = work.direction
        request = CallRequest(
            self._run.run_id, self._run.store_id, node.name, direction, work.attempt, known, _now_ms()
        )
        name = str(Function(node.step, direction))
        bound = (node.undo.timeout_ms if direction is Direction.UNDO and node.undo else node.timeout_ms) or 0
        start_to_close = timedelta(milliseconds=bound + LEASE_GRACE_MS) + _RECORDING_BOUND
        if node.local:
            return workflow.start_local_activity(
                name,
                request,
                result_type=Progress,
                start_to_close_timeout=start_to_close,
                retry_policy=_INFRASTRUCTURE,
            )
        return workflow.start_activity(
            name,
            request,
            result_type=Progress,
            task_queue=node.queue,
            start_to_close_timeout=start_to_close,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=_INFRASTRUCTURE,
            summary=node.name if work.attempt == 1 else f"{node.name}, attempt {work.attempt}",
        )

    def _begin_join(self, state: RunState, work: WaitUntil) -> ActivityHandle[Progress]:
        """Start to wait for a claim that this workflow did not request, but the workflow that it replaced."""
        direction = CLAIMED[state.node(work.node).status]
        lease = timedelta(milliseconds=max(0, work.due_ms - _now_ms()))
        return workflow.start_activity(
            JOIN,
            JoinRequest(
                self._run.run_id,
                self._run.store_id,
                work.node,
                direction,
                work.due_ms,
                state.position,
                _now_ms(),
            ),
            result_type=Progress,
            start_to_close_timeout=lease + _RECORDING_BOUND,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=_INFRASTRUCTURE,
            summary=f"{work.node}, claimed by another driver",
        )

    def _begin_advance(self, decisions: Sequence[Decision]) -> None:
        """Read the journal if there are facts to append or heads to fetch, or after a wake-up."""
        state = self._state
        waits = self._waiting_until_ms() is not None
        wanted = (
            self._woken
            or self._behind()
            or any(
                isinstance(each, Conclusion)
                or (
                    isinstance(each, Work)
                    and state is not None
                    and state.plan.nodes[each.node].kind is StepKind.TRANSACTION
                    and not waits
                )
                for each in decisions
            )
        )
        if not wanted or self._advance is not None:
            return
        self._woken = False
        cancel, self._cancel = self._cancel, False
        known = 0 if state is None else state.position
        self._advance = workflow.start_local_activity(
            ADVANCE,
            AdvanceRequest(self._run.run_id, self._run.store_id, known, _now_ms(), cancel, self._reached),
            result_type=Progress,
            start_to_close_timeout=_ADVANCE_BOUND,
            retry_policy=_INFRASTRUCTURE,
        )

    def _waiting_until_ms(self) -> int | None:
        """Return until when the run waits for other code; `None` if it does not wait, or if it has moved on since."""
        if self._waits is None or self._state is None:
            return None
        _, until_ms, position = self._waits
        return until_ms if position == self._state.position and until_ms > _now_ms() else None

    async def _wait(self, decisions: Sequence[Decision]) -> None:
        """Wait for an answer, a wake-up or the next due time."""
        # No timer for a call in flight: its activity always ends, and a timer for its claim would only fill the
        # history.
        due = [each.due_ms for each in decisions if isinstance(each, WaitUntil) and each.node not in self._calls]
        if (until_ms := self._waiting_until_ms()) is not None:
            due.append(until_ms)
        due_ms = min(due, default=None)
        timeout = None if due_ms is None or self._advance else timedelta(milliseconds=max(1, due_ms - _now_ms()))
        try:
            await workflow.wait_condition(self._something_new, timeout=timeout)
        except TimeoutError:
            return
        except asyncio.CancelledError:
            # Temporal's cancel becomes a cancel of the run: the run is undone, and a further cancel cannot cut the undo
            # short.
            self._woken = self._cancel = True

    def _something_new(self) -> bool:
        if self._advance is not None:
            return self._advance.done() or any(call.done() for call in self._calls.values())
        return self._woken or any(call.done() for call in self._calls.values())

    def _collect(self) -> None:
        """Fold the news that the ended activities have read from the journal."""
        for name in [name for name, call in self._calls.items() if call.done()]:
            progress = self._calls.pop(name).result()
            self._reached = max(self._reached, progress.reached)
            self._state = progress.apply(self._state)
        if self._advance is not None and self._advance.done():
            progress = self._advance.result()
            self._state = progress.apply(self._state)
            self._advance = None
            self._waits = self._wait_for_code(self._state.position) if progress.waits else None

    def _wait_for_code(self, position: int) -> tuple[int, int, int]:
        now_ms = _now_ms()
        since_ms = self._waits[0] if self._waits is not None and self._waits[2] == position else now_ms
        wait_ms = min(max(_SHORTEST_WAIT_MS, now_ms - since_ms), _LONGEST_WAIT_MS)
        return since_ms, now_ms + wait_ms, position


def _now_ms() -> int:
    return workflow.time_ns() // 1_000_000
