"""Built-in rules over store and Temporal: every open run is driven, and nothing else is.

While Temporal cannot be reached, these rules could not scan, unless they have nothing to ask it. They run on the
worker's event loop and read the store in a thread: a store that hangs must not keep the worker from sending heartbeats.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from itertools import islice

import temporalio.client
from temporalio.client import WorkflowExecutionStatus

from amends.aggregates.journal import RunQuery
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.run.record import RunSummary
from amends.aggregates.run.state import OPEN
from amends.reconciler.drift.drift import Drift, DriftKind, ScanFailed, Wake
from amends.reconciler.drift.observation import Observation
from amends.reconciler.drift.rule import MOST_DRIFTS, Rule, RuleFunction, drift_rule
from amends.sagas.engine.decide import Work, decide
from amends.sagas.temporal.recovery import TOLD, belongs, running_workflows, store_behind, workflow_status
from amends.sagas.temporal.start_workflow import pollers

__all__ = ["drive_rules", "driven_runs"]

_PAGE = 200
_STARTED_WITHIN = timedelta(seconds=30)


def drive_rules(
    client: temporalio.client.Client | None, problem: str, *, task_queue: str, nothing_runs: bool
) -> tuple[Rule, ...]:
    """Create the rules that ask Temporal.

    Args:
        client: Client of Temporal; `None` when Temporal cannot be reached.
        problem: Why Temporal cannot be reached.
        task_queue: Queue of the workers.
        nothing_runs: Whether the project certainly has no Temporal, so that nothing can run there.
    """

    # Every worker makes the same correction when it starts, so the cap is the largest one.
    @drift_rule("driven", every=timedelta(minutes=1), mode="apply", cap=MOST_DRIFTS)
    async def driven(observation: Observation) -> AsyncIterator[Drift]:
        """Every open run was started in Temporal, its workflow runs, and somebody polls for the effect that is due."""
        running: frozenset[str] | None = None
        routes = _Routes()
        async for row in _open_runs(observation):
            if row.driver != TEMPORAL_DRIVER:
                continue
            observation.scanned(1)
            if client is None:
                raise ScanFailed(problem)
            if running is None:
                running = frozenset(await running_workflows(client, task_queue))
            # A listed run needs no question; a run that is not listed may have been started a moment ago.
            check = routes.unpolled if row.run_id in running else _undriven
            drift = await check(client, observation, row)
            if drift is not None:
                yield drift

    return driven, drift_rule("orphans", every=timedelta(minutes=5), mode="apply")(
        _orphans(client, problem, task_queue=task_queue, nothing_runs=nothing_runs)
    )


async def _open_runs(observation: Observation) -> AsyncIterator[RunSummary]:
    """List the open runs that can be read, each page in a thread; the others are reported as damaged."""
    rows = observation.records(RunQuery(statuses=OPEN, limit=_PAGE))
    while page := await asyncio.to_thread(lambda: [row for row, _ in islice(rows, _PAGE)]):
        for row in page:
            yield row


class _Routes:
    """Effects with a queue of their own, and the pollers of those queues; each plan and each queue is read once."""

    def __init__(self) -> None:
        self._routed: dict[str, bool] = {}
        self._polled: dict[str, bool] = {}

    async def unpolled(
        self, client: temporalio.client.Client, observation: Observation, row: RunSummary
    ) -> Drift | None:
        """Return a drift when an effect of a run is due and no worker polls its queue: people have to start one."""
        if self._routed.get(row.fingerprint) is False:
            return None
        record = await asyncio.to_thread(observation.record, row.run_id)
        if record is None or record.state.closed:
            return None
        nodes = record.state.plan.nodes
        self._routed[row.fingerprint] = any(node.queue is not None for node in nodes.values())
        for work in (each for each in decide(record.state, observation.now_ms) if isinstance(each, Work)):
            queue = nodes[work.node].queue
            if queue is not None and not await self._is_polled(client, queue):
                return Drift(
                    subject=row.run_id,
                    kind=DriftKind.MISSING,
                    expected=f"a worker polls queue {queue}",
                    actual=None,
                    evidence=f"{work.node} is due; start a worker that has the modules of this step",
                )
        return None

    async def _is_polled(self, client: temporalio.client.Client, queue: str) -> bool:
        if queue not in self._polled:
            self._polled[queue] = bool(await pollers(client, queue, effects=True))
        return self._polled[queue]


async def _undriven(client: temporalio.client.Client, observation: Observation, row: RunSummary) -> Drift | None:
    """Return a drift when no workflow drives an open run; `None` when one does, or the run just began or closed."""
    status = await workflow_status(client, row.run_id)
    if status is WorkflowExecutionStatus.RUNNING:
        return None
    record = await asyncio.to_thread(observation.record, row.run_id)
    if record is None or record.state.closed:
        return None
    if status is None and observation.now_ms - row.started_ms < _STARTED_WITHIN // timedelta(milliseconds=1):
        return None
    # When Temporal has seen more than the store holds, a new start would call effects that the store has lost.
    behind = await store_behind(client, row.run_id, record.state.position) if status in TOLD else None
    return Drift(
        subject=row.run_id,
        kind=DriftKind.MISSING if status is None else DriftKind.DIFFERENT,
        expected="its workflow runs",
        actual="Temporal does not know the run" if status is None else f"its workflow is {status.name}",
        evidence=behind or f"the run is {record.state.status} at position {record.state.position}",
        correction=None if behind is not None else Wake(row.run_id),
    )


def _orphans(
    client: temporalio.client.Client | None, problem: str, *, task_queue: str, nothing_runs: bool
) -> RuleFunction:
    async def orphans(observation: Observation) -> list[Drift]:
        """Temporal runs nothing that the store calls closed or does not know."""
        if client is None:
            if nothing_runs:
                return []
            raise ScanFailed(problem)
        found = []
        for run_id in await running_workflows(client, task_queue):
            observation.scanned(1)
            record = await asyncio.to_thread(observation.record, run_id)
            if observation.is_damaged(run_id) or (record is not None and not record.state.closed):
                continue
            if not await belongs(client, run_id, observation.store_id):
                continue
            if await workflow_status(client, run_id) is WorkflowExecutionStatus.RUNNING:
                found.append(_orphan(run_id, None if record is None else record.state.status.value))
        return found

    return orphans


def _orphan(run_id: str, status: str | None) -> Drift:
    if status is None:
        return Drift(
            subject=run_id,
            kind=DriftKind.UNEXPECTED,
            expected="no such run",
            actual="its workflow runs",
            evidence="the workflow was started for this store, so the store is an older copy",
        )
    # The woken workflow reads the journal, finds nothing left to do, and ends.
    return Drift(
        subject=run_id,
        kind=DriftKind.UNEXPECTED,
        expected=f"the run is {status}",
        actual="its workflow runs",
        correction=Wake(run_id),
    )


async def driven_runs(client: temporalio.client.Client, task_queue: str) -> Mapping[str, str]:
    """Return the runs whose workflow runs, each with the reason not to touch it.

    Raises:
        UnreachableError: Temporal does not answer.
    """
    return dict.fromkeys(await running_workflows(client, task_queue), "its workflow runs")
