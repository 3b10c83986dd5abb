"""The activity protocol: the units of the journal by which every driver writes to a run.

Theory of operation: a driver that has news (an outcome, or only that time has passed) writes in one unit of the
journal: read the run at its head, fold, decide, append the outcome and every conclusion that needs no I/O. Recorded
work is never repeated, so a replay, a lost reply, a parallel step and an operator are all the same case.

- `accept` begins a run, once per id and input.
- `advance` appends conclusions and runs the transactions that are due, inside the unit: exactly once.
- `claim` declares the intent to call an effect, a compensation or a probe; it returns no task if the head of the stream
  asks for another call.
- `settle` appends the outcome of a claim.

Pure except for `Tx`: no clock, no environment; the driver passes `now_ms`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from amends.aggregates.errors import CannotContinueError, NotFoundError, WrongDriverError, WrongStoreError
from amends.aggregates.journal import Tx
from amends.aggregates.run.facts import DriverTaken, SagaStarted, stream_of_run
from amends.aggregates.run.plan import PlanNode
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import CLAIMED, Direction
from amends.sagas.definition.registry import Registry
from amends.sagas.engine import interventions
from amends.sagas.engine.answers import Settled, fact_of_answer
from amends.sagas.engine.calls import EffectCall, task_for
from amends.sagas.engine.decide import Conclusion, RunProbe, Work, decide
from amends.sagas.engine.due import effects_due, transactions_due
from amends.sagas.engine.fact_writer import FactWriter
from amends.sagas.engine.interventions import Intervention
from amends.sagas.engine.outcome import Failed, FailedAttempt, Outcome, Postponed
from amends.sagas.engine.start import Start, check_same_start
from amends.sagas.engine.transactions import run_transaction

__all__ = ["LEASE_GRACE_MS", "Followed", "RunProtocol", "Settled"]

LEASE_GRACE_MS = 75_000
"""The time by which a claim outlives the timeout of its call, in milliseconds, so that a call in time can be recorded.

It is longer than the 60 s for which the store may be away without using up an attempt: during an outage no worker can
record an answer, and after it the first writer must not count the others' calls as lost. It is only the last resort: if
Temporal delivers a call again, the loss of its worker is known at once.
"""

TRANSACTIONS_PER_UNIT = 20
"""The most steps that one run may take in a unit, because a unit shares its database transaction with other units."""


class Followed(NamedTuple):
    """A run after all progress that was possible in one unit.

    Attributes:
        record: The run.
        waits: The reasons why the deployed code could not do the rest, one error for each node; empty if it could.
    """

    record: RunRecord
    waits: tuple[CannotContinueError, ...] = ()


_ATTEMPTS = {Direction.DO: "attempt", Direction.UNDO: "undo attempt", Direction.PROBE: "probe attempt"}


@dataclass(frozen=True, slots=True)
class RunProtocol:
    """The writing side of a driver.

    Attributes:
        registry: The registry of the loaded code.
        worker: The name under which nodes are claimed, for people who read the journal.
        driver: Only runs of this driver are advanced; `None` for any.
        on_failure: Called with every failed attempt, before its commit; twice if a unit runs again.
    """

    registry: Registry
    worker: str
    driver: str | None = None
    on_failure: Callable[[FailedAttempt], None] = lambda _: None

    def accept(self, tx: Tx, start: Start, now_ms: int) -> RunRecord:
        """Start a run, or return the run that this request started earlier.

        Raises:
            StartConflictError: A run of another saga or with another input has the id; the message shows the
                difference.
        """
        present = tx.record(start.run_id)
        if present is not None:
            check_same_start(self.registry, present, start)
            return present
        fact = SagaStarted(
            originator_id=stream_of_run(start.run_id),
            originator_version=1,
            as_of_ms=now_ms,
            recorded_at_ms=tx.recorded_at_ms,
            correlation_id=start.correlation_id or start.run_id,
            causation_id=start.causation_id,
            actor=start.actor,
            saga=start.plan.saga,
            fingerprint=start.plan.fingerprint,
            input=start.input,
            keys=start.keys,
            store_id=tx.store_id,
            driver=start.driver,
            epoch=1,
            guarantees=start.plan.guarantees,
        )
        return tx.accept(start.plan, fact)

    def take_over(self, tx: Tx, run_id: str, driver: str, now_ms: int, *, actor: str, reason: str) -> RunRecord:
        """Record that another driver advances the run from here on; write nothing if it does so already.

        Raises:
            NotFoundError: There is no such run.
            TransitionError: The run has ended.
        """
        record = self._read(tx, run_id)
        if record.driver == driver:
            return record
        writer = FactWriter(record, now_ms, tx.recorded_at_ms, actor=actor)
        return tx.append(record, (writer.write(DriverTaken, driver=driver, epoch=record.epoch + 1, reason=reason),))

    def intervene(
        self, tx: Tx, run_id: str, intervention: Intervention, now_ms: int, *, position: int | None = None
    ) -> RunRecord:
        """Append the decision of an operator, and every conclusion from it.

        Raises:
            NotFoundError: There is no such run.
            RefusedError: The decision does not fit the run, or the run has moved past the position that the operator
                saw.
            BusyError: A call of the node is in flight.
            InputError: The reason, the evidence or the output is missing or wrong.
        """
        record = self._read(tx, run_id)
        return self._conclude(
            tx, interventions.apply(tx, self.registry, record, intervention, now_ms, position=position), now_ms
        )

    def advance(self, tx: Tx, run_id: str, now_ms: int) -> RunRecord:
        """Append every conclusion, and run the transactions that are due.

        Raises:
            NotFoundError: There is no such run.
            CannotContinueError: The deployed code can do nothing that is due.
            WrongStoreError: The run belongs to another store.
        """
        before = self._read(tx, run_id)
        record, waits = self._follow(tx, before, now_ms)
        if waits and record.state.position == before.state.position:
            raise waits[0]
        return record

    def follow(self, tx: Tx, run_id: str, now_ms: int) -> Followed:
        """Append every conclusion, and run the transactions that are due, as far as the deployed code can.

        All progress is kept: an error of one node does not undo the progress of another.

        Raises:
            NotFoundError: There is no such run.
            WrongStoreError: The run belongs to another store.
        """
        return self._follow(tx, self._read(tx, run_id), now_ms)

    def conclude(self, tx: Tx, run_id: str, now_ms: int) -> RunRecord:
        """Append every conclusion, and run nothing.

        Raises:
            NotFoundError: There is no such run.
        """
        return self._conclude(tx, self._read(tx, run_id), now_ms)

    def claim(
        self, tx: Tx, run_id: str, work: Work, now_ms: int, *, delivery: str = "", takeover: bool = False
    ) -> tuple[RunRecord, EffectCall | None]:
        """Declare the intent to call, if the head of the stream asks for this function; the attempt may differ.

        Args:
            tx: The unit's transaction.
            run_id: The run.
            work: The call that the driver decided on; its attempt may be outdated.
            now_ms: The driver's time.
            delivery: The name of the delivery by which the driver asks for the call.
            takeover: Whether the driver has given up an earlier try of the same delivery. Then a live claim of that try
                counts as failed; a claim of another delivery stays.

        Returns:
            The run's record, and the task; `None` if there is nothing to call.

        Raises:
            NotFoundError: There is no such run.
            CannotContinueError: The deployed code cannot make the call; nothing is claimed.
        """
        record = self._read(tx, run_id)
        if takeover and record.deliveries.get(work.node, "") == delivery:
            record = self._take_over(tx, record, work, now_ms)
        record = self._conclude(tx, record, now_ms)
        wanted = (work.node, type(work))
        due = next((each for each in effects_due(record, now_ms) if (each.node, type(each)) == wanted), None)
        if due is None:
            return record, None
        return self._declare(tx, record, due, now_ms, delivery)

    def claim_all(
        self,
        tx: Tx,
        record: RunRecord,
        now_ms: int,
        asked: frozenset[str] = frozenset(),
        *,
        can_begin: Callable[[PlanNode, Direction], bool] = lambda *_: True,
    ) -> tuple[RunRecord, tuple[EffectCall, ...], tuple[CannotContinueError, ...]]:
        """Claim every effect that is due and can start; none if another driver advances the run.

        Args:
            tx: The unit's transaction.
            record: The run at its head.
            now_ms: The driver's time.
            asked: Nodes whose probe is in flight. A probe leaves no claim, so only the driver knows.
            can_begin: Checks whether a call has a thread to run in; a call without a thread is not claimed.

        Returns:
            The run's record, the tasks, and the reasons why the deployed code cannot make the other calls.
        """
        tasks: list[EffectCall] = []
        waits: list[CannotContinueError] = []
        for due in effects_due(record, now_ms) if self.drives(record) else ():
            if isinstance(due, RunProbe) and due.node in asked:
                continue
            if not can_begin(record.state.plan.nodes[due.node], due.direction):
                continue
            try:
                record, task = self._declare(tx, record, due, now_ms)
            except CannotContinueError as error:  # raised before anything is claimed
                waits.append(error)
            else:
                tasks.append(task)
        return record, tuple(tasks), tuple(waits)

    def settle(self, tx: Tx, task: EffectCall, outcome: Outcome, now_ms: int) -> Settled:
        """Append the outcome of a call, and every conclusion from it.

        The process that made a call may settle it, even if another driver advances the run now, and more than once:
        after a timeout the answer may still come. A late answer that is definite is recorded unless its outcome is
        known under its key; then a run that was closed without the answer may be open again. Otherwise the record is
        returned unchanged.
        """
        self._tell(task.run_id, task.node, task.direction, task.attempt, outcome)
        record = self._read(tx, task.run_id, any_driver=True)
        answer = fact_of_answer(record, task, outcome, FactWriter(record, now_ms, tx.recorded_at_ms, cause=task.cause))
        if answer.fact is None:
            return Settled(record, late=False)
        return Settled(self._conclude(tx, tx.append(record, (answer.fact,)), now_ms), late=answer.late)

    def settle_and_follow(self, tx: Tx, task: EffectCall, outcome: Outcome, now_ms: int) -> Followed:
        """Settle a call, then run the transactions that are due, as far as the deployed code can.

        Run none of them if another driver advances the run now.
        """
        record = self.settle(tx, task, outcome, now_ms).record
        return self._follow(tx, record, now_ms) if self.drives(record) else Followed(record)

    def drives(self, record: RunRecord) -> bool:
        """Check whether this driver advances a run."""
        return self.driver is None or record.driver == self.driver

    def _read(self, tx: Tx, run_id: str, *, any_driver: bool = False) -> RunRecord:
        record = tx.record(run_id)
        if record is None:
            raise NotFoundError(f"no run has the id {run_id!r} in this store; was it started on another one?")
        if record.started.store_id != tx.store_id:
            raise WrongStoreError(
                f"run {run_id!r} was accepted by store {record.started.store_id}, but this is store {tx.store_id}; "
                "connect to the store of the run"
            )
        if not any_driver and not self.drives(record):
            raise WrongDriverError(
                f"run {run_id!r} is driven by {record.driver!r}, not by {self.driver!r}; "
                f"to take it over: amends recover --take-over"
            )
        return record

    def _follow(self, tx: Tx, record: RunRecord, now_ms: int) -> Followed:
        waits: dict[str, CannotContinueError] = {}
        for _ in range(TRANSACTIONS_PER_UNIT):
            record = self._conclude(tx, record, now_ms)
            due = next((each for each in transactions_due(record, now_ms) if each.node not in waits), None)
            if due is None:
                break
            try:
                record, postponed = self._transact(tx, record, due, now_ms)
            except CannotContinueError as error:  # raised before the step started: nothing was written
                waits[due.node] = error
            else:
                if postponed is not None:
                    waits[due.node] = postponed
        return Followed(self._conclude(tx, record, now_ms), tuple(waits.values()))

    def _conclude(self, tx: Tx, record: RunRecord, now_ms: int) -> RunRecord:
        while True:
            conclusion = next((each for each in decide(record.state, now_ms) if isinstance(each, Conclusion)), None)
            if conclusion is None:
                return record
            record = tx.append(record, (FactWriter(record, now_ms, tx.recorded_at_ms).conclusion(conclusion),))

    def _declare(
        self, tx: Tx, record: RunRecord, due: Work, now_ms: int, delivery: str = ""
    ) -> tuple[RunRecord, EffectCall]:
        node = record.state.plan.nodes[due.node]
        direction = due.direction
        probing = direction is Direction.PROBE  # a probe changes nothing, so it needs no durable intent
        cause = f"{record.run_id}:{record.state.position + (not probing)}"
        # Built before the intent is written, because a call that the code cannot make must not be claimed.
        task = task_for(self.registry, record, node, direction, attempt=due.attempt, cause=cause)
        if not probing:
            bound = node.undo.timeout_ms if direction is Direction.UNDO and node.undo else node.timeout_ms
            lease = now_ms + (bound or 0) + LEASE_GRACE_MS
            writer = FactWriter(record, now_ms, tx.recorded_at_ms)
            intent = writer.intent(node, direction, due.attempt, self.worker, lease, delivery=delivery)
            record = tx.append(record, (intent,))
        return record, task

    def _take_over(self, tx: Tx, record: RunRecord, work: Work, now_ms: int) -> RunRecord:
        at = record.state.node(work.node)
        if CLAIMED.get(at.status) is not work.direction:
            return record
        node = record.state.plan.nodes[work.node]
        fact = FactWriter(record, now_ms, tx.recorded_at_ms).lost(node, work.direction, at.attempt)
        return tx.append(record, (fact,))

    def _transact(
        self, tx: Tx, record: RunRecord, due: Work, now_ms: int
    ) -> tuple[RunRecord, CannotContinueError | None]:
        """Run a transaction and write its outcome; return the reason if the transaction was postponed.

        Raises:
            CannotContinueError: The deployed code cannot make the call; nothing was run or written.
        """
        node = record.state.plan.nodes[due.node]
        direction = due.direction
        outcome = run_transaction(tx, self.registry, record, due)
        self._tell(record.run_id, node.name, direction, due.attempt, outcome)
        fact = FactWriter(record, now_ms, tx.recorded_at_ms).outcome(node, direction, due.attempt, outcome)
        postponed = outcome.error(record.run_id, node.name) if isinstance(outcome, Postponed) else None
        return tx.append(record, (fact,)), postponed

    def _tell(self, run_id: str, node: str, direction: Direction, attempt: int, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            self.on_failure(FailedAttempt(run_id, node, _ATTEMPTS[direction], attempt, outcome))
