"""Sagas written by hand on Temporal: a workflow per saga, an activity per step, one row per step in a database.

Two forms: local activities with an eager start, the fastest form by hand, and ordinary activities, the form
of most tutorials. Both run in the SDK's default sandbox.
"""

import sqlite3
from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.exceptions import ActivityError, ApplicationError

__all__ = ["LocalOrder", "OrdinaryOrder", "Steps"]

_BOUND = timedelta(seconds=10)


@dataclass
class Step:
    """One step of one run."""

    run_id: str
    name: str


@workflow.defn
class LocalOrder:
    """Three local activities; if one fails, those that were done are undone."""

    @workflow.run
    async def run(self, run_id: str) -> str:
        """Run the steps."""
        done: list[str] = []
        try:
            for name in ("a", "b", "c"):
                await workflow.execute_local_activity("step", Step(run_id, name), start_to_close_timeout=_BOUND)
                done.append(name)
        except (ActivityError, ApplicationError):
            for name in reversed(done):
                await workflow.execute_local_activity("undo", Step(run_id, name), start_to_close_timeout=_BOUND)
            return "compensated"
        return "completed"


@workflow.defn
class OrdinaryOrder:
    """Three ordinary activities; if one fails, those that were done are undone."""

    @workflow.run
    async def run(self, run_id: str) -> str:
        """Run the steps."""
        done: list[str] = []
        try:
            for name in ("a", "b", "c"):
                await workflow.execute_activity("step", Step(run_id, name), start_to_close_timeout=_BOUND)
                done.append(name)
        except (ActivityError, ApplicationError):
            for name in reversed(done):
                await workflow.execute_activity("undo", Step(run_id, name), start_to_close_timeout=_BOUND)
            return "compensated"
        return "completed"


class Steps:
    """The activities: each writes one row and commits it to disk.

    Args:
        path: The SQLite file.
    """

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS steps "
            "(run_id TEXT, name TEXT, outcome TEXT, PRIMARY KEY (run_id, name, outcome))"
        )

    @activity.defn(name="step")
    async def step(self, step: Step) -> None:
        """Write a row for a step."""
        self._connection.execute("INSERT OR IGNORE INTO steps VALUES (?, ?, 'done')", (step.run_id, step.name))

    @activity.defn(name="undo")
    async def undo(self, step: Step) -> None:
        """Write a row for an undone step."""
        self._connection.execute("INSERT OR IGNORE INTO steps VALUES (?, ?, 'undone')", (step.run_id, step.name))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
