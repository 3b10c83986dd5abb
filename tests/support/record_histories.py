"""Record the workflow histories that the suite replays: `python tests/support/record_histories.py`.

Record the histories again when a change of the workflow cannot affect a run in flight. Never record them so that a
failing replay passes: a replay that fails here would fail for the runs of all users. Histories hold no user data; fixed
values replace ids and the names of machines and processes.
"""

import asyncio
import base64
import json
import shutil
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import temporalio.client
from runs.driving import CASES, DECIDED, MIXED, SAGA, SLOW, Case, Order, decided_by_client, until_rest
from temporal_parts import TemporalServer

from amends import Client, RunStatus
from amends.aggregates.sql.journal import open_journal
from amends.sagas.definition.registry import Registry
from amends.sagas.temporal.worker import running_worker

__all__ = ["HISTORIES", "RECORDED", "file_of"]

HISTORIES = Path(__file__).parents[1] / "data" / "histories"

_PLAIN = (
    "all goes well",
    "an effect answers the second time",
    "the probe finds it",
    "the probe finds nothing",
    "the pivot says no",
    "an undo never answers",
)
_DECIDED = (
    "an undo is tried again",
    "a refused step is redone",
    "cancelled while it waits",
    "retried while it waits",
    "cancelled in flight",
)
_TOGETHER = "a call and a transaction are undone together"
_CANCELLED = "cancelled by Temporal itself"
RECORDED = (*_PLAIN, *_DECIDED, _TOGETHER, _CANCELLED)
"""Cases whose histories are kept; of a run that was opened again, the history of its last workflow."""

_SAME = {"runId", "originalExecutionRunId", "firstExecutionRunId", "newExecutionRunId"}
_DROPPED = {"requestId", "taskId", "workerVersion", "binaryChecksum", "workerInstanceKey", "workerControlTaskQueue"}
_NOBODY = "00000000-0000-0000-0000-000000000000"


def file_of(name: str) -> Path:
    """Return the file of a case's history."""
    return HISTORIES / f"{name.replace(' ', '-').lower()}.json"


def _anonymous(value: Any, names: Mapping[str, str]) -> Any:  # noqa: ANN401 - any JSON
    """Replace all parts that depend on the run and the machine."""
    if isinstance(value, list):
        return [_anonymous(each, names) for each in value]
    if isinstance(value, str):
        for real, name in names.items():
            value = value.replace(real, name)
        return value
    if not isinstance(value, dict):
        return value
    if set(value) == {"metadata", "data"}:
        data = _anonymous(base64.b64decode(value["data"]).decode(), names)
        return {**value, "data": base64.b64encode(data.encode()).decode()}
    fixed = dict.fromkeys(_SAME, _NOBODY) | {"identity": "worker"}
    return {key: fixed.get(key, _anonymous(each, names)) for key, each in sorted(value.items()) if key not in _DROPPED}


def _write(name: str, history: temporalio.client.WorkflowHistory, names: Mapping[str, str]) -> None:
    events = [json.dumps(_anonymous(event, names)) for event in history.to_json_dict()["events"]]
    file_of(name).write_text('{"events": [\n' + ",\n".join(events) + "\n]}\n")


async def _record(folder: Path) -> None:
    executable = shutil.which("temporal", path=sysconfig.get_path("scripts"))
    assert executable is not None
    server = TemporalServer(Path(executable), folder)
    journal, registry = open_journal(f"sqlite:///{folder / 'events.db'}"), Registry([SAGA, SLOW, MIXED])
    cases = {name: Case(SAGA, order, (), status) for name, (order, status) in CASES.items() if name in _PLAIN}
    cases |= {name: DECIDED[name] for name in _DECIDED}
    cases[_TOGETHER] = Case(MIXED, Order(order_id="x", fail=("ponder",)), (), RunStatus.COMPENSATED)
    with server.serving():
        temporal = await temporalio.client.Client.connect(server.address)
        client = Client(journal, temporal, registry, task_queue="amends")
        async with running_worker(temporal, journal, registry, task_queue="amends"):
            for number, case in enumerate(cases[name] for name in RECORDED[:-1]):
                assert await decided_by_client(client, journal, case, f"recorded-{number}") is case.status
            handle = await client.start(SLOW, Order(order_id="x", stuck=("ponder",)), id="recorded-last")
            await until_rest(journal, handle.id)
            await temporal.get_workflow_handle(handle.id).cancel()
            assert (await handle.result()).status is RunStatus.COMPENSATED
        run_ids = [*(f"recorded-{number}" for number in range(len(cases))), handle.id]
        for name, run_id in zip(RECORDED, run_ids, strict=True):
            history = await temporal.get_workflow_handle(run_id).fetch_history()
            _write(name, history, {run_id: "a-run", journal.store_id: _NOBODY})
    await journal.close()


def record() -> None:
    """Record and replace all histories."""
    shutil.rmtree(HISTORIES, ignore_errors=True)
    HISTORIES.mkdir()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_record(Path(folder)))


if __name__ == "__main__":
    record()
