"""Temporal's database lost, or older than the store; a workflow that failed; a store older than Temporal."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import temporalio.client
from bounds import HANG
from hard_parts import HOURLY, PATIENT, Ledger, Order, Pages, client_of, opened, until, working
from stores import POSTGRESQL_IN_SOAK
from temporal_parts import TemporalServer
from temporalio.client import WorkflowExecutionStatus

from amends import RunStatus
from amends.aggregates.journal import RunQuery
from amends.aggregates.run.record import RunSummary
from amends.aggregates.run.state import OPEN
from amends.aggregates.sql.journal import SqlJournal
from amends.reconciler.drift.rule_state import RuleState
from amends.reconciler.rules.temporal import drive_rules
from amends.reconciler.runtime.check import scan
from amends.sagas.temporal.client import Client
from amends.sagas.temporal.recovery import Recovery, recover, unknown_to_store
from amends.sagas.temporal.start_workflow import start_workflow

PLACES: Mapping[str, tuple[str, bool]] = {
    "paying": ("pay/do", False),
    "undoing": ("pay/undo", True),
    "delivering": ("deliver/do", False),
}
"""Places where a run stops: the call that cannot reach the participant, and whether the run is refused."""

ENDS = {
    False: (RunStatus.COMPLETED, ["begun", "settled"], ["pay/do/0", "deliver/do/0"]),
    True: (RunStatus.COMPENSATED, ["begun", "given up"], ["pay/do/0", "pay/undo/0"]),
}
"""The end of a run, by whether it was refused: its status, its transactions, and the participant's effects."""


class Store:
    """A store, and its runs that tests stop in known places.

    Args:
        journal: The store.
        folder: The folder of the participant's ledger.
    """

    def __init__(self, journal: SqlJournal, folder: Path) -> None:
        folder.mkdir()
        self.journal = journal
        self.ledger = Ledger(folder)
        self.folder = folder
        self.queue = f"recovery-{journal.store_id}"

    def id_of(self, place: str) -> str:
        """Return the id of the run in a place."""
        return f"{self.queue}-{place}"

    async def start(self, client: Client) -> None:
        """Start a run for every place, and one that stops twice; return when each is there."""
        for place, (away, refused) in PLACES.items():
            order = Order(folder=str(self.folder), refused=refused, away=(away,))
            await client.start(PATIENT, order, id=self.id_of(place))
        twice = Order(folder=str(self.folder), away=("pay/do", "deliver/do"))
        await client.start(PATIENT, twice, id=self.id_of("twice"))
        for place, (away, _) in [*PLACES.items(), ("twice", ("pay/do", False))]:
            await self.ledger.until_called(self.id_of(place), f"{away}/0")

    async def finish(self, client: Client, *places: str) -> None:
        """Let the runs continue to their end, and check that every step was called once."""
        for place in places:
            self.ledger.open_gate(self.id_of(place))
        for place in places:
            result = await client.result(self.id_of(place), timeout=HANG)
            pages = await self.journal.load(Pages, self.id_of(place))
            assert pages is not None
            ended = result.status, pages.lines, self.ledger.acted(self.id_of(place))
            assert ended == ENDS[PLACES.get(place, ("", False))[1]], place


class Scene:
    """A Temporal server on a file, and stores of both kinds.

    Args:
        server: The server.
        stores: The stores.
    """

    def __init__(self, server: TemporalServer, stores: list[Store]) -> None:
        self.server = server
        self.stores = stores

    @asynccontextmanager
    async def working(self) -> AsyncIterator[list[tuple[Store, Client]]]:
        """Run the server and a worker for each store; yield a client for each."""
        async with AsyncExitStack() as parts:
            parts.enter_context(self.server.serving())
            temporal = await temporalio.client.Client.connect(self.server.address)
            for store in self.stores:
                await parts.enter_async_context(working(temporal, store.journal, store.queue))
            yield [(store, client_of(temporal, store.journal, store.queue)) for store in self.stores]


@POSTGRESQL_IN_SOAK
async def test_what_temporal_has_lost_is_made_up_for_from_the_journal(
    store_url: str, temporal_executable: Path, tmp_path: Path
) -> None:
    """Every run ends after Temporal's file was replaced by an old copy, or lost, and no recorded step is repeated."""
    server = TemporalServer(temporal_executable, tmp_path)
    async with opened(store_url) as journal:
        stores = [Store(journal, tmp_path / "ledger")]
        scene = Scene(server, stores)
        async with scene.working() as clients:
            await asyncio.gather(*(store.start(client) for store, client in clients))
        server.keep(tmp_path / "copy")
        async with scene.working():
            for store in stores:
                store.ledger.open_gate(store.id_of("twice"), "pay/do")
                await store.ledger.until_called(store.id_of("twice"), "deliver/do/0")
        server.put_back(tmp_path / "copy")
        async with scene.working() as clients:
            await asyncio.gather(*(store.finish(client, "twice") for store, client in clients))
        server.lose()
        async with scene.working() as clients:
            await asyncio.gather(*(store.finish(client, *PLACES) for store, client in clients))


async def test_a_workflow_that_failed_is_started_again(sqlite_url: str, temporal_address: str, tmp_path: Path) -> None:
    """`recover` continues a run whose workflow failed or was terminated."""
    temporal, ledger = await temporalio.client.Client.connect(temporal_address), Ledger(tmp_path)
    async with opened(sqlite_url) as journal:
        queue = f"failed-{journal.store_id}"
        # The worker recovers runs when it starts, so everything happens after that.
        async with working(temporal, journal, queue):
            order = Order(folder=str(tmp_path), held=("pay/do",))
            handle = await client_of(temporal, journal, queue).start(PATIENT, order, id=queue)
            await ledger.until_called(queue, "pay/do/0")
            await temporal.get_workflow_handle(queue).terminate()
            elsewhere = "00000000-0000-0000-0000-000000000000"
            await until_failed(
                await start_workflow(temporal, saga="patient", run_id=queue, store_id=elsewhere, task_queue=queue)
            )
            assert not (await handle.status()).closed
            found = await recover(temporal, journal, task_queue=queue, sagas=None)
            assert (found.started, found.driven, found.refused) == ([queue], [], {})
            ledger.open_gate(queue)
            assert (await handle.result(timeout=HANG)).status is RunStatus.COMPLETED
    assert ledger.called(queue) == ledger.acted(queue) == ["pay/do/0", "deliver/do/0"]


async def until_failed(workflow: temporalio.client.WorkflowHandle[object, object]) -> None:
    """Wait until a workflow has failed; only the test's own bound ends the wait."""
    while (await workflow.describe()).status is not WorkflowExecutionStatus.FAILED:  # noqa: ASYNC110 - a server's state
        await asyncio.sleep(0.02)


async def test_a_run_that_ends_while_it_is_looked_at_is_left_alone(tmp_path: Path, temporal_address: str) -> None:
    """A run that was open when it was listed, and is closed when Temporal is asked, needs nothing."""
    temporal = await temporalio.client.Client.connect(temporal_address)
    ledger = Ledger(tmp_path)
    async with opened(f"sqlite:///{tmp_path / 'events.db'}") as journal:
        queue = run_id = f"ends-{journal.store_id}"
        async with working(temporal, journal, queue):
            handle = await client_of(temporal, journal, queue).start(
                PATIENT, Order(folder=str(tmp_path), held=("pay/do",)), id=run_id
            )
            await ledger.until_called(run_id, "pay/do/0")
            listed, runs = await journal.runs(RunQuery(statuses=OPEN)), journal.runs

            async def listed_before(query: RunQuery) -> Sequence[RunSummary]:
                if query.before is not None:
                    return await runs(query)
                ledger.open_gate(run_id)
                await handle.result(timeout=HANG)
                await temporal.get_workflow_handle(run_id).result()
                return listed

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(journal, "runs", listed_before)
                found = await recover(temporal, journal, task_queue=queue, sagas=None)
    assert [row.run_id for row in listed] == [run_id]
    assert found == Recovery()


async def test_a_store_older_than_temporal_is_refused(tmp_path: Path, temporal_address: str) -> None:
    """A run that is ahead in Temporal stays as it is and is reported, also as drift, until an operator accepts it."""
    temporal = await temporalio.client.Client.connect(temporal_address)
    ledger, order = Ledger(tmp_path), Order(folder=str(tmp_path))
    kept, url = tmp_path / "kept.db", f"sqlite:///{tmp_path / 'events.db'}"
    async with opened(url) as journal:
        queue = f"older-{journal.store_id}"
        client = client_of(temporal, journal, queue)
        # The run is accepted but idle: its next step is a transaction, which would need no participant's
        # answer.
        await client.start(PATIENT, Order(folder=str(tmp_path), away=("deliver/do",)), id=f"{queue}-open")
        await client.start(PATIENT, order, id=f"{queue}-ended")
    shutil.copy(tmp_path / "events.db", kept)
    async with opened(url) as journal, working(temporal, journal, queue):
        client = client_of(temporal, journal, queue)
        assert (await client.result(f"{queue}-ended", timeout=HANG)).status is RunStatus.COMPLETED
        await ledger.until_called(f"{queue}-open", "deliver/do/0")
        await client.start(HOURLY, Order(folder=str(tmp_path), away=("pay/do",)), id=f"{queue}-lost")
        await until(journal, f"{queue}-lost", lambda facts: facts[-1].kind == "StepAttemptFailed")
    shutil.copy(kept, tmp_path / "events.db")  # no other process has the file open, so SQLite has no file next to it
    acted = ledger.acted(f"{queue}-open") + ledger.acted(f"{queue}-ended")
    assert acted == ["pay/do/0", "pay/do/0", "deliver/do/0"]
    async with opened(url) as journal:
        # Temporal updates its list a little later.
        while await unknown_to_store(temporal, journal, task_queue=queue) != [f"{queue}-lost"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        async with working(temporal, journal, queue):
            await until_failed(temporal.get_workflow_handle(f"{queue}-open"))
            found = await recover(temporal, journal, task_queue=queue, sagas=None)
            assert (found.started, found.driven) == ([], [])
            assert {run_id: "is at position 1 in the store" in why for run_id, why in found.refused.items()} == {
                f"{queue}-open": True,
                f"{queue}-ended": True,
            }
            driven, _ = drive_rules(temporal, "", task_queue=queue, nothing_runs=False)
            seen = await scan(driven, journal, RuleState(), 10**15)
            assert {drift.subject: drift.evidence for drift in seen.drifts} == found.refused
            assert {drift.correction for drift in seen.drifts} == {None}
            for run_id in found.refused:
                assert [fact.kind for fact in await journal.facts(run_id)] == ["SagaStarted"]
            assert acted == ledger.acted(f"{queue}-open") + ledger.acted(f"{queue}-ended")
            await recover(temporal, journal, task_queue=queue, sagas=None, accept_older_store=True)
            ledger.open_gate(f"{queue}-open")
            client = client_of(temporal, journal, queue)
            for run_id in found.refused:
                assert (await client.result(run_id, timeout=HANG)).status is RunStatus.COMPLETED
                assert ledger.acted(run_id).count("pay/do/0") == 2
