"""Bound how long a run may use its idempotency keys: participants must remember them at least that long."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from amends.aggregates.run.plan import PlanNode, RetryPolicy
from amends.sagas.definition.saga import Saga
from amends.sagas.engine.protocol import LEASE_GRACE_MS

__all__ = ["backward_ms", "forward_ms", "max_run_duration"]


def max_run_duration(saga: Saga[Any]) -> timedelta | None:
    """Return an upper bound of the time from a run's first call to its last, undo included, if there are no outages.

    The bound assumes that every attempt lasts until its claim expires, and that every delay and every compensation is
    needed. It excludes outages of workers, store or Temporal, during which a run rests and uses up no attempt; and
    operators, who may retry or undo a step weeks later. So a participant's retention should exceed

        max_run_duration(saga) + longest outage + longest time until an operator has decided

    Args:
        saga: The saga whose steps call the participant.

    Returns:
        The bound; `None` if a step or compensation has unlimited attempts, so that there is no bound.
    """
    total_ms = 0
    for stage in saga.plan.stages:
        forward = [forward_ms(node) for node in stage.nodes]
        backward = [backward_ms(node) for node in stage.nodes]
        for spans, side_by_side in ((forward, True), (backward, not stage.ordered)):
            longest = _together(spans, side_by_side=side_by_side)
            if longest is None:
                return None
            total_ms += longest
    return timedelta(milliseconds=total_ms)


def _together(spans: Iterable[int | None], *, side_by_side: bool) -> int | None:
    known = []
    for span in spans:
        if span is None:
            return None
        known.append(span)
    return max(known) if side_by_side else sum(known)


def forward_ms(node: PlanNode) -> int | None:
    """Return an upper bound of the time from a step's first attempt to its outcome, in ms; `None` if unbounded."""
    attempts = _operation_ms(node.retry, node.timeout_ms)
    # The driver repeats the probe as often as it attempted the step.
    return attempts if attempts is None or not node.probe else 2 * attempts


def backward_ms(node: PlanNode) -> int | None:
    """Return an upper bound of the time to undo a step, in ms; `None` if unbounded."""
    return 0 if node.undo is None else _operation_ms(node.undo.retry, node.undo.timeout_ms)


def _operation_ms(retry: RetryPolicy, timeout_ms: int | None) -> int | None:
    if retry.max_attempts is None:
        return None
    attempt_ms = 0 if timeout_ms is None else timeout_ms + LEASE_GRACE_MS
    total_ms, attempt = retry.max_attempts * attempt_ms, 1
    while (delay := retry.delay_ms(attempt)) is not None:
        total_ms += delay
        attempt += 1
        if delay == retry.longest_ms or retry.factor == 1:
            return total_ms + (retry.max_attempts - attempt) * delay
    return total_ms
